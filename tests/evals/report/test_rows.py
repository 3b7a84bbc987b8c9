"""From a document's entries to rows: which entry says what of a row, and what counts as missing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from evals.report.rows import mean, number, rows_of, sizes_are_of_profile, tasks_of

CELL = {
    "model": "m",
    "label": "fastv-7",
    "method": "fastv",
    "group": "fastv",
    "trained": False,
    "task": "gqa",
    "value": 60.0,
    "percent_of_vanilla": 90.0,
    "average_tokens": 7.0,
    "share": 0.4375,
    "kept": 4,
    "budget": "7",
    "entering": [16, 4, 4, 4],
    "flops": 100.0,
    "paper_macs": 10.0,
    "kv_bytes": 1000.0,
    "image_tokens": 16,
    "warnings": [],
}
PROFILE = {
    "model": "m",
    "method": "fastv",
    "label": "fastv-7",
    "batch": 1,
    "entering": [16, 5, 5, 5],
    "flops": 300.0,
    "paper_macs": 30.0,
    "kv_bytes": 3000.0,
    "prefill_ms": {"median": 5.0, "p95": 6.0},
}
FAILED = {
    "model": "m",
    "label": "fastv-7",
    "method": "fastv",
    "group": "fastv",
    "task": "pope",
    "error": "x",
    "trained": True,
    "budget": "9",
    "average_tokens": 9.0,
    "share": 0.5,
    "kept": 5,
    "entering": [16, 6, 6, 6],
    "image_tokens": 18,
}


def document_of(**parts: Any) -> Any:
    """A result document with these parts; the others are empty."""
    return {"cells": [], "profiles": [], "failed": [], "budget_reading": "average", **parts}


def row_of(**parts: Any) -> Any:
    [row] = rows_of(document_of(**parts))
    return row


def test_the_order_of_entries_says_which_tasks_and_rows_there_are() -> None:
    cells = [{**CELL, "label": label, "task": task} for label, task in (("b", "pope"), ("a", "gqa"), ("a", "pope"))]
    failed = [{**FAILED, "label": "c", "task": "textvqa_val"}, {**FAILED, "label": "a", "task": None}]
    profiles = [{**PROFILE, "label": "d"}, {**PROFILE, "label": "a"}]
    document = document_of(cells=cells, failed=failed, profiles=profiles)
    assert tasks_of(document) == ["pope", "gqa", "textvqa_val"]
    assert [(row.model, row.label) for row in rows_of(document)] == [("m", label) for label in "badc"]


def test_a_cell_says_more_of_its_row_than_a_profile_and_that_more_than_a_failure() -> None:
    """Where they contradict each other. What only one of them knows is taken from there."""
    row = row_of(cells=[CELL], profiles=[PROFILE], failed=[FAILED])
    assert (row.kept, row.budget, row.trained, row.paper_macs) == (4, "7", False, 10.0)
    assert (row.average_tokens, row.share, row.image_tokens) == (7.0, 0.4375, 16)
    row = row_of(profiles=[PROFILE], failed=[FAILED])
    assert (row.kept, row.budget, row.trained, row.paper_macs) == (5, "9", True, 30.0)
    assert (row.average_tokens, row.share, row.entering) == (9.0, 0.5, (16, 5, 5, 5))
    row = row_of(failed=[FAILED])
    assert (row.method, row.group, row.kept, row.budget, row.image_tokens) == ("fastv", "fastv", 5, "9", 18)
    row = row_of(profiles=[PROFILE])
    assert (row.method, row.group, row.label, row.trained) == ("fastv", "fastv-7", "fastv-7", False)
    assert (row.average_tokens, row.kept, row.entering) == ((16 + 5 + 5 + 5) / 4, None, (16, 5, 5, 5))


def test_of_several_cells_or_failures_the_first_supplies_what_they_share() -> None:
    second = {**CELL, "task": "pope", "kept": 9, "paper_macs": 99.0}
    row = row_of(cells=[CELL, second])
    assert (row.kept, row.paper_macs) == (4, 10.0)
    row = row_of(failed=[FAILED, {**FAILED, "task": "gqa", "kept": 9}])
    assert row.kept == 5


def test_numbers_that_depend_on_the_prompt_are_means_over_the_tasks() -> None:
    second = {**CELL, "task": "pope", "value": 70.0, "percent_of_vanilla": 100.0, "average_tokens": 9.0}
    second |= {"share": 0.5625, "flops": 200.0, "kv_bytes": 3000.0}
    row = row_of(cells=[CELL, second])
    assert (row.average_tokens, row.share, row.flops, row.kv_bytes) == (8.0, 0.5, 150.0, 2000.0)
    assert row.scores == {"gqa": 60.0, "pope": 70.0} and row.percent_of_vanilla == 95.0


def test_the_share_of_all_tokens_together_is_the_samples_mean_where_a_cell_has_no_other() -> None:
    assert row_of(cells=[CELL]).share_of_total == 0.4375
    second = {**CELL, "task": "pope", "share": 0.5625, "share_of_total": 0.3125}
    row = row_of(cells=[CELL, second])
    assert (row.share, row.share_of_total) == (0.5, 0.375)
    assert row_of(failed=[FAILED]).share_of_total == 0.5


def test_the_average_of_a_row_without_cells_follows_from_what_enters_its_layers() -> None:
    failed = {key: value for key, value in FAILED.items() if key != "average_tokens"}
    assert row_of(failed=[failed]).average_tokens == (16 + 6 + 6 + 6) / 4


def test_operations_are_the_profiles_only_if_every_row_has_one() -> None:
    other = {**CELL, "label": "pdrop"}
    row, rest = rows_of(document_of(cells=[CELL, other], profiles=[PROFILE]))
    assert (row.flops, row.kv_bytes, rest.flops) == (100.0, 1000.0, 100.0)
    document = document_of(cells=[CELL, other], profiles=[PROFILE, {**PROFILE, "label": "pdrop"}])
    row, rest = rows_of(document)
    assert (row.flops, row.kv_bytes, rest.flops) == (300.0, 3000.0, 300.0)
    assert sizes_are_of_profile(document) and not sizes_are_of_profile(document_of(cells=[CELL]))
    assert not sizes_are_of_profile(document_of()) and sizes_are_of_profile(document_of(profiles=[PROFILE]))
    rows = rows_of(document_of(cells=[other], profiles=[PROFILE]))
    assert [row.flops for row in rows] == [100.0, 300.0]  # a row without cells has nothing but its profile


def test_the_smallest_batch_is_the_rows_profile() -> None:
    row = row_of(cells=[CELL], profiles=[{**PROFILE, "batch": 4, "prefill_ms": {"median": 9.0}}, PROFILE])
    assert row.profile == PROFILE
    assert (row.millis("prefill_ms"), row.millis("prefill_ms", "p95")) == (5.0, 6.0)


def test_a_failure_of_a_task_or_of_the_timing_shows_in_its_place() -> None:
    row = row_of(cells=[CELL], failed=[FAILED])
    assert row.scores == {"gqa": 60.0, "pope": "failed"} and not row.timing_failed
    assert row.percent_of_vanilla is None
    row = row_of(cells=[CELL], failed=[{**FAILED, "task": None}])
    assert row.scores == {"gqa": 60.0} and row.timing_failed
    rows = rows_of(document_of(cells=[CELL, {**CELL, "label": "pdrop", "task": "pope"}]))
    assert [row.scores for row in rows] == [{"gqa": 60.0, "pope": None}, {"gqa": None, "pope": 60.0}]


def test_statistics_and_warnings_are_those_of_the_cells_that_have_them() -> None:
    against = {"against": {"p_holm": 0.049}}
    second = {**CELL, "task": "pope", "stats": against, "warnings": ["all answers are the same"]}
    row = row_of(cells=[CELL, second])
    assert row.stats == {"pope": against} and row.warnings == {"pope": ("all answers are the same",)}
    assert row.significant("pope") and not row.significant("gqa") and not row.significant("textvqa_val")
    second["stats"] = {"against": {"p_holm": 0.05}}
    assert not row_of(cells=[second]).significant("pope")
    second["stats"] = {"interval": [0, 1]}
    assert not row_of(cells=[second]).significant("pope")


def test_the_tokens_of_an_image_are_stated_or_follow_from_the_share_or_the_layers() -> None:
    bare = {name: value for name, value in CELL.items() if name != "image_tokens"}
    assert row_of(cells=[{**CELL, "image_tokens": 17}]).visual_tokens == 17
    injected = {**bare, "entering": [0, 14, 14, 0], "average_tokens": 7.0}
    assert row_of(cells=[injected]).visual_tokens == 16  # none of the layers sees all tokens
    assert row_of(cells=[bare]).visual_tokens == 16
    assert row_of(cells=[{**bare, "share": 0.43}]).visual_tokens == 16  # 16.28, rounded
    assert row_of(cells=[{**bare, "share": 0.0}]).visual_tokens == 16
    assert row_of(cells=[CELL]).architecture == (4, 16)


@pytest.mark.parametrize(
    ("budget", "reading", "kept", "tokens"),
    [
        ("7", "average", 4, 7.0),
        ("43.75%", "average", 4, 7.0),
        (9, "kept", 4, 9.0),
        (None, "average", 4, 7.0),
        (None, "kept", 4, 4),
        (None, "kept", None, 7.0),
    ],
)
def test_nominal_tokens(budget: Any, reading: str, kept: int | None, tokens: float) -> None:
    row = row_of(cells=[{**CELL, "budget": budget, "kept": kept}], budget_reading=reading)
    assert row.nominal_tokens == tokens


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "60", []])
def test_what_is_not_a_finite_number_is_missing(value: Any) -> None:
    assert number(value) is None and number(3) == 3.0 and isinstance(number(3), float)
    row = row_of(cells=[{**CELL, "value": value, "percent_of_vanilla": value}])
    assert (row.scores, row.percent_of_vanilla) == ({"gqa": None}, None)
    row = row_of(profiles=[{**PROFILE, "prefill_ms": {"median": value}}])
    assert row.millis("prefill_ms") is None


def test_a_mean_needs_all_values() -> None:
    assert mean([1.0, 3.0]) == 2.0
    assert mean([1.0, None]) is None and mean([None]) is None and mean([]) is None
