"""The table Paper / Reproduced / Difference: which published score meets which row, and the verdict on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evals.report.page import html
from evals.report.reproduced import TITLE, reading, reproduced, reproduced_sheet
from evals.report.text import markdown, plain_text
from evals.report.verdict import of_score
from hidrop.geometry import PRESETS
from hidrop.plan import Cut, Schedule

GEOMETRY = PRESETS["llava-1.5-7b"]


def lines(document: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the table, each by column."""
    sheet = reproduced_sheet(document)
    assert sheet is not None
    return [
        dict(zip(sheet.headers, (field.text for field in row), strict=True))
        for _, rows in sheet.sections
        for row in rows
    ]


def line(document: dict[str, Any], published: str, source: str) -> dict[str, str]:
    (found,) = [one for one in lines(document) if (one["Published"], one["Source"]) == (published, source)]
    return found


@pytest.mark.parametrize(
    ("interval", "published", "samples", "word"),
    [
        ((60.1, 61.9), 61.9, 500, "agrees"),
        ((60.1, 61.9), 62.0, 500, "differs"),
        ((60.1, 61.9), 60.0, 500, "differs"),
        ((58.9, 63.1), 61.0, 500, "too few samples"),
        ((60.1, 61.9), 62.0, 29, "too few samples"),
        ((61.0, 61.0), 61.0, 30, "agrees"),
    ],
)
def test_the_verdict_follows_from_the_interval_of_the_measured_score(
    interval: tuple[float, float], published: float, samples: int, word: str
) -> None:
    found = of_score(61.0, interval, published, samples)
    assert found.verdict == word
    assert found.difference == pytest.approx(61.0 - published)
    assert (found.low, found.high) == pytest.approx((interval[0] - published, interval[1] - published))


def test_the_margin_of_a_score_is_two_percent_of_its_scale() -> None:
    assert of_score(1500.0, (1475.0, 1530.0), 1510.7, 2374, top=2000.0).verdict == "agrees"
    assert of_score(1500.0, (1450.0, 1551.0), 1510.7, 2374, top=2000.0).verdict == "too few samples"


def test_each_published_score_has_its_difference_and_a_verdict(paper: dict[str, Any]) -> None:
    paper["cells"][0]["stats"] = {"interval": [60.1, 61.95]}
    found = line(paper, "vanilla", "HiDrop")
    assert (found["Paper"], found["Reproduced"], found["Difference"]) == ("61.9", "61.0", "-0.9")
    assert (found["Verdict"], found["95 % interval"]) == ("agrees", "[-1.8, +0.1]")
    assert line(paper, "vanilla", "PDrop Tab. 1")["Verdict"] == "differs"
    assert line(paper, "hidrop 64, trained", "HiDrop")["Verdict"] == "no interval"
    assert line(paper, "hidrop 64, trained", "HiDrop")["Row"] == "hidrop-64, hidrop"


def test_what_was_published_for_these_methods_and_not_measured_is_named_and_counted(paper: dict[str, Any]) -> None:
    """The run has FastV at 64 tokens and no PDrop: FastV at 192 is missing, and PDrop is not asked for."""
    found = line(paper, "fastv 192", "SparseVLM Tab. 1")
    assert (found["Verdict"], found["Paper"], found["Reproduced"]) == ("not run", "52.6", "-")
    assert not any(one["Published"].startswith("pdrop") for one in lines(paper))
    sheet = reproduced_sheet(paper)
    assert sheet is not None
    missing = sum(one["Verdict"] == "not run" for one in lines(paper))
    assert sheet.sections[0][0] == f"llava-1.5-7b: {len(lines(paper)) - missing} no interval, {missing} not run"


def test_scores_of_one_published_row_that_were_not_run_are_one_line(paper_full: dict[str, Any]) -> None:
    paper_full["cells"] = [c for c in paper_full["cells"] if c["method"] != "fastv" or c["task"] == "gqa"]
    found = [one for one in lines(paper_full) if one["Source"] == "RESTORE Tab. 1" and one["Published"] == "fastv 64"]
    assert [(one["Task"], one["Verdict"]) for one in found[:1]] == [("GQA", "no interval")]
    assert len(found) == 2 and found[1]["Verdict"] == "not run" and "GQA" not in found[1]["Task"]
    assert len(found[1]["Task"].split(", ")) == len(found[1]["Paper"].split(", ")) > 1


def test_a_failed_cell_is_not_one_that_was_not_run(
    cell: Callable[..., dict[str, Any]],
    failure: Callable[..., dict[str, Any]],
    document_of: Callable[..., dict[str, Any]],
) -> None:
    whole = cell("m", "vanilla", Schedule(), "pope", 86.0, geometry=GEOMETRY)
    lost = failure("m", "vanilla", "gqa", "boom")
    document = document_of(matrix="paper", cells=[whole], failed=[lost])
    found = next(one for one in lines(document) if one["Task"] == "GQA")
    assert (found["Verdict"], found["Reproduced"], found["Difference"]) == ("failed", "failed", "-")


def test_two_rows_at_one_budget_are_both_compared(
    cell: Callable[..., dict[str, Any]], document_of: Callable[..., dict[str, Any]]
) -> None:
    cut = Schedule(cuts=(Cut(2, 30),))
    rows = [cell(f"m{i}", "fastv", cut, "gqa", 46.0 + i, geometry=GEOMETRY, budget="64") for i in (0, 1)]
    found = [one for one in lines(document_of(matrix="paper", cells=rows)) if one["Source"] == "HiDrop"]
    assert [(one["Row"], one["Difference"]) for one in found] == [("m0, fastv", "-2.8"), ("m1, fastv", "-1.8")]


def test_the_files_have_the_table_and_the_terminal_does_not(paper: dict[str, Any], tmp_path: Any) -> None:
    text = markdown(paper)
    assert f"## {TITLE}" in text and f"- **{TITLE}**: " in text and "| not run |" in text
    assert TITLE in html(paper, tmp_path)
    assert TITLE not in plain_text(paper)
    assert "the first" not in reading(paper) and "first 100 samples" in reading({**paper, "limit": 100})


def test_a_run_without_published_numbers_has_no_table(document: dict[str, Any]) -> None:
    assert reproduced(document) == [] and reproduced_sheet(document) is None and reading(document) == ""
