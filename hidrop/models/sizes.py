"""The sizes in a checkpoint's config.json, without importing transformers where that is not needed.

transformers reads the file, because fields that are not in it get the defaults of its config classes. Importing it
takes seconds, so what followed from a file's content is remembered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hidrop.backbones import Backbone
from hidrop.geometry import Geometry
from hidrop.remembered import recall, remember

KIND = "sizes"
# The embedded models, whose first plan is fast as well: their config.json (see `_content`), and its sizes.
EMBEDDED = "d7a9256f77818b278cde97704d7858500ed44ef970ea299cf52cd04f25c483e6"
EMBEDDED_SIZES = Geometry(12, 128, 352, 4, 4, 32, 646, 100, max_positions=2048)
# transformers reads another file that this field names.
ELSEWHERE = "configuration_files"


def geometry_in(family: type[Backbone], path: Path, raw: Mapping[str, Any]) -> Geometry:
    """The sizes in the config.json (`raw`) of the folder `path`, in transformers' layout.

    Raises UserError like `family.read_config`.
    """
    if _content(raw) == EMBEDDED:
        return EMBEDDED_SIZES
    of = {"layout": "transformers", "config": raw}
    if (stored := recalled(of)) is not None:
        return stored
    found = family.geometry_of(family.read_config(path))
    if ELSEWHERE not in raw:
        remember(KIND, of, asdict(found))
    return found


def recalled(of: Any) -> Geometry | None:
    """The sizes that were remembered of `of`."""
    stored = recall(KIND, of)
    try:
        return None if stored is None else Geometry(**stored)
    except TypeError:  # somebody changed the file
        return None


def _content(raw: Mapping[str, Any]) -> str:
    """A hash of a config without the method that the model was trained with, which changes no size."""
    sizes = {name: value for name, value in raw.items() if name != "hidrop"}
    return hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()
