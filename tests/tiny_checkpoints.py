"""Tiny random checkpoints of multimodal families, in the files that transformers 5.17 writes.

    python -m tests.tiny_checkpoints DIR [family ...]     # writes DIR/qwen2_5_vl, DIR/gemma3, ...

The families are in hidrop/testing/tiny: `make_model` returns the model alone. `write` fills a whole folder: config,
weights, tokenizer, processor, chat template and generation settings. `read_processor` loads a processor for images.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hidrop.pretrained import pretrained
from hidrop.testing.tiny.family import LAYERS
from hidrop.testing.tiny.models import FAMILIES, image_processor_class, images_only, make_model, make_processor

__all__ = [
    "FAMILIES",
    "LAYERS",
    "image_processor_class",
    "images_only",
    "make_model",
    "make_processor",
    "read_processor",
    "write",
]


def read_processor(folder: Path) -> Any:
    """The processor of a folder that `write` filled, for images."""
    import transformers

    made = FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]()
    stated = json.loads((folder / "processor_config.json").read_text())
    own = {name: stated[name] for name in made.processor}
    return images_only(made.processor_class)(
        image_processor=pretrained(image_processor_class(made), folder),
        tokenizer=pretrained(transformers.AutoTokenizer, folder),
        chat_template=(folder / "chat_template.jinja").read_text(),
        **own,
    )


def write(family: str, folder: Path, **changes: Any) -> Path:
    """Fill a folder with a checkpoint of the family; `changes` are those of `make_model`. Returns the folder."""
    from transformers import GenerationConfig

    made = FAMILIES[family]()
    model = make_model(family, **changes)
    ends = {"bos_token_id": made.bos, "eos_token_id": made.eos, "pad_token_id": made.pad}
    ids = {name: made.token_id(token) for name, token in ends.items() if token}
    model.generation_config = GenerationConfig(**{**ids, **made.generation})
    model.save_pretrained(folder)

    processor = make_processor(family)
    processor.save_pretrained(folder)
    file = folder / "processor_config.json"
    stated = json.loads(file.read_text())
    if made.video:
        stated["video_processor"] = made.video
    file.write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n")
    return folder


if __name__ == "__main__":
    for chosen in sys.argv[2:] or FAMILIES:
        print(write(chosen, Path(sys.argv[1]) / chosen))
