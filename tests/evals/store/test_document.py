"""The numbers of a cell: from the row's plan, or from what was counted where that differs."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from evals.matrix.resolve import MatrixRow
from evals.store import document, recomputed
from evals.tasks import TASKS
from hidrop.geometry import Geometry
from hidrop.methods import build
from hidrop.plan import TokenPlan
from tests.evals.world import ANSWER, result_of

GEOMETRY = Geometry(layers=4, hidden=32, intermediate=64, heads=4, kv_heads=4, head_dim=8, vocab=99, visual_tokens=16)
FASTV = build("fastv", {"layer": 2, "keep": 4})
ROW = MatrixRow("m", "fastv", FASTV, FASTV.plan(GEOMETRY), trained=False, budget=None, group="fastv")


def record(prompt: int, visual: int, entering: list[int] | None, error: str | None = None) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "visual_tokens": visual, "entering": entering, "error": error}


def entry(*records: dict[str, Any]) -> dict[str, Any]:
    stored = json.loads(json.dumps(recomputed.prompt_groups(records)))
    result = {"metric": "accuracy", "value": 1.0, "extra": {}, "n": 1, "n_failed": 0, "dtype": "float32"}
    whole = {**result, "seconds": 1.0, "prompts": stored}
    return document.cell_entry(SimpleNamespace(task="gqa"), ROW, whole, 60, "an id")


def test_prompts_that_followed_the_plan_have_the_plans_numbers():
    found = entry(record(26, 16, None), record(26, 16, None), record(36, 16, None), record(0, 0, None, "broken"))
    assert (found["average_tokens"], found["kept"], found["entering"]) == (10, 4, [16, 16, 4, 4])
    assert found["text_tokens"] == pytest.approx(40 / 3)
    assert found["flops"] == round((2 * ROW.plan.flops(10) + ROW.plan.flops(20)) / 3)


def test_other_counts_are_averaged_over_the_prompts():
    found = entry(record(26, 16, [16, 8, 8, 0]), record(42, 32, [32, 32, 8, 8]), record(26, 16, None))
    plans = [TokenPlan(GEOMETRY, n) for n in ((16, 8, 8, 0), (32, 32, 8, 8))] + [ROW.plan]
    assert found["average_tokens"] == pytest.approx((8 + 20 + 10) / 3)
    assert found["share"] == pytest.approx((8 / 16 + 20 / 32 + 10 / 16) / 3)
    assert found["share_of_total"] == pytest.approx((8 + 20 + 10) / (16 + 32 + 16))
    assert found["entering"] == [21, 19, 7, 4]
    assert found["flops"] == round(sum(plan.flops(10) for plan in plans) / 3)
    assert found["kv_bytes"] == round(sum(plan.kv_bytes(10, 4) for plan in plans) / 3)
    assert found["kept"] == 4  # stated for one image, as the budget is


def test_a_group_of_prompts_counts_as_often_as_it_has_prompts():
    found = entry(*[record(26, 16, [16, 8, 8, 0])] * 3, record(26, 16, [16, 16, 16, 16]))
    assert found["entering"] == [16, 10, 10, 4]
    assert found["average_tokens"] == pytest.approx((3 * 8 + 16) / 4)


def test_each_image_counts_the_same_in_the_share_however_large_it_is():
    """Half of 16 tokens twice and an eighth of 160 once: (1/2 + 1/2 + 1/8) / 3, but 36 of 192 tokens together."""
    small, large = record(26, 16, [16, 8, 4, 4]), record(170, 160, [40, 20, 10, 10])
    found = entry(small, small, large)
    assert found["average_tokens"] == pytest.approx((8 + 8 + 20) / 3)
    assert found["share"] == pytest.approx(0.375)
    assert found["share_of_total"] == pytest.approx(0.1875)


def test_images_of_one_size_have_one_share():
    found = entry(record(26, 16, [16, 8, 8, 0]), record(26, 16, [16, 16, 8, 8]))
    assert found["share"] == pytest.approx((8 + 12) / 32) and "share_of_total" not in found


def test_prompts_without_an_image_have_no_share_to_divide():
    assert entry(record(10, 0, [0, 0, 0, 0]))["share"] == 0
    found = entry(record(10, 0, [0, 0, 0, 0]), record(26, 16, [16, 8, 8, 0]))
    assert (found["share"], found["share_of_total"]) == (0.5, 0.5)  # of the prompt with an image


def test_all_of_a_cells_entry_comes_from_its_row_and_its_result():
    stored = recomputed.prompt_groups([record(26, 16, None)])
    result = {
        "metric": "f1", "value": 71.5, "extra": {"yes": 40.0}, "n": 9, "n_failed": 2, "n_empty": 1, "dtype": "bfloat16",
        "seconds": 3.5, "prompts": stored,
    }  # fmt: skip
    row = replace(ROW, trained=True, budget="7", group="g", label="g-s1")
    found = document.cell_entry(SimpleNamespace(task="pope"), row, result, 60, "an id")
    assert found == {
        "model": "m", "method": "fastv", "label": "g-s1", "group": "g", "trained": True, "adaptive": False,
        "average_tokens": 10.0, "share": 0.625, "kept": 4, "budget": "7", "entering": [16, 16, 4, 4],
        "image_tokens": 16, "task": "pope", "metric": "f1", "value": 71.5, "extra": {"yes": 40.0}, "n": 9,
        "n_failed": 2, "percent_of_vanilla": None,
        "warnings": ["2 of 9 samples failed (22.2 %, more than 1 %)", "1 of 7 answers are empty"],
        "flops": row.plan.flops(10), "paper_macs": row.plan.paper_macs(), "kv_bytes": row.plan.kv_bytes(10, 2),
        "text_tokens": 10.0, "seconds": 3.5, "id": "an id", "base": None,
    }  # fmt: skip


def test_the_time_of_preparing_is_the_sum_of_its_answers_and_unknown_for_older_ones():
    old, new = {**ANSWER, "doc_id": 0}, {**ANSWER, "doc_id": 1, "preparing_ms": 1500.0}
    assert recomputed.facts([new, new], {1})["preparing_seconds"] == 3.0
    assert "preparing_seconds" not in recomputed.facts([old, new], {0, 1})
    result = {**result_of(1), "preparing_seconds": 3.0, "scoring_seconds": 1.25}
    found = document.cell_entry(SimpleNamespace(task="gqa"), ROW, result, 60, "an id")
    assert (found["preparing_seconds"], found["seconds"], found["scoring_seconds"]) == (3.0, 1.0, 1.25)


def test_what_an_adaptive_method_keeps_is_not_known_once_it_was_counted():
    sparse = build("sparsevlm", {"version": "1.0"})
    row = replace(ROW, reducer=sparse, plan=TokenPlan(GEOMETRY, (16, 16, 4, 4), 4))
    result = {"metric": "f1", "value": 1.0, "extra": {}, "n": 1, "n_failed": 0, "dtype": "float32", "seconds": 1.0}

    def kept(entering: list[int] | None) -> Any:
        prompts = recomputed.prompt_groups([record(26, 16, entering)])
        whole = {**result, "prompts": prompts}
        return document.cell_entry(SimpleNamespace(task="gqa"), row, whole, 60, "an id")["kept"]

    assert kept([16, 8, 8, 0]) is None and kept(None) == 4


def test_alike_prompts_are_one_group_in_an_order_of_their_own():
    found = recomputed.prompt_groups(
        [
            record(36, 16, None),
            record(26, 16, [16, 8, 8, 0]),
            record(26, 16, None),
            record(26, 16, None),
            record(26, 16, [16, 4, 4, 0]),
            record(42, 32, None),
            record(1, 0, None, "broken"),
            {**record(26, 16, [16, 8, 8, 0]), "entering": (16, 8, 8, 0)},
        ]
    )
    assert [(p["text"], p["visual"], p["entering"], p["count"]) for p in found] == [
        (10, 16, None, 2),
        (10, 16, [16, 4, 4, 0], 1),
        (10, 16, [16, 8, 8, 0], 2),
        (10, 32, None, 1),
        (20, 16, None, 1),
    ]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"n": 5, "n_failed": 0, "n_empty": 0, "n_distinct": 2}, []),
        ({"n": 500, "n_failed": 2, "n_empty": 3, "n_distinct": 2}, ["3 of 498 answers are empty"]),
        ({"n": 500, "n_failed": 3, "n_distinct": 1}, ["all 497 answers are the same"]),
        ({"n": 500, "n_failed": 5, "n_distinct": 9}, []),
        ({"n": 500, "n_failed": 6, "n_distinct": 9}, ["6 of 500 samples failed (1.2 %, more than 1 %)"]),
        ({"n": 5, "n_failed": 4, "n_distinct": 1}, ["4 of 5 samples failed (80.0 %, more than 1 %)"]),
        ({"n": 5, "n_failed": 0}, []),
        (
            {"n": 2, "n_failed": 0, "n_empty": 2, "n_distinct": 1},
            ["2 of 2 answers are empty", "all 2 answers are the same"],
        ),
    ],
)
def test_what_looks_wrong_is_warned_about(result: Any, said: list[str]) -> None:
    assert document.warnings(result) == said


def cell(model: str, method: str, task: str, value: float | None) -> Any:
    return {"model": model, "method": method, "label": f"{method}-1", "task": task, "value": value}


def matrix(**references: str | None) -> Any:
    models = {name: SimpleNamespace(reference=reference) for name, reference in references.items()}
    return SimpleNamespace(
        models=models, protocol="lmms-eval", tasks=dict.fromkeys(TASKS, SimpleNamespace(protocol=None))
    )


def test_a_cell_is_compared_with_the_vanilla_of_its_reference_or_its_own() -> None:
    cells = [
        cell("plain", "vanilla", "gqa", 80.0),
        cell("plain", "fastv", "gqa", 60.0),
        cell("plain", "fastv", "pope", 60.0),
        cell("tuned", "hidrop", "gqa", 40.0),
        cell("alone", "fastv", "gqa", 40.0),
        cell("plain", "pdrop", "gqa", None),
        cell("zero", "vanilla", "gqa", 0.0),
    ]
    document.add_percentages(matrix(plain=None, tuned="plain", alone=None, zero=None), cells)
    assert [(c["base"], c["percent_of_vanilla"]) for c in cells] == [
        ("plain/vanilla-1/gqa", 100.0),
        ("plain/vanilla-1/gqa", 75.0),
        (None, None),
        ("plain/vanilla-1/gqa", 50.0),
        (None, None),
        ("plain/vanilla-1/gqa", None),
        ("zero/vanilla-1/gqa", None),
    ]


def test_statistics_are_those_of_the_cells_whose_samples_are_known() -> None:
    def scores(*values: float) -> list[Any]:
        common = {"target": "a", "category": None, "group": None}
        return [
            {**common, "doc_id": i, "score": score, "reading": str(score), "image_key": i}
            for i, score in enumerate(values)
        ]

    cells = [
        cell("plain", "vanilla", "gqa", 50.0),
        cell("tuned", "hidrop", "gqa", 25.0),
        cell("plain", "fastv", "gqa", 25.0),
        cell("alone", "fastv", "gqa", 50.0),
        cell("plain", "vanilla", "textvqa_val", 100.0),
    ]
    known = {
        ("plain", "vanilla-1", "textvqa_val"): scores(1, 1),
        ("plain", "vanilla-1", "gqa"): scores(1, 1, 0, 0),
        ("tuned", "hidrop-1", "gqa"): scores(1, 0, 0, 0),
        ("alone", "fastv-1", "gqa"): scores(1, 1, 0, 0),
    }
    (together,) = document.add_stats(matrix(plain=None, tuned="plain", alone=None), cells, known)
    assert together["task"] == "gqa" and together["rows"] == ["plain/vanilla-1", "tuned/hidrop-1", "alone/fastv-1"]
    first, second, third = together["upper"]
    assert first[0] == second[0] and 0.4 < first[0] < 0.7 and first[1] == 1.0 and third == []  # expected: 0.577
    assert "stats" not in cells[2] and "against" not in cells[0]["stats"] and "against" not in cells[3]["stats"]
    against = cells[1]["stats"]["against"]
    assert (against["difference"], against["gained"], against["lost"], against["loyalty"]) == (-25.0, 0, 1, 75.0)
    assert against["p_holm"] == against["p"] == 1.0
    assert cells[4]["stats"] == {"interval": [100.0, 100.0]} and cells[0]["stats"]["interval"] != [100.0, 100.0]


def test_a_document_names_the_versions_of_its_data(tmp_path) -> None:
    from evals.matrix.schema import load_matrix
    from evals.store.result_document import RESULTS

    text = 'protocol: llava\nmodels: {a: {source: "mini:vanilla"}}\nmethods: {vanilla: {}}\ntasks:\n  gqa: {data: d}\n'
    for more, versions in (("", None), ("  pope: {data: d, version: llava}\n", {"pope": "llava"})):
        (tmp_path / "own.yaml").write_text(text + more)
        matrix = load_matrix(tmp_path / "own.yaml")
        found = document.build(matrix, tmp_path, "cpu", [], [], [], {})
        assert found.get("data_versions") == versions
        (tmp_path / "leaderboard.json").write_text(json.dumps(found))
        assert RESULTS.read(tmp_path / "leaderboard.json").get("data_versions") == versions


def test_a_document_has_the_number_of_rows_of_its_files(tmp_path) -> None:
    import pyarrow
    import pyarrow.parquet

    from evals.matrix.schema import load_matrix

    (tmp_path / "own.yaml").write_text(
        'protocol: llava\nlimit: 2\nmodels: {a: {source: "mini:vanilla"}}\nmethods: {vanilla: {}}\n'
        f"tasks:\n  gqa: {{data: {tmp_path}}}\n  pope: {{data: mini}}\n  textvqa_val: {{data: gone}}\n"
    )
    (tmp_path / "gqa").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a", "b", "c"]}), tmp_path / "gqa/testdev.parquet")
    matrix = load_matrix(tmp_path / "own.yaml")
    assert document.data_rows(matrix, ["gqa", "pope", "textvqa_val"]) == {"gqa": 3}
    assert document.data_rows(matrix, ["pope"]) == {}
    (tmp_path / "gqa/testdev.parquet").write_bytes(b"replaced")
    assert document.data_rows(matrix, ["gqa"]) == {}


def test_the_plan_is_used_where_no_prompt_was_answered():
    assert entry(record(0, 0, None, "broken"))["flops"] == ROW.plan.flops(60)
