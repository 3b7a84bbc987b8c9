"""ls, compare and export: what users do with results folders."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evals import report
from evals.cli import main
from evals.report.compare import Compared, compare, folded
from evals.store.cell_files import BLOCK, last_line, place
from evals.store.folders import read_document, samples_file, samples_of, states
from evals.store.journal import Lines
from hidrop.errors import UserError
from tests.evals.world import SAMPLES, World


@pytest.fixture
def folder(go: Any, tmp_path: Path) -> Path:
    report.write(go(World()), tmp_path / "out")
    return tmp_path / "out"


def test_a_list_says_what_is_done_begun_and_failed(
    go: Any, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(World(stop_after=SAMPLES + 2), out="stopped")
    report.write(go(World(broken={"evaluate plain/fastv/gqa": RuntimeError("x")}), out="failing"), tmp_path / "failing")
    found = {state.folder.name: state for state in states(tmp_path)}
    assert (found["out"].matrix, found["out"].done, found["out"].begun, found["out"].failed) == ("tiny", 6, 0, 0)
    assert (found["stopped"].done, found["stopped"].begun) == (1, 1)
    assert (found["failing"].done, found["failing"].failed) == (5, 1)
    assert main(["ls", str(tmp_path), "--json"]) == 0
    assert main(["ls", str(tmp_path / "out" / "samples")]) == 2
    assert "no results folders" in capsys.readouterr().err


def test_a_cell_with_a_very_long_result_line_is_finished(go: Any, tmp_path: Path, folder: Path) -> None:
    path = sorted((folder / "samples").glob("*.jsonl"))[0]
    lines = Lines.of(path)
    prompts = [{"text": n, "visual": 16, "entering": None, "count": 1} for n in range(3000)]
    lines.replace([*lines.records[:-1], {**lines.records[-1], "prompts": prompts}])
    assert len(last_line(path)) > 2 * BLOCK
    (state,) = states(folder)
    assert (state.done, state.begun) == (6, 0)
    path.write_bytes(path.read_bytes()[:-1])  # torn: the result counts as not written
    (state,) = states(folder)
    assert (state.done, state.begun) == (5, 1)


def test_the_last_line_of_a_file_is_that_of_splitting_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    one_block = (BLOCK - 1,), (BLOCK,), (BLOCK + 1,)
    for lengths in [(), (0,), (5,), *one_block, (3, BLOCK - 1), (3, 2 * BLOCK + 7, 0), (9, 4)]:
        for torn in (b"", b"torn"):
            path.write_bytes(b"".join(bytes([65 + i]) * n + b"\n" for i, n in enumerate(lengths)) + torn)
            assert last_line(path) == (path.read_bytes().split(b"\n")[:-1] or [b""])[-1], (lengths, torn)


def test_two_runs_are_compared_sample_by_sample(
    go: Any, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.write(go(World(weights={"plain": "other"}), out="other", only="plain"), tmp_path / "other")
    found = compare(str(folder), str(tmp_path / "other"))
    assert [cell.key for cell in found.cells] == [
        f"plain/{m}/{t}" for m in ("vanilla", "fastv") for t in ("gqa", "pope")
    ]
    assert found.only_a == ["tuned/own/gqa", "tuned/own/pope"] and found.only_b == []
    assert {(cell.low, cell.high, cell.p, cell.loyalty) for cell in found.cells} == {(0, 0, 1, 100)}
    assert main(["compare", str(folder), str(tmp_path / "other"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "4 cells in both, 4 of them sample by sample" in printed.err
    assert len(json.loads(printed.out)["cells"]) == 4


def test_cells_of_another_metric_judge_or_protocol_are_named_and_not_tested(tmp_path: Path, folder: Path) -> None:
    path = folder / "leaderboard.json"
    document = json.loads(path.read_text())
    cells = {f"{cell['label']}/{cell['task']}": cell for cell in document["cells"] if cell["model"] == "plain"}
    cells["fastv/gqa"]["judge"] = "a file"
    cells["fastv/pope"]["metric"] = "accuracy of 2 of 3 splits"
    cells["vanilla/pope"]["lower_is_better"] = True
    table = tmp_path / "table"
    table.mkdir()
    other = {**document, "protocols": {"pope": "native"}}
    (table / "leaderboard.json").write_text(json.dumps(other))
    (table / "samples").symlink_to(folder / "samples")
    for cell in (cells["fastv/gqa"], cells["fastv/pope"]):
        cell.pop("judge", None)
        cell["metric"] = cells["vanilla/gqa" if cell["task"] == "gqa" else "vanilla/pope"]["metric"]
    path.write_text(json.dumps(document))
    found = compare(str(folder), str(table))
    by_key = {cell.key.removeprefix("plain/"): cell for cell in found.cells}
    for key in ("fastv/gqa", "fastv/pope"):
        assert by_key[key].cells()[3:] == ("-",) * 6 and by_key[key].a == by_key[key].b is not None
    assert by_key["vanilla/gqa"].cells()[3:] == ("+0.00", "[+0.00, +0.00]", "1", "+0", "-0", "100.0 %")
    assert by_key["vanilla/pope"].cells()[5:] == ("1", "-", "-", "100.0 %")
    metric = cells["vanilla/pope"]["metric"]
    assert found.differing == [
        f"protocol of pope ({document['protocol']} / native)",
        "judge of plain/fastv/gqa (none / a file)",
        f"metric of plain/fastv/pope ({metric} / accuracy of 2 of 3 splits)",
    ]


def test_a_value_without_a_p_value_and_from_0_to_1_is_shown() -> None:
    cell = Compared("m/fastv/chartqa", 0.8125, 0.8, own_scale=True, low=-0.03, high=0.01, loyalty=90.0)
    shown = ("0.8125", "0.8000", "-0.0125", "[-0.0300, +0.0100]", "-", "-", "-", "90.0 %")
    assert cell.cells() == ("m/fastv/chartqa", *shown)


def test_tables_without_samples_are_compared_by_their_values(tmp_path: Path, folder: Path) -> None:
    table = tmp_path / "table"
    table.mkdir()
    (table / "leaderboard.json").write_bytes((folder / "leaderboard.json").read_bytes())
    found = compare(str(folder), str(table))
    assert len(found.cells) == 6 and all(cell.low is None for cell in found.cells)
    assert "0 of them sample by sample" in found.text()


@pytest.fixture
def committed(folder: Path, tmp_path: Path) -> Path:
    """The same results as they are committed: the document, and the samples as a table."""
    place = tmp_path / "committed"
    place.mkdir()
    (place / "leaderboard.json").write_bytes((folder / "leaderboard.json").read_bytes())
    assert main(["export", str(folder), "--out", str(tmp_path / "exported"), "--quiet"]) == 0
    (place / "samples.parquet").write_bytes((tmp_path / "exported/samples.parquet").read_bytes())
    return place


def test_committed_results_are_paired_by_their_table_of_samples(
    go: Any, tmp_path: Path, folder: Path, committed: Path
) -> None:
    report.write(go(World(weights={"plain": "other"}), out="other"), tmp_path / "other")
    by_journals, by_table = (compare(str(one), str(tmp_path / "other")) for one in (folder, committed))
    assert by_table.cells == by_journals.cells and all(cell.low is not None for cell in by_table.cells)
    (committed / "export").mkdir()
    (committed / "samples.parquet").rename(committed / "export/samples.parquet")
    assert compare(str(committed), str(folder)).cells[0].loyalty == 100


def test_a_table_of_another_run_is_refused(committed: Path, folder: Path) -> None:
    import pyarrow.parquet as parquet

    from evals.store import sample_table

    path = committed / "samples.parquet"
    table = parquet.read_table(path)
    sample_table.write(sample_table.rows_of(folder, read_document(folder))[1:], path)
    with pytest.raises(UserError, match=r"plain/vanilla/gqa: its samples do not give the cell's value"):
        compare(str(committed), str(folder))
    parquet.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(UserError, match=r"samples\.parquet: not a table of samples \(.*Write it again with `"):
        compare(str(committed), str(folder))
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a table of samples"):
        compare(str(committed), str(folder))


def test_overwritten_bytes_of_a_table_are_noticed(tmp_path: Path) -> None:
    from evals.store import sample_table

    rows = [{"cell": "a", "doc_id": i, "answer": f"answer {i}", "score": float(i % 2)} for i in range(200)]
    sample_table.write(rows, tmp_path / "samples.parquet")
    good = (tmp_path / "samples.parquet").read_bytes()
    table = sample_table.read(str(tmp_path))
    assert table is not None
    noticed = 0
    for at in range(4, len(good) - 8, 11):
        (tmp_path / "samples.parquet").write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        try:
            assert sample_table.read(str(tmp_path)) == table  # statistics and offsets that nobody needs
        except UserError as error:
            assert "not a table of samples" in str(error)
            noticed += 1
    assert noticed > 50


def test_values_of_several_types_come_back_from_the_table_as_they_were(tmp_path: Path) -> None:
    from evals.store import sample_table

    rows: list[dict[str, Any]] = [
        {"cell": "a", "doc_id": 1, "image_key": "x", "target": ["a", "b"], "weight": 0.5, "score": 1.0},
        {"cell": "a", "doc_id": 0, "image_key": 7, "target": None, "item": [1, "2"], "score": None},
        {"cell": "b", "doc_id": 0, "image_key": None, "target": "a", "score": 0.0},
    ]
    sample_table.write(rows, tmp_path / "samples.parquet")
    found = sample_table.read(str(tmp_path))
    assert found is not None
    assert found.samples == {"a": [rows[1], rows[0]], "b": [rows[2]]}


def test_timings_are_compared_next_to_the_scores(folder: Path, committed: Path) -> None:
    document = json.loads((committed / "leaderboard.json").read_text())
    slow = next(one for one in document["profiles"] if one["label"] == "fastv")
    slow["prefill_ms"]["median"] = 4.0
    (committed / "leaderboard.json").write_text(json.dumps(document))
    found = compare(str(folder), str(committed))
    rows = {one.key: one.cells() for one in found.timings}
    assert set(rows) == {"plain/vanilla", "plain/fastv", "tuned/own"}
    assert rows["plain/fastv"][1:4] == ("2.00", "4.00", "0.50x") and rows["plain/vanilla"][3] == "1.00x"
    assert "prefill ms A" in found.text()


def test_commits_versions_and_machines_that_differ_are_named(folder: Path, committed: Path) -> None:
    assert compare(str(folder), str(committed)).made == []
    document = json.loads((committed / "leaderboard.json").read_text())
    own = [document, *(one for cell in document["cells"] for one in cell.get("provenance", []))]
    for one in own:
        one["commit"], one["versions"] = "0123456789ab", {**one["versions"], "torch": "9.9"}
    (committed / "leaderboard.json").write_text(json.dumps(document))
    made = compare(str(folder), str(committed)).made
    assert [line.partition(": A ")[0] for line in made] == ["commit", "torch"]
    assert made[0].endswith("; B 0123456789ab") and made[1].endswith("; B 9.9")


def test_missing_cells_are_folded_into_a_line() -> None:
    keys = [f"m/{row}/{task}" for row in ("a", "b", "c", "d", "e") for task in ("gqa", "pope")] + ["m/f/gqa"]
    assert folded(keys) == "11 cells: gqa, pope of m/a, m/b, m/c and 2 more; gqa of m/f"
    assert folded(["m/a/gqa"]) == "m/a/gqa"


def test_a_commit_is_a_place_too(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    git("add", "out/leaderboard.json")
    git("commit", "-qm", "x")
    monkeypatch.chdir(tmp_path)
    assert len(compare("HEAD:out", "out").cells) == 6
    assert all(cell.low is None for cell in compare("HEAD:out", "out").cells)
    assert main(["export", "out", "--out", "out", "--quiet"]) == 0
    git("add", "out/samples.parquet")
    git("commit", "-qm", "y")
    assert all(cell.low == 0 for cell in compare("HEAD:out", "out").cells)
    with pytest.raises(UserError, match="git cannot show it"):
        compare("HEAD:nowhere", "out")
    with pytest.raises(UserError, match="cannot be read"):
        compare("nowhere", "out")


def test_samples_are_exported_as_a_table_and_as_a_data_set(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as parquet

    assert main(["export", str(folder), "--format", "hf", "--out", str(tmp_path / "data")]) == 0
    table = parquet.read_table(tmp_path / "data/samples.parquet").to_pylist()
    assert len(table) == 6 * SAMPLES
    first = table[0]
    assert (first["model"], first["label"], first["task"], first["doc_id"]) == ("plain", "vanilla", "gqa", 0)
    assert first["answer"] == "vanilla 0" and json.loads(first["target"]) == "yes"
    assert len(parquet.read_table(tmp_path / "data/cells.parquet")) == 6
    card = (tmp_path / "data/README.md").read_text()
    assert card.startswith("---\n") and "path: samples.parquet" in card
    (folder / "samples").rename(tmp_path / "gone")
    assert main(["export", str(folder)]) == 2
    assert "no finished journals" in capsys.readouterr().err


def test_a_cells_samples_are_those_of_its_own_run(go: Any, tmp_path: Path, folder: Path) -> None:
    """Another limit leaves its journals in the same folder."""
    document = go(World(), limit=2)
    cell = document["cells"][0]
    assert [s["doc_id"] for s in samples_of(folder, cell) or ()] == list(range(SAMPLES))
    assert samples_of(folder, {**cell, "id": "somethingelse"}) is None


@pytest.mark.parametrize("id", ["../../../../x", "/etc/passwd/", "..", "a/b/c/d/e/f/g", "\0"])
@pytest.mark.parametrize("key", ["../../x/y", "a/../../b", "/etc/passwd", "..", "a\0b"])
def test_a_cell_of_a_document_names_no_file_outside_of_the_samples(key: str, id: str, tmp_path: Path) -> None:
    assert samples_file(tmp_path, {"id": id}) is None
    path = place(tmp_path, key, "0" * 64)
    assert path.parent == tmp_path / "samples"
    assert path.resolve().parent == (tmp_path / "samples").resolve() and "\0" not in str(path)
