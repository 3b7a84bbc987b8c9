"""Hints that name the command of a matrix: what they say can be pasted, as far as the folder tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.run.failures import failed_before
from evals.store.result_document import RESULTS
from evals.store.run_command import folder_of, run_command
from evals.store.timings_document import TIMINGS
from hidrop.errors import UserError


def test_the_command_names_the_matrix_of_the_folder(tmp_path: Path) -> None:
    assert run_command(Path("results/mini")) == "run.py run mini"
    assert run_command(tmp_path / "mini") == f"run.py run mini --out {tmp_path / 'mini'}"
    assert run_command(tmp_path) == f"run.py run MATRIX --out {tmp_path}"
    (tmp_path / "matrix.yaml").write_text("")
    assert run_command(tmp_path) == f"run.py run {tmp_path}/matrix.yaml --out {tmp_path}"
    assert run_command(Path("my results")) == "run.py run MATRIX --out 'my results'"


def test_the_folder_of_a_file(tmp_path: Path) -> None:
    for file in ("results/mini/leaderboard.json", "results/mini/profiles/a.json", "results/mini", "HEAD:results/mini"):
        assert folder_of(file) == Path("results/mini")


@pytest.mark.parametrize(("kind", "name"), [(RESULTS, "leaderboard.json"), (TIMINGS, "profiles/a.json")])
def test_a_file_that_cannot_be_read_names_the_command_that_writes_it(kind: object, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    with pytest.raises(UserError, match=rf"`run\.py run smoke --out {folder}` writes it"):
        kind.read(folder / name)  # type: ignore[attr-defined]


def test_retry_without_failures_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"`run\.py run MATRIX --out {tmp_path}` runs what is missing"):
        failed_before([], tmp_path)
