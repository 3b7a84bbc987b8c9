"""Data whose content is replaced under the same name, size and time: datasets' own cache would not notice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TaskSpec, checks, data, missing
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


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget what a process knows, as if another one went on. Files are remembered at once."""
    monkeypatch.setattr("hidrop.remembered.SETTLED", -1.0)

    def other() -> None:
        checks._problems.cache_clear()
        data._content.cache_clear()

    other()
    return other


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks whose files were read and checked."""
    found: list[str] = []
    real = checks._found
    monkeypatch.setattr(checks, "_found", lambda spec, files: found.append(spec.name) or real(spec, files))
    return found


def test_data_without_problems_is_not_read_by_the_next_process_and_changed_data_is(
    tmp_path: Path,
    make_rows: Callable[..., Any],
    write_parquet: Callable[..., None],
    processes: Callable[[], None],
    reads: list[str],
) -> None:
    path, spec = tmp_path / "pope/test.parquet", TaskSpec("pope", str(tmp_path))
    write_parquet(make_rows("pope"), path)
    for _ in range(2):
        assert missing(spec) == []
        processes()
    assert reads == ["pope"]
    path.write_bytes(path.read_bytes()[:-8])
    for count in (2, 3):
        assert "cannot read" in missing(spec)[0]
        assert len(reads) == count, "problems are found every time"
        processes()


def test_data_with_images_in_files_of_their_own_is_read_every_time(
    tmp_path: Path, make_rows: Callable[..., Any], processes: Callable[[], None], reads: list[str]
) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    spec, (first, *rest) = TaskSpec("pope", str(tmp_path)), make_rows("pope")
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope" / "0.png").write_bytes(first["image"]["bytes"])
    rows = [{**first, "image": {"bytes": None, "path": "0.png"}}, *rest]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pope" / "test.parquet")
    assert missing(spec) == []
    (tmp_path / "pope" / "0.png").unlink()
    processes()
    assert "0.png" in missing(spec)[0] and len(reads) == 2


@pytest.mark.parametrize(("size", "times"), [(data.LARGE, 1), (data.LARGE - 1, 2)])
def test_the_next_process_does_not_read_a_large_file_for_its_digest(
    size: int, times: int, tmp_path: Path, processes: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    (tmp_path / "file").write_bytes(b"x" * size)
    monkeypatch.setattr("hidrop.file_digests.cache_folder", lambda: tmp_path / "cache")
    read, real = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *parts: read.append(1) or real(*parts))
    for _ in range(2):
        assert data.content_of(tmp_path / "file") == hashlib.sha256(b"x" * size).hexdigest()
        processes()
    assert len(read) == times
