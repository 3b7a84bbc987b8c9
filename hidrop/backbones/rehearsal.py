"""Whether a tokenizer, an image processor and a processor fit a model: they are tried on one small image.

A checkpoint's files state the image's size, the patches and the placeholder up to three times. transformers loads them
as they are, and a difference shows as a failed cell or, worse, as other tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hidrop.backbones.config_fields import field_name, refuse
from hidrop.checkpoint_files import in_words
from hidrop.errors import UserError

if TYPE_CHECKING:
    from hidrop.backbones.base import Backbone

SHORT_PROMPT = "USER: {}\nWhat? ASSISTANT:"
SAME = 1e-4  # a ramp from black to white becomes pixels between about -2 and 2
LONGEST_SIDE = 2**12  # pixels that an image may be resized to
WAY = "Correct it in processor_config.json (or preprocessor_config.json)"


def rehearse(backbone: Backbone, tokenizer: Any, image_processor: Any, processor: Any, place: str) -> None:
    """Process one small image and its prompt. `backbone` needs a config, but no weights.

    Raises UserError, naming `place` and both values, if the image token is another one or an ordinary word, if the
    pixels do not have the tower's shape or do not show the image, if the processor writes another number of
    placeholders than the image has, or if a short prompt is longer than the model's positions.
    """
    _check_placeholder(backbone, tokenizer, processor, place)
    with in_words(f"{place}: the image processor cannot be used", WAY):
        problems = list(backbone.processor_problems(backbone.model.config, image_processor))
    refuse((f"{one}. {WAY}" for one in problems), place)
    height, width = backbone.trial_size
    image = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], (height, width, 3))
    wrong = f"{place}: the image processor cannot be used"
    with in_words(wrong, "Correct its section in processor_config.json, or preprocessor_config.json"):
        pixels = np.asarray(image_processor(images=image, return_tensors="np")["pixel_values"])
    _check_pixels(backbone, pixels, place)
    text = backbone.prompt_placeholder(tokenizer, processor)
    with in_words(f"{place}: the processor cannot be used", "Correct processor_config.json"):
        inputs, prompt = (
            processor(images=image, text=asked, return_tensors="pt") for asked in (text, SHORT_PROMPT.format(text))
        )
        vision = backbone.vision(inputs)
        tower = None if vision is None else sum(vision.sizes)
    written = int((inputs["input_ids"] == backbone.placeholder_id).sum())
    wanted = backbone.image_tokens(height, width, image_processor)
    if written == tower != wanted:
        raise UserError(
            f"{place}: the image processor makes {written} visual tokens of {width} x {height} pixels, where "
            f"its sizes say {wanted}. Correct size and max_image_size in processor_config.json (or "
            "preprocessor_config.json)"
        )
    if not written == wanted == tower:
        settings = backbone.processor_settings(backbone.model.config)
        stated = ", ".join(f"{name} {getattr(processor, name, None)}" for name in settings)
        raise UserError(
            f"{place}: the processor writes {written} placeholders for an image that has {tower} visual tokens"
            f"{f' ({stated})' if stated else ''}. Correct processor_config.json, or remove these fields from it: they "
            "follow from config.json"
        )
    if prompt["input_ids"].numel() >= (longest := backbone.geometry.max_positions):
        raise UserError(
            f"{place}: a short question about an image has {prompt['input_ids'].numel()} tokens, but the model has "
            f"only {longest} positions. Correct text_config.max_position_embeddings in config.json"
        )


def side_problems(image_processor: Any) -> Iterator[str]:
    """Sizes that an image is resized to, in pixels of a side, and that one is."""
    sides: dict[tuple[str, str], int] = {}
    for name in ("size", "crop_size", "max_image_size"):
        for key, side in _sizes(image_processor, name):
            if type(side) is not int or not 0 < side <= LONGEST_SIDE:
                yield f"the image processor's {name} is {side!r} pixels"
                return
            sides[name, key] = side
    edge, crop = sides.get(("size", "shortest_edge")), sides.get(("crop_size", "height"))
    if edge and crop and edge < crop and getattr(image_processor, "do_center_crop", False):
        yield (
            f"the image processor resizes to {edge} pixels (size) and then cuts out {crop} (crop_size), so that images "
            "get black borders"
        )


def _sizes(image_processor: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The numbers of a field such as `size`, each with its key."""
    stated = getattr(image_processor, name, None)
    fields = asdict(stated) if is_dataclass(stated) and not isinstance(stated, type) else stated
    for key, side in fields.items() if isinstance(fields, Mapping) else [("", fields)]:
        if side is not None:
            yield key, side


def _check_pixels(backbone: Backbone, pixels: np.ndarray, place: str) -> None:
    unit = backbone.pixel_unit
    if pixels.shape[-len(unit) :] != unit or pixels.ndim != len(backbone.pixel_shape) + backbone.pixel_rows:
        raise UserError(
            f"{place}: the image processor makes images of {_by(pixels.shape[-len(unit) :])}, but the vision tower "
            f"takes {_by(unit)}. Correct size and crop_size in processor_config.json (or preprocessor_config.json), or "
            "image_size in config.json"
        )
    if not np.isfinite(pixels).all():
        raise UserError(
            f"{place}: the image processor makes pixels that are not finite. Correct image_mean, image_std and "
            "rescale_factor in processor_config.json (or preprocessor_config.json)"
        )
    if np.ptp(pixels, axis=-1 if len(unit) > 1 else 0).max() < SAME:
        raise UserError(
            f"{place}: the image processor makes the same pixels of every image. Correct image_std, rescale_factor and "
            "do_rescale in processor_config.json (or preprocessor_config.json)"
        )


def _check_placeholder(backbone: Backbone, tokenizer: Any, processor: Any, place: str) -> None:
    """The id of a visual token must be the tokenizer's placeholder, and not a word that a text can contain."""
    stated, rows = backbone.placeholder_id, backbone.model.config.text_config.vocab_size
    key, token = field_name(backbone.model.config, "image_token_id"), backbone.placeholder_of(tokenizer, processor)
    own = tokenizer.get_vocab().get(token)
    way = f"Correct {key} in config.json, or copy the tokenizer that belongs to it"
    if own is not None and own != stated:
        found = tokenizer.convert_ids_to_tokens(stated)
        raise UserError(
            f"{place}: config.json's {key} is {stated} (the tokenizer's {found!r}), but the tokenizer's "
            f"{token} is {own}. {way}"
        )
    if own is None and stated not in tokenizer.get_added_vocab().values():
        raise UserError(f"{place}: config.json's {key} is {stated}, which is not a placeholder of the tokenizer. {way}")
    if (largest := max(tokenizer.get_vocab().values(), default=0)) >= rows:
        raise UserError(
            f"{place}: the tokenizer has ids up to {largest}, but the model has {rows} rows of vocabulary. Copy the "
            "tokenizer that belongs to it"
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
