import json

import pytest

from evals.report.caption import caption
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
