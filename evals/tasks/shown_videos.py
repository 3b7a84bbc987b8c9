"""The videos that a task of lmms-eval without a class here shows: only its own functions know them."""

from __future__ import annotations

import functools
from pathlib import Path

from evals.tasks.build import build, quiet
from evals.tasks.data import TaskSpec, data_digest
from evals.tasks.video_files import digest_of


def shown_digest(spec: TaskSpec) -> str:
    """A digest of the files of all documents, for a cell's identity."""
    return _digest(spec, data_digest(spec))


@functools.lru_cache(maxsize=64)  # every cell of a matrix asks; `data` changes when the documents do
def _digest(spec: TaskSpec, data: str) -> str:
    with quiet():
        task, found = build(spec), dict[Path, None]()
        for doc in task.eval_docs:
            try:
                shown = task.doc_to_visual(doc) or ()
            except Exception:  # of lmms-eval's function: the document's sample fails with the same error
                continue
            found |= dict.fromkeys(Path(one) for one in shown if isinstance(one, str))
    return digest_of(list(found))
