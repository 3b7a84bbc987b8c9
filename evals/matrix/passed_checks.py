"""Checks of a checkpoint that passed. They are not done again until something that they depend on changes.

They need transformers, which takes seconds to import, and `run` does them before it sees that every cell is finished.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from evals.matrix.schema import ModelEntry
from hidrop.errors import UserError
from hidrop.reducer import Reducer
from hidrop.remembered import recall, remember, states

KIND = "checks"
# What the checks of a model depend on besides the code; None where that is not known.
Basis = dict[str, Any] | None


def basis(spec: ModelEntry, protocols: Iterable[str], filmed: str | None, reducers: Iterable[Reducer]) -> Basis:
    """The files and settings of a model's checks. filmed: the protocol under which it is shown videos.

    None for files that are not there or have just changed, for methods with files of their own, and for LLaVA's
    original layout, whose files only torch can tell.
    """
    from hidrop.models import checkpoint_files
    from hidrop.models.original import is_original
    from hidrop.models.sources import find, read_config

    if any(reducer.has_files for reducer in reducers):
        return None
    try:
        if is_original(read_config(find(spec.source))):
            return None
        files = states(checkpoint_files(spec.source))
    except (UserError, OSError):
        return None
    if files is None:
        return None
    film = None if filmed is None else [filmed, spec.frames, spec.fps]
    return {"files": files, "limits": asdict(spec.pixel_limits), "protocols": sorted(protocols), "film": film}


def passed(of: Basis) -> bool:
    """Whether checks with this basis passed in an earlier process."""
    return of is not None and recall(KIND, of) is True


def note(of: Basis) -> None:
    """Remember that the checks passed."""
    if of is not None:
        remember(KIND, of, True)
