"""Copies of checkpoints with one thing changed in their JSON files, for tests of files that are wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Edit = Callable[[dict[str, Any]], object]


def edited(source: Path, folder: Path, edits: dict[str, Edit]) -> Path:
    """Copy `source` to the new `folder`. `edits`: what to change in the content of a JSON file, by its stem."""
    shutil.copytree(source, folder)
    for stem, edit in edits.items():
        file = folder / f"{stem}.json"
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))
    return folder
