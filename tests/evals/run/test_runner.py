import importlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from evals import report
from evals.report.agreement_run import find_run
from evals.report.caption import caption
from evals.run import cell_journals
from evals.store.folders import samples_of as samples_in
from evals.tasks import get_task
from evals.tasks.index import index, tasks_folder
from evals.tasks.official_files import _of_lmms_eval
from hidrop.errors import UserError
from tests.evals.world import SAMPLES, World, samples_of, without_date


def test_each_model_is_loaded_once_and_every_cell_is_run(go):
    world = World()
    document = go(world)
    assert [call for call in world.calls if call.startswith("load")] == ["load plain", "load tuned"]
    assert len(document["cells"]) == 6 and document["failed"] == []
    assert len(world.asked) == 6 * SAMPLES


def test_a_cell_of_the_document_says_what_it_stands_on(go):
    cell = next(c for c in go(World())["cells"] if c["label"] == "fastv" and c["task"] == "gqa")
    entering = [16, 4, 4, 4]
    assert cell["entering"] == entering and cell["average_tokens"] == 7 and cell["kept"] == 4
    assert cell["method"] == "fastv" and cell["metric"] == "exact_match" and cell["n"] == SAMPLES
    assert cell["share"] == pytest.approx(7 / 16) and not cell["trained"]
    assert cell["seconds"] == SAMPLES * 0.5
    assert cell["text_tokens"] == 10
    assert cell["kv_bytes"] == sum(2 * (n + 10) * 32 * 4 for n in entering)


def test_percent_is_of_the_vanilla_row_of_the_reference_model(go):
    percents = {(c["model"], c["label"]): c["percent_of_vanilla"] for c in go(World())["cells"]}
    assert percents == {("plain", "vanilla"): 100, ("plain", "fastv"): 75, ("tuned", "own"): 75}


def test_rows_of_a_checkpoints_own_schedule_are_marked_as_trained(go):
    document = go(World())
    assert {c["label"]: (c["method"], c["trained"]) for c in document["cells"]} == {
        "vanilla": ("vanilla", False),
        "fastv": ("fastv", False),
        "own": ("pdrop", True),
    }


def test_every_sample_is_one_line_and_survives_in_the_journal(go, tmp_path):
    go(World())
    lines = [json.loads(line) for text in samples_of(tmp_path / "out").values() for line in text.splitlines()]
    assert sum(line["kind"] == "answer" for line in lines) == 6 * SAMPLES
    assert sum(line["kind"] == "result" for line in lines) == 6


def test_a_finished_matrix_run_again_does_no_model_work_and_gives_the_same_document(go):
    first, world = go(World()), World()
    assert without_date(go(world)) == without_date(first)
    assert world.calls == []
    assert "(from an earlier run)" in go.log.getvalue()


def test_a_failing_cell_leaves_its_traceback_and_the_rest_goes_on(go, tmp_path):
    world = World(broken={"evaluate plain/fastv/gqa": RuntimeError("out of memory\nand more")})
    document = go(world)
    assert len(document["cells"]) == 5
    [failed] = document["failed"]
    assert (failed["model"], failed["label"], failed["task"]) == ("plain", "fastv", "gqa")
    assert failed["error"] == "RuntimeError: out of memory"
    assert "Traceback" in (tmp_path / "out/failures/plain.fastv.gqa.txt").read_text()


def test_running_again_after_a_failure_runs_only_what_failed_and_clears_it(go, tmp_path):
    go(World(broken={"evaluate plain/fastv/gqa": RuntimeError("once")}))
    world = World()
    document = go(world)
    assert [call for call in world.calls if call.startswith("evaluate")] == ["evaluate plain/fastv/gqa"]
    assert document["failed"] == [] and list((tmp_path / "out/failures").iterdir()) == []


def test_a_model_that_cannot_be_loaded_fails_its_own_cells_only(go):
    document = go(World(broken={"load plain": UserError("no such architecture")}))
    assert {c["model"] for c in document["cells"]} == {"tuned"}
    assert {(f["label"], f["task"]) for f in document["failed"]} == {
        (label, task) for label in ("vanilla", "fastv") for task in ("gqa", "pope")
    }
    assert {f["error"] for f in document["failed"]} == {"no such architecture"}


def test_a_timing_that_fails_costs_no_accuracy(go):
    document = go(World(broken={"profile plain": RuntimeError("no clock")}))
    assert len(document["cells"]) == 6
    assert [(f["model"], f["label"], f["task"]) for f in document["failed"]] == [
        ("plain", "vanilla", None),
        ("plain", "fastv", None),
    ]
    assert [p["model"] for p in document["profiles"]] == ["tuned"]


def test_other_weights_make_other_cells(go):
    go(World())
    world = World(weights={"tuned": "new"})
    go(world)
    assert {key.split("/")[0] for key, _ in world.asked} == {"tuned"}
    assert "load plain" not in world.calls and "profile tuned" in world.calls


def test_other_ends_of_an_answer_make_other_cells_and_the_caption_names_them(go):
    go(World())
    world = World(ends={"tuned": (2, 7)})
    document = go(world)
    assert {key.split("/")[0] for key, _ in world.asked} == {"tuned"}
    assert "an answer ends at token 2 (plain), at token 2 or 7 (tuned)" in dict(caption(document))["Decoding"]


def test_another_limit_makes_other_cells_and_keeps_the_first(go):
    go(World())
    limited, back = World(), World()
    go(limited, limit=2)
    go(back)
    assert len(limited.asked) == 6 * SAMPLES and back.asked == []


def test_a_damaged_journal_fails_its_cell_and_names_the_file(go, tmp_path):
    go(World())
    path = next((tmp_path / "out/samples").glob("plain.vanilla.gqa.*"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "damage", *lines[2:]]) + "\n")
    [failed] = go(World())["failed"]
    assert str(path) in failed["error"] and "line 2 is damaged" in failed["error"]


def test_only_some_cells_can_be_run(go):
    world = World()
    document = go(world, only="vanilla/gqa")
    assert [c["label"] for c in document["cells"]] == ["vanilla"]
    assert world.calls == ["load plain", "evaluate plain/vanilla/gqa", "profile plain"]


def test_cells_that_were_not_asked_for_stay_in_the_table_once_they_are_finished(go):
    go(World(), only="plain/vanilla/gqa")
    world = World()
    document = go(world, only="fastv/gqa")
    assert [key for key, _ in world.asked] == ["plain/fastv/gqa"] * SAMPLES
    assert [c["label"] for c in document["cells"]] == ["vanilla", "fastv"]
    assert [p["label"] for p in document["profiles"]] == ["fastv", "vanilla"]
    assert document["cells"][1]["percent_of_vanilla"] == 75


def test_a_model_that_cannot_be_loaded_for_its_timings_alone_is_reported(go, tmp_path):
    go(World())
    (tmp_path / "out/profiles/plain.json").unlink()
    document = go(World(broken={"load plain": RuntimeError("gone")}))
    assert len(document["cells"]) == 6
    assert [(f["label"], f["task"]) for f in document["failed"]] == [("vanilla", None), ("fastv", None)]


def test_a_method_that_cannot_answer_is_not_timed_and_does_not_spoil_the_others_timings(go):
    broken = {f"evaluate plain/fastv/{task}": RuntimeError("bad method") for task in ("gqa", "pope")}
    world = World(broken=broken)
    document = go(world)
    assert world.timed == ["vanilla", "own"]
    assert [p["label"] for p in document["profiles"]] == ["vanilla", "own"]


def test_force_runs_finished_cells_again_and_puts_the_old_ones_aside(go, tmp_path):
    go(World())
    world = World()
    go(world, only="plain/vanilla/gqa", force=True)
    assert world.asked == [("plain/vanilla/gqa", doc_id) for doc_id in range(SAMPLES)]
    assert "profile plain" in world.calls
    assert len(list((tmp_path / "out/samples/replaced").iterdir())) == 1
    again = World()
    go(again)
    assert again.asked == []


def test_answers_that_look_wrong_as_a_whole_are_warned_about(go):
    class Dumb(World):
        def answer(self, lm, cell):
            record = lm[3]
            lm = (*lm[:3], lambda batch: record([{**sample, "answer": ""} for sample in batch]), *lm[4:])
            super().answer(lm, cell)

    cell = go(Dumb(), only="plain/vanilla/gqa")["cells"][0]
    assert cell["warnings"] == ["5 of 5 answers are empty", "all 5 answers are the same"]
    assert go(World(), out="other")["cells"][0]["warnings"] == []


def test_every_row_is_compared_with_the_vanilla_of_its_reference(go):
    cells = {(c["label"], c["task"]): c for c in go(World())["cells"]}
    against = cells["own", "gqa"]["stats"]["against"]
    assert against["difference"] == pytest.approx(-20) and against["lost"] == 1 and against["gained"] == 0
    assert against["p_holm"] == 1.0
    assert "against" not in cells["vanilla", "gqa"]["stats"]
    low, high = cells["vanilla", "gqa"]["stats"]["interval"]
    assert low <= 80 <= high


def test_other_files_of_lmms_eval_make_other_cells(go, tmp_path, monkeypatch):
    go(World(), only="plain/fastv")
    folder = tmp_path / "site/lmms_eval/tasks"
    for task in ("gqa", "pope"):
        (folder / task).mkdir(parents=True)
        shutil.copytree(tasks_folder() / get_task(task).lmms_folder, folder / task, dirs_exist_ok=True)
    (folder.parent / "__init__.py").touch()
    spec = importlib.util.spec_from_file_location("lmms_eval", folder.parent / "__init__.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    index.cache_clear()
    _of_lmms_eval.cache_clear()
    same, other = World(), World()
    go(same, only="plain/fastv")
    (folder / "gqa/gqa.yaml").write_text((folder / "gqa/gqa.yaml").read_text() + "# changed")
    _of_lmms_eval.cache_clear()
    go(other, only="plain/fastv")
    index.cache_clear()
    _of_lmms_eval.cache_clear()
    assert same.asked == [] and {key for key, _ in other.asked} == {"plain/fastv/gqa"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("protocol: lmms-eval", "protocol: llava"),
        ("dtype: float32", "dtype: float16"),
        ("batch_size: 2", "batch_size: 3"),
        ("fastv: {layer: 1, keep: 4}", "fastv: {layer: 1, keep: 5}"),
        ("profile: {repeats: 1}", "profile: {repeats: 1}\nattention: eager"),
    ],
)
def test_each_part_of_the_identity_makes_another_cell(go, tmp_path, old, new):
    go(World(), only="plain/fastv/gqa")
    matrix = tmp_path / "tiny.yaml"
    assert old in matrix.read_text()
    matrix.write_text(matrix.read_text().replace(old, new))
    world = World()
    go(world, only="plain/fastv/gqa")
    assert len(world.asked) == SAMPLES


def test_what_a_methods_own_checkpoint_holds_makes_another_cell_and_its_folder_does_not(go, tmp_path):
    matrix = tmp_path / "tiny.yaml"
    first = matrix.read_text().replace(
        "{layer: 1, keep: 4}", "{name: cdpruner, keep: 4, relevance: clip, text_tower: a}"
    )
    moved, same = first.replace("text_tower: a", "text_tower: b"), {"a": "digest", "b": "digest"}
    for text, weights, asked in ((first, same, SAMPLES), (moved, same, 0), (moved, {"b": "other"}, SAMPLES)):
        matrix.write_text(text)
        world = World(weights=weights)
        go(world, only="plain/fastv/gqa")
        assert len(world.asked) == asked


def test_what_does_not_change_numbers_makes_no_other_cell(go, tmp_path):
    go(World(), only="plain/fastv/gqa")
    matrix = tmp_path / "tiny.yaml"
    text = matrix.read_text().replace("name: tiny", "name: other").replace("repeats: 1", "repeats: 2")
    matrix.write_text(
        text.replace("  own: {name: checkpoint}", "  own: {name: checkpoint}\n  random: {layer: 1, keep: 2}")
    )
    world = World()
    go(world, only="plain/fastv/gqa")
    assert world.asked == []


LARGEST = """
from dataclasses import dataclass
from typing import ClassVar
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer

@dataclass(frozen=True)
class Largest(Reducer):
    keep: int
    name: ClassVar[str] = "largest"

    def schedule(self, geometry):
        return Schedule(cuts=(Cut(2, self.keep),))

    def score(self, view):
        return view.visual_BVD.float().norm(dim=-1)
"""


@pytest.fixture
def with_own_method(go, tmp_path, monkeypatch):
    """run(world, source, ...): run a matrix with a method of the user's own, whose file has this source now."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "own_largest.py"

    def run(world, source, **changes):
        file.write_text(source)
        matrix = tmp_path / "tiny.yaml"
        named = f'  fastv: {{name: "{file}:Largest", keep: 4}}'
        matrix.write_text(matrix.read_text().replace("  fastv: {layer: 1, keep: 4}", named))
        return go(world, **changes)

    return run


def test_an_edited_method_makes_other_cells_and_a_comment_does_not(with_own_method):
    with_own_method(World(), LARGEST)
    same, edited = World(), World()
    with_own_method(same, LARGEST.replace("    def score", "    # A comment.\n    def score"))
    assert same.asked == [] and same.timed == []
    with_own_method(edited, LARGEST.replace("dim=-1", "dim=-1, p=1"))
    assert {key for key, _ in edited.asked} == {"plain/fastv/gqa", "plain/fastv/pope"}
    assert set(edited.timed) == {"vanilla", "fastv"}


def test_keep_cells_takes_those_of_an_earlier_source_and_the_caption_says_so(with_own_method, monkeypatch):
    first = with_own_method(World(), LARGEST)
    assert "Older cells" not in dict(caption(first))
    assert dict(caption(first))["Methods outside of hidrop"].startswith("fastv: own_largest.py:Largest, source ")
    edited, kept, fresh = LARGEST.replace("dim=-1", "dim=-1, p=1"), World(), World()
    document = with_own_method(kept, edited, keep_cells=True)
    assert kept.asked == []
    older = {(c["label"], c["task"]): c["older"] for c in document["cells"] if "older" in c}
    assert older == {("fastv", "gqa"): ["source"], ("fastv", "pope"): ["source"]}
    assert [c["id"] for c in document["cells"]] == [c["id"] for c in first["cells"]]
    assert dict(caption(document))["Older cells"].endswith("(--keep-cells): plain/fastv/gqa, plain/fastv/pope")
    with_own_method(fresh, edited)
    assert {key for key, _ in fresh.asked} == {"plain/fastv/gqa", "plain/fastv/pope"}
    again = with_own_method(World(), edited, keep_cells=True)
    assert not any("older" in cell for cell in again["cells"]), "cells of today's code come first"


def test_keep_cells_takes_those_of_an_earlier_arithmetic(go, monkeypatch):
    go(World())
    monkeypatch.setattr(cell_journals, "NUMERIC_VERSION", 99)
    kept = World()
    assert {tuple(c["older"]) for c in go(kept, keep_cells=True)["cells"]} == {("numeric",)} and kept.asked == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("dtype: float32", "dtype: float16"), ("keep: 4", "keep: 5"), ("batch_size: 2", "batch_size: 3")],
)
def test_keep_cells_takes_nothing_that_differs_in_more_than_code(go, tmp_path, old, new):
    go(World(), only="plain/fastv/gqa")
    matrix = tmp_path / "tiny.yaml"
    matrix.write_text(matrix.read_text().replace(old, new))
    world = World()
    go(world, only="plain/fastv/gqa", keep_cells=True)
    assert len(world.asked) == SAMPLES


def test_keep_cells_leaves_an_unfinished_cell_of_earlier_code_alone(go, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        go(World(stop_after=2), only="plain/fastv/gqa")
    monkeypatch.setattr(cell_journals, "NUMERIC_VERSION", 99)
    world = World()
    go(world, only="plain/fastv/gqa", keep_cells=True)
    assert len(world.asked) == SAMPLES


def changed(tmp_path, *pairs):
    """Change the matrix file."""
    matrix = tmp_path / "tiny.yaml"
    text = matrix.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    matrix.write_text(text)


def test_a_second_budget_answers_no_finished_cell_again(go, tmp_path):
    changed(tmp_path, ("fastv: {layer: 1, keep: 4}", "fastv: {layer: 1, budget: 7}"))
    first = go(World())
    changed(tmp_path, ("budget: 7}", "budget: [7, 10]}"))
    world = World()
    document = go(world)
    assert {key for key, _ in world.asked} == {"plain/fastv-10/gqa", "plain/fastv-10/pope"}
    ids = {(c["label"], c["task"]): c["id"] for c in (*first["cells"], *document["cells"])}
    assert ids["fastv", "gqa"] == ids["fastv-7", "gqa"] != ids["fastv-10", "gqa"]


def test_renamed_models_and_methods_find_their_cells_and_samples(go, tmp_path):
    first = go(World())
    changed(tmp_path, ("  fastv: {layer", "  fast: {name: fastv, layer"), ("[vanilla, fastv]", "[vanilla, fast]"))
    changed(tmp_path, ("  plain: {source", "  little: {source"), ("models: [plain]", "models: [little]"))
    changed(tmp_path, ("reference: plain", "reference: little"))
    world = World()
    document = go(world)
    assert world.asked == [] and "(from an earlier run)" in go.log.getvalue()
    assert {c["label"] for c in document["cells"]} == {"vanilla", "fast", "own"}
    assert [c["value"] for c in document["cells"]] == [c["value"] for c in first["cells"]]
    for cell in document["cells"]:
        assert len(samples_in(tmp_path / "out", cell)) == SAMPLES
    assert len(samples_of(tmp_path / "out")) == 6, "no journal was written a second time"
    report.write(document, tmp_path / "out")
    assert find_run(tmp_path / "out", "gqa", "little/fast").name.startswith("plain.fastv.gqa.")


def test_an_interrupted_cell_goes_on_under_its_new_label(go, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(World(stop_after=2), only="plain/fastv/gqa")
    changed(tmp_path, ("  fastv: {layer", "  fast: {name: fastv, layer"), ("[vanilla, fastv]", "[vanilla, fast]"))
    world = World()
    go(world, only="plain/fast/gqa")
    assert world.asked == [("plain/fast/gqa", doc_id) for doc_id in range(2, SAMPLES)]


def test_two_labels_of_one_cell_are_answered_once(go, tmp_path):
    changed(tmp_path, ("  own: {name", "  twin: {name: fastv, layer: 1, keep: 4}\n  own: {name"))
    changed(tmp_path, ("[vanilla, fastv]", "[vanilla, fastv, twin]"))
    world = World()
    document = go(world)
    assert not any("/twin/" in key for key, _ in world.asked)
    cells = {(c["label"], c["task"]): c for c in document["cells"]}
    assert cells["twin", "gqa"]["id"] == cells["fastv", "gqa"]["id"] and len(cells) == 8
    forced = World()
    assert len(go(forced, force=True)["cells"]) == 8
    assert len(forced.asked) == 6 * SAMPLES and not any("/twin/" in key for key, _ in forced.asked)


def test_two_models_with_the_same_weights_are_answered_once_by_force_too(go, tmp_path):
    changed(tmp_path, ("  tuned: {source", "  copy: {source: plain, reference: plain}\n  tuned: {source"))
    changed(tmp_path, ("models: [plain]", "models: [plain, copy]"))
    for force in (False, True):
        world = World()
        assert len(go(world, force=force)["cells"]) == 10
        assert {key.split("/")[0] for key, _ in world.asked} == {"plain", "tuned"}


def test_names_that_look_alike_keep_failures_and_timings_apart(go, tmp_path):
    changed(tmp_path, ("  plain: {source: plain}", "  a%: {source: plain}\n  apct: {source: other}"))
    changed(tmp_path, ("reference: plain", "reference: a%"), ("models: [plain]", "models: [a%, apct]"))
    world = World(broken={"evaluate a%/fastv/gqa": RuntimeError("one"), "evaluate apct/fastv/gqa": RuntimeError("two")})
    document = go(world)
    files = {failure["model"]: failure["traceback"] for failure in document["failed"]}
    assert "one" in Path(files["a%"]).read_text() and "two" in Path(files["apct"]).read_text()
    again = World()
    assert go(again)["failed"] == [] and not list((tmp_path / "out/failures").iterdir())
    last = World()
    go(last)
    assert last.calls == [], "each model's timings are still there"


def test_very_long_names_are_run(go, tmp_path):
    long = "m" * 80
    changed(
        tmp_path, ("  plain: {source: plain}", f"  {long}: {{source: plain}}"), ("models: [plain]", f"models: [{long}]")
    )
    method, seed = "r" * 80, 2**63 - 1  # the longest names and numbers that a matrix can have
    changed(
        tmp_path,
        ("reference: plain", f"reference: {long}"),
        ("  own: {name", f"  {method}: {{name: random, layer: 1, keep: 2, seed: [1, {seed}]}}\n  own: {{name"),
    )
    changed(tmp_path, ("[vanilla, fastv]", f"[vanilla, fastv, {method}]"))
    broken = {f"evaluate {long}/{method}-s{seed}/gqa": RuntimeError("once")}
    document = go(World(broken=broken))
    assert len(document["cells"]) == 9 and len(document["failed"]) == 1
    assert len(go(World())["cells"]) == 10


def test_a_cell_lists_the_sessions_that_answered_it_and_keeps_them(go, tmp_path, monkeypatch):
    """With the commit, versions and machine at the time, not those of the process that writes the table."""
    from hidrop import provenance

    def at(commit):
        monkeypatch.setattr(provenance, "commit", lambda: commit)
        monkeypatch.setattr(provenance, "now", lambda: f"date of {commit}")

    at("a+")
    with pytest.raises(KeyboardInterrupt):
        go(World(stop_after=SAMPLES + 2))
    at("b")
    go(World())
    at("c")
    document = go(World())
    made = {f"{c['label']}/{c['task']}": [one["commit"] for one in c["provenance"]] for c in document["cells"]}
    assert made.pop("vanilla/gqa") == ["a+"] and made.pop("vanilla/pope") == ["a+", "b"]
    assert document["commit"] == "c" and set(map(tuple, made.values())) == {("b",)}
    first = document["cells"][0]["provenance"][0]
    assert first["date"] == "date of a+" and first.keys() == {"hardware", "versions", "commit", "date"}
    assert list(first["hardware"].items()) == list(document["hardware"].items())
    assert list(first["versions"].items()) == list(document["versions"].items())
    header = json.loads(next((tmp_path / "out/samples").glob("*.jsonl")).read_text().splitlines()[0])
    assert not {"commit", "versions", "date", "hardware"} & header["identity"].keys()


def test_a_damaged_journal_of_a_cell_that_was_not_asked_for_is_a_failure(go, tmp_path):
    go(World())
    path = next((tmp_path / "out/samples").glob("plain.vanilla.pope.*"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], *lines[4:]]))
    document = go(World(), only="plain/vanilla/gqa")
    [failed] = document["failed"]
    assert (failed["label"], failed["task"]) == ("vanilla", "pope") and str(path) in failed["error"]
    assert len(document["cells"]) == 5
