"""The `lmms-eval` protocol asks by the processor's chat template, wherever a checkpoint's files have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evals.tasks.protocol import protocol
from hidrop.models import load, save
from hidrop.pretrained import pretrained

# Neither transformers' default nor ours, with a list of parts as lmms-eval's class llava_hf gives it.
TEMPLATE = (
    "{% for m in messages %}Q: {% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endfor %} A:"
)
BLIND = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
LAYOUTS = {
    "chat_template.jinja": lambda folder: (folder / "chat_template.jinja").write_text(TEMPLATE),
    "chat_template.json": lambda folder: (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": TEMPLATE})
    ),
    "tokenizer_config.json": lambda folder: add(folder / "tokenizer_config.json", chat_template=TEMPLATE),
}


def add(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def checkpoint(loaded: Any, tmp_path: Path) -> Path:
    folder = Path(save(loaded.model, loaded.tokenizer, loaded.image_processor, tmp_path / "tiny"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("processor", [True, False], ids=["with processor_config.json", "without"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_prompt_is_the_processors_in_every_file_layout(
    layout: str, processor: bool, checkpoint: Path, loaded: Any
) -> None:
    LAYOUTS[layout](checkpoint)
    if not processor:
        (checkpoint / "processor_config.json").unlink()
        loaded.image_processor.save_pretrained(checkpoint)
    read = load(checkpoint)
    asked = protocol("lmms-eval").text(read.tokenizer, "Is it red?", 1)
    assert asked == "Q: <image>\nIs it red? A:"
    picture = Image.new("RGB", (40, 32))
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "Is it red?"}]
    turn = [{"role": "user", "content": parts}]
    assert read.processor.apply_chat_template(turn, add_generation_prompt=True) == asked
    inputs = read.processor(text=asked, images=picture, return_tensors="pt")
    ids = protocol("lmms-eval").ids(read.tokenizer, "Is it red?", [16], image_token_id=99)
    assert inputs["input_ids"][0].tolist() == ids


@pytest.mark.parametrize("layout", ["chat_template.jinja", "chat_template.json"])
def test_the_processors_template_wins_over_the_tokenizers(layout: str, checkpoint: Path) -> None:
    from transformers import AutoProcessor

    add(checkpoint / "tokenizer_config.json", chat_template=BLIND)
    LAYOUTS[layout](checkpoint)
    assert load(checkpoint).tokenizer.chat_template == TEMPLATE
    assert pretrained(AutoProcessor, checkpoint, backend="pil").chat_template == TEMPLATE


def test_without_any_template_the_prompt_is_transformers_default(checkpoint: Path) -> None:
    read = load(checkpoint)
    assert read.tokenizer.chat_template is None
    assert protocol("lmms-eval").text(read.tokenizer, "Is it red?", 1) == "USER: <image>\nIs it red? ASSISTANT:"


@pytest.mark.parametrize("text", ["null", "[]", "{}", "{"])
def test_a_broken_template_file_is_an_error_in_words(text: str, checkpoint: Path) -> None:
    from hidrop.errors import UserError

    (checkpoint / "chat_template.json").write_text(text)
    with pytest.raises(UserError, match="chat_template.json: |tokenizer or image processor cannot be loaded"):
        load(checkpoint)
