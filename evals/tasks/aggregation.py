"""Calling lmms-eval's aggregation functions: with the same guesses each time, and without traces of earlier calls."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import random
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hidrop.errors import UserError, in_a_line


def aggregation_of(config: Mapping[str, Any], metric: str) -> Any:
    """The aggregation of a metric in a task's configuration. Raises UserError for a metric that it does not have."""
    from lmms_eval.api.registry import get_aggregation

    for one in config.get("metric_list") or ():
        if one["metric"] == metric and "aggregation" in one:
            found = one["aggregation"]
            return get_aggregation(found) if isinstance(found, str) else found
    raise UserError(f"{config.get('task')}: lmms-eval's task has no aggregation of {metric}")


def aggregated(aggregation: Any, metric: str, items: Sequence[Any], name: str) -> tuple[Any, dict[str, bytes]]:
    """The aggregate of a metric's items in a task called `name`, and the files that the aggregation wrote.

    Raises UserError when it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given = {"args": SimpleNamespace(output_path=scratch)} if "args" in _parameters(aggregation) else {}
        try:
            with guesses_seeded(name, -1), globals_kept(aggregation), contextlib.redirect_stdout(io.StringIO()):
                value = aggregation(copy.deepcopy(list(items)), **given)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{name}: lmms-eval's aggregation of {metric} failed: {in_a_line(error)}. The answers are kept"
            ) from error
        written = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
        return value, {path.name: path.read_bytes() for path in written}


@contextlib.contextmanager
def globals_kept(function: Any) -> Iterator[None]:
    """A block after which a function's module has the global containers that it had before.

    Some aggregations count in them, so that a second call would give twice the number.
    """
    space = getattr(function, "__globals__", {})
    before = {
        name: copy.deepcopy(value)
        for name, value in space.items()
        if isinstance(value, dict | list | set) and not name.startswith("__")
    }
    try:
        yield
    finally:
        space.update(before)


def _parameters(function: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a built-in function
        return {}


@contextlib.contextmanager
def guesses_seeded(task: str, doc_id: int) -> Iterator[None]:
    """A block in which random numbers depend on the document only.

    Some tasks guess a letter when an answer names none. With one seed for a whole run, the guess would depend on all
    documents before it, and a reduced model would get another guess than vanilla for the same answer.
    """
    import numpy as np

    seed = zlib.crc32(f"{task} {doc_id}".encode())
    before, numbers = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numbers)
