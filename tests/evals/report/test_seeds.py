"""Rows that differ only in the seed are joined: which row stays, what is averaged, and what is dropped."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from evals.report.columns import row_score
from evals.report.rows import TableRow, rows_of
from evals.report.seeds import together

STATS = {"interval": [1.0, 2.0]}


def cell(model: str, place: int, label: str, group: str, task: str, value: float | None) -> dict[str, Any]:
    return {
        "model": model,
        "label": label,
        "method": "random",
        "group": group,
        "task": task,
        "value": value,
        "percent_of_vanilla": None if value is None else value + 10,
        "kept": 10 * place,
        "average_tokens": 20.0 * place,
        "share": 0.2 * place,
        "entering": [20 * place],
        "flops": 100.0,
        "kv_bytes": 1000.0,
        "stats": STATS,
        "warnings": [],
    }


def rows(*values: tuple[str, str, float | None, float | None], **document: Any) -> list[TableRow]:
    """A row for each (label, group, gqa, pope)."""
    cells = [
        cell("m", place, label, group, task, value)
        for place, (label, group, *scores) in enumerate(values, start=1)
        for task, value in zip(("gqa", "pope"), scores, strict=True)
    ]
    return rows_of(document_of(cells=cells, **document))


def document_of(**parts: Any) -> Any:
    """A result document with these parts; the others are empty."""
    return {"cells": [], "profiles": [], "failed": [], "budget_reading": "average", **parts}


def test_two_seeds_are_one_row_with_their_mean_and_half_of_their_range() -> None:
    [row] = together(rows(("random-s0", "random", 60.0, 70.0), ("random-s1", "random", 66.0, 80.0)))
    assert (row.label, row.seeds) == ("random", 2)
    assert row.scores == {"gqa": 63.0, "pope": 75.0}
    assert row.spread == {"gqa": 3.0, "pope": 5.0}
    assert row.percent_of_vanilla == pytest.approx((75 + 83) / 2)  # of each seed the mean of its tasks


def test_the_mean_of_a_group_is_over_the_seeds_too() -> None:
    values = ("random-s0", "random", 60.0, 70.0), ("random-s1", "random", 66.0, 80.0)
    [row] = together(rows(*values, groups={"both": ["gqa", "pope"], "one": ["gqa"]}))
    assert row.groups == {"both": 69.0, "one": 63.0}


def test_the_spread_has_the_decimals_of_the_score() -> None:
    cells = [
        {**cell("m", 1, f"s{seed}", "random", task, value * scale), "own_scale": task == "chartqa"}
        for seed, value in enumerate((0.8, 0.83))
        for task, scale in (("gqa", 100), ("chartqa", 1))
    ]
    [row] = together(rows_of(document_of(cells=cells)))
    assert (row_score(row, "gqa"), row_score(row, "chartqa")) == ("81.5 ± 1.5", "0.815 ± 0.015")


def test_the_spread_is_half_of_the_range_not_a_deviation() -> None:
    three = rows(("s0", "random", 60.0, 1.0), ("s1", "random", 66.0, 2.0), ("s2", "random", 63.3, 3.0))
    [row] = together(three)
    assert row.seeds == 3 and row.scores["gqa"] == pytest.approx(63.1) and row.spread["gqa"] == pytest.approx(3.0)


def test_the_first_seed_supplies_whatever_is_not_averaged() -> None:
    first, second = rows(("random-s0", "random", 60.0, 70.0), ("random-s1", "random", 66.0, 80.0))
    [joined] = together([first, second])
    averaged = {"label", "seeds", "scores", "spread", "stats", "warnings"}
    averaged |= {"groups", "percent_of_vanilla", "timing_failed", "significant_in_every_seed"}
    for field in fields(TableRow):
        if field.name not in averaged:
            assert getattr(joined, field.name) == getattr(first, field.name), field.name
    assert (joined.kept, joined.average_tokens) == (10, 20.0) != (second.kept, second.average_tokens)
    [joined] = together([second, first])
    assert (joined.kept, joined.average_tokens) == (20, 40.0)


def test_a_lone_row_keeps_its_label_and_statistics() -> None:
    [row] = together(rows(("random-s0", "random", 60.0, 70.0)))
    assert (row.label, row.seeds, row.spread) == ("random-s0", 1, {})
    assert row.stats == {"gqa": STATS, "pope": STATS}


def test_joined_rows_have_no_statistics_because_those_are_of_one_seed() -> None:
    [row] = together(rows(("s0", "random", 60.0, 70.0), ("s1", "random", 66.0, 80.0)))
    assert row.stats == {}


def test_a_joined_row_is_significant_where_every_seed_is() -> None:
    def compared(p: float) -> dict[str, Any]:
        return {**STATS, "against": {"difference": -3.0, "interval": [-5.0, -1.0], "p": p, "p_holm": p}}

    cells = [
        {**cell("m", 1, f"s{seed}", "random", task, 60.0), "stats": compared(p)}
        for seed, p in enumerate((0.01, 0.02))
        for task, p in (("gqa", p), ("pope", 0.01 if seed else 0.2))
    ]
    [row] = together(rows_of(document_of(cells=cells)))
    assert (row.significant("gqa"), row.significant("pope")) == (True, False)


def test_a_joined_row_takes_the_place_of_its_first_seed_and_others_stay_apart() -> None:
    found = together(
        rows(
            ("a", "a", 1.0, 1.0),
            ("random-s0", "random", 60.0, 70.0),
            ("b", "b", 2.0, 2.0),
            ("random-s1", "random", 66.0, 80.0),
        )
    )
    assert [(row.label, row.seeds) for row in found] == [("a", 1), ("random", 2), ("b", 1)]
    cells = [cell(model, 1, f"s{seed}", "random", "gqa", 1.0) for model in ("m", "n") for seed in (0, 1)]
    assert [(row.model, row.seeds) for row in together(rows_of(document_of(cells=cells)))] == [("m", 2), ("n", 2)]


def test_a_seed_without_a_score_leaves_the_joined_row_without_one() -> None:
    [row] = together(rows(("s0", "random", 60.0, 70.0), ("s1", "random", None, 80.0)))
    assert row.scores == {"gqa": None, "pope": 75.0} and row.spread == {"gqa": None, "pope": 5.0}
    assert row.percent_of_vanilla is None


def test_a_seed_that_failed_fails_the_joined_row() -> None:
    names = {"model": "m", "label": "s1", "method": "random", "group": "random", "entering": [40], "error": "x"}
    failed = [{**names, "task": "gqa"}]
    [row] = together(rows(("s0", "random", 60.0, 70.0), failed=failed))
    assert row.scores == {"gqa": "failed", "pope": None} and row.spread == {"gqa": None, "pope": None}
    assert not row.timing_failed
    timing = [{**names, "task": None}]
    [row] = together(rows(("s0", "random", 60.0, 70.0), ("s1", "random", 66.0, 80.0), failed=timing))
    assert row.timing_failed and row.scores["gqa"] == 63.0


def test_warnings_of_any_seed_are_those_of_the_joined_row() -> None:
    first, second = rows(("s0", "random", 60.0, 70.0), ("s1", "random", 66.0, 80.0))
    first.warnings["gqa"] = ("one", "both")  # type: ignore[index]
    second.warnings.update(gqa=("other", "both"), pope=("two",))  # type: ignore[attr-defined]
    assert together([first, second])[0].warnings == {"gqa": ("one", "both", "other"), "pope": ("two",)}
