"""Tables of differences and flips, and the caption's words on them, follow from the tasks of a document."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from evals.report.caption import caption
from evals.report.differences import difference_sheet, flip_sheet
from evals.report.files import csv_text
from hidrop.plan import Cut, Schedule

FREE = Schedule(cuts=(Cut(1, 4),))
AGAINST = {
    "difference": -4.25,
    "interval": [-6.25, -2.24],
    "p": 0.001,
    "p_holm": 0.002,
    "gained": 1,
    "lost": 9,
    "loyalty": 89.6,
}


@pytest.fixture
def compared(cell: Callable[..., dict[str, Any]], document_of: Callable[..., Any]) -> Callable[..., Any]:
    """A function from tasks to a document with vanilla of two models, and one method of the first model."""

    def made(*tasks: str, against: dict[str, Any] | None = None, **stats: float) -> Any:
        rows = (
            ("m", "vanilla", Schedule(), stats),
            ("m", "fastv", FREE, {**stats, "against": against or AGAINST}),
            ("n", "vanilla", Schedule(), {}),
        )
        return document_of(
            cells=[
                cell(model, label, schedule, task, 50.0, stats={"interval": [0, 1], **own})
                for task in tasks
                for model, label, schedule, own in rows
            ]
        )

    return made


def lines(sheet: Any) -> list[list[str]]:
    return [[entry.text for entry in row] for _, rows in sheet.sections for row in rows]


def test_differences_have_an_interval_and_a_mark(compared: Callable[..., Any]) -> None:
    sheet = difference_sheet(compared("gqa", "of another version"))
    assert sheet is not None and sheet.headers == ("Model", "Method", "GQA", "of another version")
    assert [title for title, _ in sheet.sections] == ["m", "n"]
    marked = "-4.2 [-6.2, -2.2] *"
    assert lines(sheet) == [["m", "vanilla", "-", "-"], ["m", "fastv", marked, marked], ["n", "vanilla", "-", "-"]]
    sheet = difference_sheet(
        compared("gqa", against={**AGAINST, "difference": 3.0, "interval": [0, 7.06], "p_holm": 1})
    )
    assert lines(sheet)[1] == ["m", "fastv", "+3.0 [+0.0, +7.1]"]


def test_flips_have_a_column_for_each_further_statistic_of_a_task(compared: Callable[..., Any]) -> None:
    sheet = flip_sheet(compared("gqa", "pope", yes_ratio=61.27))
    assert sheet is not None and sheet.headers == ("Model", "Method", "GQA", "POPE", "POPE yes %")
    assert lines(sheet) == [
        ["m", "vanilla", "-", "-", "61.3"],
        ["m", "fastv", "+1 -9, 90 %", "+1 -9, 90 %", "61.3"],
        ["n", "vanilla", "-", "-", "-"],
    ]
    sheet = flip_sheet(compared("gqa"))
    assert sheet is not None and sheet.headers == ("Model", "Method", "GQA")


def test_without_a_comparison_there_are_no_such_tables(compared: Callable[..., Any]) -> None:
    alone = compared("gqa")
    alone["cells"] = [entry for entry in alone["cells"] if entry["label"] == "vanilla"]
    assert difference_sheet(alone) is None and flip_sheet(alone) is None
    assert "Statistics" not in dict(caption(alone))


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        (("gqa", "pope"), "Flips: samples that went from wrong to right, from right to wrong, and"),
        (
            ("gqa", "mmbench_en_dev"),
            "Flips: samples (MMBench: questions with all their rotations) that went from wrong to right, from right to "
            "wrong, and",
        ),
        (("textvqa_val",), "from right to wrong (TextVQA's soft score: right from 0.5 on), and"),
    ],
)
def test_the_caption_explains_the_flips_of_the_documents_tasks(
    tasks: tuple[str, ...], words: str, compared: Callable[..., Any]
) -> None:
    text = dict(caption(compared(*tasks)))["Statistics"]
    assert words in text and f"Holm's correction for {len(tasks)} comparisons" in text


def test_where_smaller_is_better_no_flip_is_a_gain(compared: Callable[..., Any]) -> None:
    document = compared("gqa", "iconqa_val")
    for entry in document["cells"]:
        if entry["task"] == "iconqa_val":
            entry["lower_is_better"] = True
    sheet = flip_sheet(document)
    assert sheet is not None and lines(sheet)[1] == ["m", "fastv", "+1 -9, 90 %", "90 %"]
    line = next(line for line in csv.DictReader(io.StringIO(csv_text(document))) if line["label"] == "fastv")
    assert (line["gqa_gained"], line["gqa_lost"]) == ("1", "9")
    assert (line["iconqa_val_gained"], line["iconqa_val_lost"], line["iconqa_val_loyalty"]) == ("", "", "89.6")
