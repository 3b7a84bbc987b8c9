"""Write a checkpoint in transformers' layout, with the method it was trained with."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hidrop.backbones import family_of
from hidrop.methods import entry_of
from hidrop.reducer import Reducer


def save(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    path: str | Path,
    reducer: Reducer | None = None,
    *,
    dtype: str | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Path:
    """Write model, tokenizer and image processor as one folder that `load` and transformers both read.

    `reducer` is the method the weights were trained with; it rides in config.json under "hidrop" and comes back as
    `Loaded.reducer`. `dtype` ("float16", ...) is the type of the floating-point weights on disk, by default the
    model's own; the model in memory stays as it is. `weights`: the whole state, for a model that holds a part
    (divided over processes). Returns the folder. Raises OSError when it cannot be written.
    """
    import torch

    path = Path(path)
    family = family_of(model.config.to_dict(), type(model).__name__)
    stored = model.dtype if dtype is None else getattr(torch, dtype)
    cast = {
        name: value.detach().to(stored) if value.is_floating_point() else value
        for name, value in (model.state_dict() if weights is None else weights).items()
    }
    # transformers translates the names in memory into the published ones here, so never write raw safetensors.
    with quiet():
        model.save_pretrained(path, state_dict=cast)
    if (path / "model.safetensors").is_file():
        # Of an earlier checkpoint in shards: it would be read instead.
        (path / "model.safetensors.index.json").unlink(missing_ok=True)

    # On a copy: saving must not change the model that training goes on with.
    config = copy.deepcopy(model.config)
    config.dtype = stored
    config.hidrop = entry_of(reducer) if reducer is not None else None
    config.save_pretrained(path)
    tokenizer.save_pretrained(path)
    family.processor_of(model.config, tokenizer, image_processor).save_pretrained(path)
    return path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without progress bars and warnings: what matters of them is checked and raised here.

    Puts back afterwards what the user had.
    """
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
