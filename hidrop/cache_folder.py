"""Where things are kept that can be made again: embedded data, digests of large files."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$HIDROP_CACHE, else hidrop/ below $XDG_CACHE_HOME or ~/.cache. It need not exist yet."""
    if own := os.environ.get("HIDROP_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hidrop"
