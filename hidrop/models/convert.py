"""Write a checkpoint of LLaVA's original layout in transformers' layout."""

from __future__ import annotations

from pathlib import Path

from hidrop.errors import UserError
from hidrop.models.loading import load
from hidrop.models.original import is_original
from hidrop.models.saving import save
from hidrop.models.sources import find, read_config


def convert(src: str | Path, dst: str | Path, *, allow_download: bool = False) -> Path:
    """Write a checkpoint in the original layout (`src`: folder or Hub id) to `dst` in transformers' layout.

    Weights keep their stored type. Returns the folder. Raises UserError when `src` is not such a checkpoint or is
    broken, and when `dst` is there already.
    """
    dst = Path(dst)
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise UserError(f"{dst}: already there and not empty. Name a new folder")
    folder = find(src, allow_download=allow_download)
    if not is_original(read_config(folder)):
        raise UserError(f"{src}: not in LLaVA's original layout, so there is nothing to convert")
    loaded = load(src, dtype="auto", allow_download=allow_download)
    try:
        return save(loaded.model, loaded.tokenizer, loaded.image_processor, dst, loaded.reducer)
    except OSError as error:
        raise UserError(f"{dst}: cannot be written ({error}). Name a folder that can") from None
