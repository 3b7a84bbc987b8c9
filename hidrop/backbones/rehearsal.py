"""Whether a tokenizer, an image processor and a processor fit a model: they are tried on one small image.

A checkpoint's files state the image's size, the patches and the placeholder up to three times. transformers loads them
as they are, and a difference shows as a failed cell or, worse, as other tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hidrop.checkpoint_files import in_words
from hidrop.errors import UserError
from hidrop.prompts import PLACEHOLDER

if TYPE_CHECKING:
    from hidrop.backbones.base import Backbone

# What the processor has to know of the model, and what older checkpoints leave out.
FROM_THE_MODEL = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
SHORT_PROMPT = f"USER: {PLACEHOLDER}\nWhat? ASSISTANT:"
SAME = 1e-4  # a ramp from black to white becomes pixels between about -2 and 2
LONGEST_SIDE = 2**12  # pixels that an image may be resized to


def complete(processor: Any, made: Any, stated: Mapping[str, Any]) -> None:
    """Give a processor what its file (`stated`) leaves out, as it is in `made`, the one of the model's config."""
    for name in FROM_THE_MODEL:
        if stated.get(name) is None and hasattr(made, name):
            setattr(processor, name, getattr(made, name))


def rehearse(backbone: Backbone, tokenizer: Any, image_processor: Any, processor: Any, place: str) -> None:
    """Process one small image and its prompt. `backbone` needs a config, but no weights.

    Raises UserError, naming `place` and both values, if the image token is another one or an ordinary word, if the
    pixels do not have the tower's shape or do not show the image, if the processor writes another number of
    placeholders than the image has, or if a short prompt is longer than the model's positions.
    """
    _check_placeholder(backbone, tokenizer, place)
    _check_sizes(backbone, image_processor, place)
    shape = backbone.pixel_shape[-3:]
    height, width = shape[-2], 2 * shape[-1]
    image = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], (height, width, 3))
    wrong = f"{place}: the image processor cannot be used"
    with in_words(wrong, "Correct its section in processor_config.json, or preprocessor_config.json"):
        pixels = np.asarray(image_processor(images=image, return_tensors="np")["pixel_values"])
    if pixels.shape[-3:] != shape or pixels.ndim != len(backbone.pixel_shape) + 1:
        raise UserError(
            f"{place}: the image processor makes images of {_by(pixels.shape[-3:])}, but the vision tower takes "
            f"{_by(shape)}. Correct size and crop_size in processor_config.json (or preprocessor_config.json), or "
            "image_size in config.json"
        )
    if not np.isfinite(pixels).all():
        raise UserError(
            f"{place}: the image processor makes pixels that are not finite. Correct image_mean, image_std and "
            "rescale_factor in processor_config.json (or preprocessor_config.json)"
        )
    if np.ptp(pixels, axis=-1).max() < SAME:
        raise UserError(
            f"{place}: the image processor makes the same pixels of every image. Correct image_std, rescale_factor and "
            "do_rescale in processor_config.json (or preprocessor_config.json)"
        )
    with in_words(f"{place}: the processor cannot be used", "Correct processor_config.json"):
        ids, prompt = (
            np.asarray(processor(images=image, text=text, return_tensors="np")["input_ids"])
            for text in (PLACEHOLDER, SHORT_PROMPT)
        )
    written, wanted = int((ids == backbone.placeholder_id).sum()), backbone.image_tokens(height, width)
    if written != wanted:
        stated = ", ".join(f"{name} {getattr(processor, name, None)}" for name in FROM_THE_MODEL)
        raise UserError(
            f"{place}: the processor writes {written} placeholders for an image that has {wanted} visual tokens "
            f"({stated}). Correct processor_config.json, or remove these fields from it: they follow from config.json"
        )
    if prompt.size >= (longest := backbone.geometry.max_positions):
        raise UserError(
            f"{place}: a short question about an image has {prompt.size} tokens, but the model has only {longest} "
            "positions. Correct text_config.max_position_embeddings in config.json"
        )


def _check_placeholder(backbone: Backbone, tokenizer: Any, place: str) -> None:
    """The id of a visual token must be the tokenizer's placeholder, and not a word that a text can contain."""
    stated, rows = backbone.placeholder_id, backbone.model.config.text_config.vocab_size
    own = tokenizer.get_vocab().get(PLACEHOLDER)
    way = "Correct image_token_index in config.json, or copy the tokenizer that belongs to it"
    if own is not None and own != stated:
        token = tokenizer.convert_ids_to_tokens(stated)
        raise UserError(
            f"{place}: config.json's image_token_index is {stated} (the tokenizer's {token!r}), but the tokenizer's "
            f"{PLACEHOLDER} is {own}. {way}"
        )
    if own is None and stated not in tokenizer.get_added_vocab().values():
        raise UserError(
            f"{place}: config.json's image_token_index is {stated}, which is not a placeholder of the tokenizer. {way}"
        )
    if (largest := max(tokenizer.get_vocab().values(), default=0)) >= rows:
        raise UserError(
            f"{place}: the tokenizer has ids up to {largest}, but the model has {rows} rows of vocabulary. Copy the "
            "tokenizer that belongs to it"
        )


def _check_sizes(backbone: Backbone, image_processor: Any, place: str) -> None:
    """Sizes that an image is resized to, before one is."""
    way = "Correct it in processor_config.json (or preprocessor_config.json)"
    sides: dict[tuple[str, str], int] = {}
    for name in ("size", "crop_size"):
        stated = getattr(image_processor, name, None)
        fields = asdict(stated) if is_dataclass(stated) and not isinstance(stated, type) else stated
        for key, side in fields.items() if isinstance(fields, Mapping) else [("", fields)]:
            if side is None:
                continue
            if type(side) is not int or not 0 < side <= LONGEST_SIDE:
                raise UserError(f"{place}: the image processor's {name} is {side!r} pixels. {way}")
            sides[name, key] = side
    edge, crop = sides.get(("size", "shortest_edge")), sides.get(("crop_size", "height"))
    if edge and crop and edge < crop and getattr(image_processor, "do_center_crop", False):
        raise UserError(
            f"{place}: the image processor resizes to {edge} pixels (size) and then cuts out {crop} (crop_size), so "
            f"that images get black borders. {way}"
        )
    if backbone.geometry.dynamic:
        stated, wanted = (
            sorted(map(tuple, getattr(one, "image_grid_pinpoints", None) or []))
            for one in (image_processor, backbone.model.config)
        )
        if stated != wanted:
            raise UserError(
                f"{place}: the image processor's image_grid_pinpoints are {stated}, config.json's are {wanted}. {way}"
            )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
