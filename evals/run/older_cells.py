"""Cells that an earlier version of the code answered, for `--keep-cells`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.store.cell_files import finished
from evals.store.journal import canonical, header_of
from hidrop.errors import UserError

# The parts of an identity that say which code answered.
CODE = ("source", "numeric")


def older_cell(out: Path, identity: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The newest finished journal of a cell that differs in its code only, with its identity. None without one."""
    wanted = json.loads(canonical(identity))
    found = []
    for path in sorted((out / "samples").glob("*.jsonl")):
        try:
            own = header_of(path)["identity"]
            if own != wanted and _same_but_code(own, wanted) and finished(path):
                found.append((path.stat().st_mtime_ns, path, own))
        except (UserError, OSError):  # `doctor` reports it
            continue
    return max(found)[1:] if found else None


def differences(older: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """The parts of its identity in which an older cell differs from what would be answered today."""
    own, wanted = json.loads(canonical(older)), json.loads(canonical(identity))
    return sorted(name for name in wanted if own[name] != wanted[name])


def _same_but_code(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return own.keys() == wanted.keys() and all(own[name] == wanted[name] for name in wanted.keys() - set(CODE))
