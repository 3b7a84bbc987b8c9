"""Tokenizer, image processor and processor of a checkpoint in transformers' layout, without torchvision.

transformers' processors of families with videos ask for a video processor, which needs torchvision, and some of its
classes for images are hidden without torchvision although they do not use it. So this module builds a processor from
the parts that images need. torchvision may be absent, broken or present: images go through PIL everywhere, so that
pixels are the same.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidrop.checkpoint_files import in_words, read_object
from hidrop.errors import UserError, shown
from hidrop.pretrained import pretrained

if TYPE_CHECKING:
    from hidrop.backbones.checkpoint_family import CheckpointFamily

# Where an image processor's settings are: in a section of the first file, or alone in the second.
FILES = ("processor_config.json", "preprocessor_config.json")


def read(family: type[CheckpointFamily], path: Path, config: Any) -> tuple[Any, Any, Any]:
    """Tokenizer, image processor and processor out of a folder.

    Arguments of the processor are those that its file states, and otherwise follow from the model's `config`. Raises
    UserError for an image processor of another family.
    """
    from transformers import AutoTokenizer

    _check_kind(family, path)
    tokenizer = pretrained(AutoTokenizer, path)
    image_processor = pretrained(image_processor_class(family), path)
    file = path / FILES[0]
    stated = read_object(file) if file.is_file() else {}
    settings = {name: stated[name] for name in family.processor_settings(config) if stated.get(name) is not None}
    return tokenizer, image_processor, family.processor_of(config, tokenizer, image_processor, **settings)


def image_processor_class(family: type[CheckpointFamily]) -> Any:
    """The class of transformers that works on PIL images."""
    folder = family.image_processor_folder
    module = importlib.import_module(f"transformers.models.{folder}.image_processing_pil_{folder}")
    return getattr(module, family.image_processor_class)


@functools.cache
def images_only(processor_class: str, named: str) -> Any:
    """A processor class of transformers without a video processor. It is called `named`, as files will say.

    A processor takes its parts in the order of `get_attributes`, and checks that each is there.
    """
    import transformers

    base = getattr(transformers, processor_class)
    parts = [name for name in base.get_attributes() if name != "video_processor"]

    def validate_inputs(self: Any, images: Any = None, text: Any = None, **given: Any) -> None:
        """hidrop writes the placeholders of videos itself. Later than 5.17, transformers misses the videos then."""
        if isinstance(text, list) and (video := getattr(self, "video_token", None)):
            text = [one.replace(video, "") for one in text]
        base.validate_inputs(self, images=images, text=text, **given)

    own = {"get_attributes": classmethod(lambda cls: list(parts)), "validate_inputs": validate_inputs}
    return type(named, (base,), own)


def _check_kind(family: type[CheckpointFamily], path: Path) -> None:
    """Raises UserError when a file states an image processor of another family.

    Names end in "Fast" or "Pil" for classes that work on other kinds of images in the same way.
    """
    for name in FILES:
        file = path / name
        if not file.is_file():
            continue
        with in_words(f"{file}: cannot be read"):
            content = read_object(file)
            section = content.get("image_processor", {}) if name == FILES[0] else content
        if not isinstance(section, dict):
            raise UserError(f"{file}: image_processor is {shown(section)}, not an object of fields. Correct it")
        stated = section.get("image_processor_type")
        if stated is None:
            continue
        own = {family.image_processor_class.removesuffix("Pil"), *family.image_processor_aliases}
        if not isinstance(stated, str) or stated.removesuffix("Fast").removesuffix("Pil") not in own:
            raise UserError(
                f"{file}: image_processor_type is {shown(stated)}, but {family.title} takes a "
                f"{' or '.join(sorted(own))}. Copy the file that belongs to this model"
            )
