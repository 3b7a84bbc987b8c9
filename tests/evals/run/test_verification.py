"""`verify`: random cells of a real run, run again and compared with its journals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.cli import main
from evals.store.cell_files import place
from evals.store.folders import read_document, samples_file
from evals.store.journal import Lines
from evals.store.result_document import cell_key
from evals.store.run_command import run_command
from tests.evals.run.small_matrix import small_matrix

KEY = "vanilla/fastv/pope"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with small.yaml and with the results `out` of its four cells, 8 samples in batches of 4."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "small.yaml").write_text(small_matrix(8))
    assert main(["run", str(folder / "small.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder


@pytest.fixture
def results(measured: Path, tmp_path: Path) -> Path:
    """A copy of the results that a test may change."""
    shutil.copytree(measured / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def verify(measured: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, Any]]:
    """verify(folder, option, ...): the exit code, what it printed, and its document."""

    def run(folder: Path, *line: str) -> tuple[int, str, Any]:
        capsys.readouterr()
        code = main(["verify", str(folder), "--matrix", str(measured / "small.yaml"), "--json", *line])
        captured = capsys.readouterr()
        return code, captured.err, json.loads(captured.out.splitlines()[-1])

    return run


def rewritten(
    folder: Path, identity: dict[str, Any] | None = None, change: Callable[[dict[str, Any]], None] | None = None
) -> None:
    """Write the journal of KEY again: with another identity, and with each answer changed."""
    document = read_document(folder)
    cell = next(cell for cell in document["cells"] if cell_key(cell) == KEY)
    path = samples_file(folder, cell)
    assert path is not None
    lines = Lines.of(path)
    records: list[Any] = [dict(record) for record in lines.records]
    for record in records:
        if change and record["kind"] == "answer":
            change(record)
    new = {**lines.header["identity"], **(identity or {})}
    path.unlink()
    cell["id"] = Lines(path, new).id
    Lines(place(folder, KEY, cell["id"]), new).replace(records)
    (folder / "leaderboard.json").write_text(json.dumps(document))


def bytes_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_cells_that_run_again_give_the_same_answers_and_the_folder_stays_as_it_was(
    measured: Path, verify: Callable[..., tuple[int, str, Any]]
) -> None:
    before = bytes_of(measured)
    code, text, found = verify(measured / "out")
    assert code == 0 and found["same"]
    assert "4 of 4 finished cells, drawn with seed 0" in text and "4 cells run again: 4 same" in text
    assert [(one["asked"], one["samples"], one["changed"]) for one in found["cells"]] == [(8, 8, [])] * 4
    assert all(one["value_then"] == one["value_now"] is not None for one in found["cells"])
    assert bytes_of(measured) == before


def test_the_draw_follows_from_the_seed(measured: Path, verify: Callable[..., tuple[int, str, Any]]) -> None:
    draws = [verify(measured / "out", "--cells", "1", "--samples", "1", "--seed", str(seed)) for seed in (0, 0, 1, 2)]
    keys = [found["cells"][0]["cell"] for _, _, found in draws]
    assert [code for code, _, _ in draws] == [0] * 4
    assert keys[0] == keys[1] and len(set(keys)) > 1
    assert "drawn with seed 2" in draws[3][1] and "1 of 8 samples asked again" in draws[3][1]


def test_an_answer_that_differs_is_shown_then_and_now(
    results: Path, verify: Callable[..., tuple[int, str, Any]]
) -> None:
    def change(record: dict[str, Any]) -> None:
        if record["doc_id"] == 5:
            record["answer"] = "maybe"

    rewritten(results, change=change)
    code, text, found = verify(results)
    (cell,) = [one for one in found["cells"] if one["changed"]]
    now = cell["changed"][0]["now"]
    assert code == 1 and not found["same"]
    assert (cell["cell"], cell["changed"]) == (KEY, [{"doc_id": 5, "then": "maybe", "now": now, "prompt": False}])
    assert (
        f"differs  {KEY}: 8 of 8 samples asked again, 1 with another answer" in text
        and f"doc 5: then 'maybe', now '{now}'" in text
    )
    assert "4 cells run again: 3 same, 1 differs" in text


def test_only_the_drawn_samples_are_asked_again(results: Path, verify: Callable[..., tuple[int, str, Any]]) -> None:
    rewritten(results, change=lambda record: record.update(answer="maybe"))
    code, _, found = verify(results, "--only", KEY, "--samples", "3")
    assert code == 1 and found["finished"] == 1
    assert len(found["cells"][0]["changed"]) == 3 == found["cells"][0]["asked"]


def test_a_cell_of_other_code_or_another_commit_says_so(
    results: Path, verify: Callable[..., tuple[int, str, Any]]
) -> None:
    rewritten(results, {"numeric": 0})
    code, text, _ = verify(results, "--only", KEY, "--samples", "2")
    assert code == 0 and "by other code (numeric)" in text


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"weights": "0" * 64}, f"{KEY}: its checkpoint has other weights now"),
        ({"data": "0" * 64}, f"{KEY}: its data is not what it was measured on"),
        ({"batch_size": 3}, f"{KEY}: its matrix has changed: batch_size was 3 and is 4"),
        ({"device": "cuda"}, "drawn cells were answered on cuda, and this machine has none"),
    ],
)
def test_a_cell_that_is_another_one_today_is_refused(
    identity: dict[str, Any],
    message: str,
    results: Path,
    verify: Callable[..., tuple[int, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evals.run.verification.sees_cuda", lambda: False)
    rewritten(results, identity)
    code, text, _ = verify(results, "--only", KEY)
    assert code == 2 and message in text


def test_a_run_keeps_its_matrix_as_it_read_it_and_verify_takes_it(
    measured: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = results / "samples" / "small.yaml"
    assert kept.read_text() == (measured / "small.yaml").read_text()
    assert main(["verify", str(results), "--only", KEY, "--samples", "2", "--json"]) == 0
    captured = capsys.readouterr()
    assert f"matrix: {kept}" in captured.err and json.loads(captured.out.splitlines()[-1])["file"] == str(kept)
    assert run_command(results) == f"run.py run {kept} --out {results}"


def test_a_folder_that_cannot_be_run_again_is_refused_in_words(
    measured: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*line: str) -> str:
        capsys.readouterr()
        assert main(["verify", *line]) == 2
        return capsys.readouterr().err

    document = read_document(results)
    document["command"] = "run.py run gone.yaml --out out"  # type: ignore[typeddict-unknown-key]
    (results / "leaderboard.json").write_text(json.dumps(document))
    (results / "samples" / "small.yaml").unlink()  # as in folders of earlier versions
    assert "its matrix 'small' is not a bundled one, and gone.yaml of its command is not here" in refused(str(results))
    assert "mini: its name is 'mini', and" in refused(str(results), "--matrix", "mini")
    text = (measured / "small.yaml").read_text()
    (tmp_path / "small.yaml").write_text(text.replace("mini:vanilla", str(tmp_path / "nowhere")))
    assert "nowhere" in refused(str(results), "--matrix", str(tmp_path / "small.yaml"))
    (tmp_path / "small.yaml").write_text(text.replace("  fastv: {layer: 1, keep: 9}\n", ""))
    assert "has no cell vanilla/fastv/pope" in refused(str(results), "--matrix", str(tmp_path / "small.yaml"))
    shutil.rmtree(results / "samples")
    assert "no finished journals in samples/" in refused(str(results))
    assert "not a results folder" in refused(str(tmp_path / "none"))
