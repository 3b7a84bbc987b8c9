"""Results tables on narrow screens: nothing is wrapped or cut, and what is left out is named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evals import report
from evals.report.narrow import blocks, main_sheets_within, sheet_width, without_model
from evals.report.tables import Entry, Sheet, main_sheets
from evals.report.text import layout
from evals.store.folders import read_document

MINI = Path("results/mini")


@pytest.fixture(scope="module")
def mini() -> Any:
    """32 rows of three models, four tasks, seeds and timings."""
    return read_document(MINI)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 200])
def test_every_table_fits(mini: Any, width: int) -> None:
    found = main_sheets_within(mini, width)
    assert max(map(sheet_width, found.sheets)) <= width
    assert bool(found.left_out) == (width < sheet_width(*main_sheets(mini)))


def test_columns_go_by_importance_and_scores_stay(mini: Any) -> None:
    wide, narrow = main_sheets_within(mini, 120), main_sheets_within(mini, 80)
    (sheet,) = narrow.sheets
    assert sheet.headers == ("Method", "GQA", "MMBench", "TextVQA", "POPE", "% of vanilla", "Prefill ms")
    assert wide.left_out == narrow.left_out[: len(wide.left_out)]
    assert narrow.left_out[0] == "Model (mini-vanilla, where no other is named)"
    assert narrow.left_out[1:3] == ("Request ms", "Prefill speed-up")
    assert {"Paper MMAC", "KV MiB", "95th percentiles of Prefill ms", "ranges of the seeds"} <= set(narrow.left_out)
    names = [row[0].text for _, rows in sheet.sections for row in rows]
    assert "trained (mini-hidrop)" in names and "fastv-11%" in names
    whole = {
        row[1].text: row for _, rows in main_sheets(mini)[0].sections for row in rows if row[0].text == "mini-vanilla"
    }
    for _, rows in sheet.sections:
        for row in rows:
            if row[0].text in whole:
                assert row[1].text == whole[row[0].text][3].text.partition(" ±")[0], "the same score"


def test_a_table_that_is_too_wide_anyway_comes_in_blocks() -> None:
    row = tuple(map(Entry, ("name", "12.3", "45.6", "78.9")))
    sheet = Sheet("Scores", ("Method", "First", "Second", "Third"), (("all", (row,)),), text_columns=1)
    first, second = blocks(sheet, 22)
    assert (first.headers, second.headers) == (("Method", "First", "Second"), ("Method", "Third"))
    assert second.title == "Scores (continued)"
    assert [entry.text for entry in second.sections[0][1][0]] == ["name", "78.9"]
    assert blocks(sheet, 200) == [sheet]


def test_a_model_that_is_the_sections_title_needs_no_column() -> None:
    rows = (tuple(map(Entry, ("m", "a", "1"))), tuple(map(Entry, ("m", "b", "2"))))
    sheet = Sheet("", ("Model", "Method", "GQA"), (("m", rows),))
    assert [[entry.text for entry in row] for row in without_model(sheet).sections[0][1]] == [["a", "1"], ["b", "2"]]
    other = Sheet("", ("Model", "Method", "GQA"), (("another title", rows),))
    assert without_model(other) == other


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_ends_with_the_results_and_who_is_best(mini: Any, width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(report.render_table(mini))
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, shown)) <= width
    text = "\n".join(shown)
    parts = ("Differences from vanilla", "leaderboard.md", "-- All visual", "(25 tokens) on average, training-free: ")
    places = [text.index(words) for words in parts]
    assert places == sorted(places)
    assert ("Left out at this width: Model" in text) == (width == 80)
    assert not text.rstrip().endswith("%"), "the last line is the end of a sentence"
    for sheet in main_sheets_within(mini, width).sheets:
        for kind, fields in layout(sheet):
            if kind == "row":
                assert "  ".join(entry.text for entry in fields) in text, "whole rows"
