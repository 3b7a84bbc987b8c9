"""The embedded models' chat template: a text with placeholders, or transformers' list of parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jinja2 import TemplateError
from PIL import Image

from hidrop.methods import build
from hidrop.mini.training.loop import corpus_tokenizer
from hidrop.models import Loaded, load
from hidrop.models.sources import MINI, MINI_NAMES
from hidrop.prompts import CHAT_TEMPLATE
from hidrop.runtime import reduce

QUESTION = "Which digit is at north?"


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("mini:vanilla")


def turn(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


def image() -> dict[str, Any]:
    return {"type": "image", "image": Image.new("RGB", (80, 80), (200, 30, 30))}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize("name", MINI_NAMES)
def test_every_embedded_checkpoint_has_the_template_of_the_code(name: str) -> None:
    assert (MINI / name / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_a_new_embedded_tokenizer_has_it_too() -> None:
    assert corpus_tokenizer().chat_template == CHAT_TEMPLATE


def test_a_list_of_parts_and_a_text_with_placeholders_give_the_same_prompt(loaded: Loaded) -> None:
    said = [
        turn(text(QUESTION), image(), image()),  # images come first, wherever they are in the list
        turn(text("7"), role="assistant"),
        turn(text("And its color?")),
    ]
    flat = [
        {"role": "user", "content": f"<image>\n<image>\n{QUESTION}"},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "And its color?"},
    ]
    wanted = f"USER: <image>\n<image>\n{QUESTION} ASSISTANT: 7</s>USER: And its color? ASSISTANT:"
    for messages in (said, flat):
        made = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert made == wanted
    assert loaded.processor.apply_chat_template(said, add_generation_prompt=True) == wanted


def test_a_system_turn_is_text_without_a_name_and_texts_of_a_turn_are_apart(loaded: Loaded) -> None:
    messages = [turn(text("Be short."), role="system"), turn(text("One."), image(), text("Two."))]
    wanted = "Be short. USER: <image>\nOne. Two. ASSISTANT:"
    for tool in (loaded.tokenizer, loaded.processor):
        assert tool.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == wanted


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (turn(text("x"), role="tool"), "unknown role tool: use system, user or assistant"),
        (turn({"type": "audio", "audio": "a.wav"}, text("x")), "unknown part audio: use image or text"),
    ],
)
def test_what_the_template_cannot_show_is_an_error(message: dict[str, Any], error: str, loaded: Loaded) -> None:
    with pytest.raises(TemplateError, match=error):
        loaded.tokenizer.apply_chat_template([message], tokenize=False)


def test_the_processor_and_a_pipeline_answer_as_the_evaluation_does(loaded: Loaded) -> None:
    from transformers import pipeline

    from hidrop.prompts import pad_to_square

    messages = [turn(image(), text(QUESTION))]
    inputs = loaded.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    words = loaded.tokenizer(f"USER: <image>\n{QUESTION} ASSISTANT:").input_ids
    placeholder = loaded.backbone.placeholder_id
    wanted = [i for token in words for i in ([token] * 100 if token == placeholder else [token])]
    assert inputs["input_ids"][0].tolist() == wanted
    pixels = loaded.image_processor(images=[pad_to_square(image()["image"], (0, 0, 0))], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], pixels["pixel_values"])
    with reduce(loaded.model, build("fastv", {"keep": 20})) as reduction:
        ids = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, len(wanted) :]
        answer = loaded.tokenizer.decode(ids, skip_special_tokens=True)
        made = pipeline("image-text-to-text", model=loaded.model, processor=loaded.processor)(
            text=messages, max_new_tokens=4, return_full_text=False
        )
        assert reduction.trace.entering == reduction.plan.entering
    assert answer.strip() and made[0]["generated_text"] == answer
