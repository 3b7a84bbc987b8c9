"""Data whose content is replaced under the same name, size and time: datasets' own cache would not notice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evals.tasks import TaskSpec
from evals.tasks.build import build
from evals.tasks.data import data_digest


def test_replaced_data_is_read_again_and_has_another_digest(
    tmp_path: Path, make_rows: Callable[..., Any], write_parquet: Callable[..., None]
) -> None:
    path, spec = tmp_path / "pope/test.parquet", TaskSpec("pope", str(tmp_path))
    found = []
    for question in ("Is there a red car?", "Is there a big car?"):
        rows = [{**row, "question": question} for row in make_rows("pope")]
        write_parquet(rows, path)
        os.utime(path, ns=(1_000_000_000, 1_000_000_000))
        docs = build(spec).eval_docs_no_media
        found.append((docs[0]["question"], data_digest(spec), path.stat().st_size))
    (first, before, size), (second, after, same) = found
    assert size == same, "the test needs files of equal size"
    assert (first, second) == ("Is there a red car?", "Is there a big car?")
    assert before != after
