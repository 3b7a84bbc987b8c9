"""Whether a checkpoint is whole: everything that `load` would refuse, found without reading or making any weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hidrop.backbones import Backbone, family_of
from hidrop.backbones.pixel_limits import NO_LIMITS, PixelLimits
from hidrop.backbones.runnable import check_runs
from hidrop.checkpoint_files import in_words
from hidrop.errors import UserError
from hidrop.geometry import Geometry
from hidrop.methods import build_found
from hidrop.models.answer_ends import check_ends
from hidrop.models.headers import check_weights
from hidrop.models.original import is_original
from hidrop.models.saving import quiet
from hidrop.models.sources import find, read_config
from hidrop.pretrained import pretrained
from hidrop.reducer import Reducer


@dataclass(frozen=True)
class Whole:
    """What a whole checkpoint has besides weights. `backbone` has a config and no model (see `Backbone.of_config`)."""

    backbone: Backbone
    tokenizer: Any
    image_processor: Any
    processor: Any


def check(source: str | Path, limits: PixelLimits = NO_LIMITS) -> Whole:
    """Raise what `load` would raise for a checkpoint on this machine, with a user's `limits` of pixels.

    It reads all small files and the headers of all weight files, and tries tokenizer and image processor on an image.
    """
    path = find(source)
    raw = read_config(path)
    with quiet():
        if not is_original(raw):
            return whole(path, raw, family_of(raw, f"{path}/config.json"), limits)
        from hidrop.backbones.llava import Llava
        from hidrop.models.original import tensors

        found = tensors.check(path, raw)
        check_ends(path, found.described.rows)
        backbone = Llava.of_config(found.described.config)
        backbone.limit_pixels(found.described.config, found.image_processor, limits)
        return Whole(backbone, found.tokenizer, found.image_processor, found.processor)


def family(source: str | Path) -> type[Backbone]:
    """The family of a checkpoint, by its config.json. Raises UserError like `peek`."""
    path = find(source, config_only=True)
    raw = read_config(path)
    if not is_original(raw):
        return family_of(raw, f"{path}/config.json")
    from hidrop.backbones.llava import Llava

    return Llava


def whole(path: Path, raw: dict[str, Any], family: type[Backbone], limits: PixelLimits = NO_LIMITS) -> Whole:
    """A checkpoint in transformers' layout, with its config.json (`raw`). Raises UserError like `check`."""
    from transformers import GenerationConfig

    config = family.read_config(path)
    trained_with(raw, path, family.geometry_of(config))
    check_weights(path, family.model_class, config)
    check_runs(family, config, f"{path}/config.json")
    check_ends(path, config.text_config.vocab_size)
    tokenizer, image_processor, processor = family.read_processing(path, config)
    family.limit_pixels(config, image_processor, limits)
    if (path / "generation_config.json").is_file():
        with in_words(f"{path}/generation_config.json: transformers cannot read it"):
            pretrained(GenerationConfig, path)
    return Whole(family.of_config(config), tokenizer, image_processor, processor)


def trained_with(raw: dict[str, Any], path: Path, geometry: Geometry) -> Reducer | None:
    """The method under config key "hidrop": {"name": ..., its fields}."""
    entry = raw.get("hidrop")
    if entry is None:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise UserError(f'{path}/config.json: hidrop: expected {{"name": <method>, <its fields>}}, found {entry!r}')
    try:
        reducer = build_found(entry)
        reducer.plan(geometry)
    except ValueError as error:
        raise UserError(f"{path}/config.json: hidrop: {error}") from None
    return reducer
