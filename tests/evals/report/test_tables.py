from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evals import report
from evals.report.files import csv_text
from evals.report.latex import latex
from evals.report.rows import rows_of
from evals.report.sections import boards
from evals.report.tables import batch_sheet, main_sheets
from evals.report.text import escape, markdown, plain_table
from hidrop.plan import Cut, Schedule

GOLDEN = Path(__file__).with_name("leaderboard.md")
Cell = Callable[..., dict[str, Any]]


def titles(document: dict[str, Any]) -> list[str]:
    return [section.title for board in boards(document) for section in board.sections]


def test_markdown_is_the_golden_one(document: dict[str, Any]) -> None:
    assert markdown(document) == GOLDEN.read_text()


def test_every_line_of_a_markdown_table_has_as_many_fields_as_its_header(document: dict[str, Any]) -> None:
    document["cells"][0]["model"] = "a|b"
    lines = [line.replace("\\|", "") for line in markdown(document).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_markdown_shows_names_literally() -> None:
    assert escape("a|b*c_d<e`f[g\\h\ni") == "a\\|b\\*c\\_d\\<e\\`f\\[g\\\\h i"


def test_there_is_one_row_per_model_and_label(document: dict[str, Any]) -> None:
    names = [(row.model, row.label) for row in rows_of(document)]
    assert names == [("mini", "vanilla"), ("mini", "fastv-7"), ("mini", "random-7"), ("mini-hidrop", "hidrop")]


def test_sections_go_from_all_tokens_down_with_trained_apart(cell: Cell, document: dict[str, Any]) -> None:
    from hidrop.plan import Cut, Schedule

    document["cells"].append(cell("mini", "fastv-10", Schedule(cuts=(Cut(1, 8),)), "gqa", 70.0, budget="10"))
    assert titles(document) == [
        "All visual tokens",
        "62.5 % (10 tokens) on average, training-free",
        "43.8 % (7 tokens) on average, training-free",
        "31.2 % (5 tokens) on average, trained",
    ]


def test_a_row_without_a_budget_joins_the_budget_its_average_is_near(cell: Cell, document_of: Cell) -> None:
    from hidrop.geometry import PRESETS
    from hidrop.plan import Cut, Schedule

    geometry = PRESETS["llava-1.5-7b"]
    hidrop = Schedule(9, (Cut(10, 453), Cut(13, 10), Cut(16, 5), Cut(19, 1)), 25)
    fastv = Schedule(cuts=(Cut(2, 47),))
    cells = [
        cell("b", "hidrop", hidrop, "gqa", 60.0, geometry=geometry, trained=True),
        cell("a", "fastv", fastv, "gqa", 50.0, geometry=geometry, budget="80"),
    ]
    assert titles(document_of(cells=cells)) == [
        "13.9 % (80 tokens) on average, training-free",
        "13.9 % (80 tokens) on average, trained",
    ]


def test_a_budget_in_percent_is_one_of_tokens(cell: Cell, document_of: Cell) -> None:
    from hidrop.plan import Cut, Schedule

    fastv = cell("a", "fastv", Schedule(cuts=(Cut(1, 4),)), "gqa", 50.0, budget="43.75%")
    rows = rows_of(document_of(cells=[fastv]))
    assert rows[0].nominal_tokens == pytest.approx(7.0)


def test_seeds_are_one_row_with_their_mean_and_spread(cell: Cell, document: dict[str, Any], failure: Cell) -> None:
    from hidrop.plan import Cut, Schedule

    schedule = Schedule(cuts=(Cut(1, 4),))
    for seed, value in ((0, 60.0), (1, 66.0), (2, 63.3)):
        own = {"method": "random", "group": "random-9", "budget": "7"}
        document["cells"].append(cell("mini", f"random-9-s{seed}", schedule, "gqa", value, **own))
    (line,) = (line for line in report.plain(document).splitlines() if "random-9" in line)
    assert "63.1 ± 3.0" in line and "random-9-s0" not in line
    assert "With 3 seeds: mean ± half of the range" in report.plain(document)
    (best,) = (line for line in report.text.markdown(document).splitlines() if "| random-9 " in line)
    assert "**63.1 ± 3.0**" in best
    document["cells"][2]["value"] = document["cells"][4]["value"] = 63.1
    assert "**63.1" not in report.text.markdown(document)
    assert {row.label for row in rows_of(document)} >= {"random-9-s0", "random-9-s1", "random-9-s2"}
    document["cells"].pop()
    document["failed"].append(failure("mini", "random-9-s2", "gqa", "x", group="random-9"))
    (line,) = (line for line in report.plain(document).splitlines() if "random-9" in line and line.startswith("mini"))
    assert "failed" in line and "±" not in line


def test_models_of_another_size_get_a_table_of_their_own(cell: Cell, document: dict[str, Any]) -> None:
    from dataclasses import replace

    from hidrop.geometry import PRESETS
    from hidrop.plan import Schedule

    deeper = replace(PRESETS["llava-1.5-13b"])
    document["cells"].append(cell("big", "vanilla", Schedule(), "gqa", 90.0, geometry=deeper))
    assert [sheet.title for sheet in main_sheets(document)] == [
        "4 layers, 16 visual tokens",
        "40 layers, 576 visual tokens",
    ]


def test_a_failed_cell_says_so_and_a_missing_one_is_a_dash(document: dict[str, Any]) -> None:
    del document["cells"][5]
    lines = {line.split()[1]: line for line in report.plain(document).splitlines() if line.startswith("mini")}
    assert "failed" in lines["hidrop"]
    assert " - " in lines["random-7"]


def test_a_mean_over_some_of_the_tasks_is_not_shown(document: dict[str, Any]) -> None:
    means = {row.label: row.percent_of_vanilla for row in rows_of(document)}
    assert means["fastv-7"] == pytest.approx(100 * (60 + 70) / 160)
    assert means["hidrop"] is None


def test_nan_counts_as_missing(document: dict[str, Any]) -> None:
    document["cells"][2]["value"] = math.nan
    row = rows_of(document)[1]
    assert row.scores == {"gqa": None, "pope": 70.0}
    assert "nan" not in report.plain(document)


def test_a_method_of_which_everything_failed_has_a_row_in_its_section(document: dict[str, Any], failure: Cell) -> None:
    document["failed"].append(failure("mini", "pdrop-5", "gqa", "boom"))
    assert "pdrop-5" in [row.label for row in boards(document)[0].sections[1].rows]
    row = rows_of(document)[-1]
    assert (row.label, row.scores) == ("pdrop-5", {"gqa": "failed", "pope": None})


def test_a_failed_timing_is_shown_where_the_timing_would_be(document: dict[str, Any], failure: Cell) -> None:
    document["profiles"] = []
    document["failed"] = [failure("mini", "vanilla", None, "no time")]
    sheet = main_sheets(document)[0]
    place = sheet.headers.index("Prefill ms")
    shown = [row[place].text for _, rows in sheet.sections for row in rows]
    assert shown == ["failed", "-", "-", "-"]
    assert "mini/vanilla/timing: no time" in report.plain(document)


def test_without_any_timing_there_are_no_timing_columns(document: dict[str, Any]) -> None:
    document["profiles"] = []
    assert not any(header.endswith(" ms") for header in main_sheets(document)[0].headers)


def test_the_best_of_a_section_is_bold_and_a_lone_row_is_not(document: dict[str, Any]) -> None:
    text = markdown(document)
    assert "**62.0**" in text and "**70.0**" in text
    assert "**80.0**" not in text and "**78.0**" not in text


def test_units_are_chosen_for_a_whole_column(cell: Cell, document: dict[str, Any], document_of: Cell) -> None:
    assert {"kFLOP", "MFLOP"} & set(main_sheets(document)[0].headers)
    from hidrop.geometry import PRESETS
    from hidrop.plan import Schedule

    big = cell("7b", "vanilla", Schedule(), "gqa", 60.0, geometry=PRESETS["llava-1.5-7b"])
    headers = main_sheets(document_of(cells=[big]))[0].headers
    assert {"TFLOP", "Paper TMAC", "KV MiB"} <= set(headers)
    assert "3.82" in report.plain(document_of(cells=[big]))


def test_operations_are_for_the_timed_prompt_only_where_every_row_was_timed(document: dict[str, Any]) -> None:
    document["profiles"][0]["flops"] = 123.0
    assert rows_of(document)[0].flops == 123.0
    assert "with 12 text tokens" in report.plain(document)
    del document["profiles"][1]
    assert rows_of(document)[0].flops == document["cells"][0]["flops"]
    assert "mean over the tasks' prompts" in report.plain(document)


def test_the_main_table_has_the_smallest_batch_and_another_table_all(
    document: dict[str, Any], timing: Callable[..., dict[str, Any]]
) -> None:
    assert batch_sheet(document) is None
    document["profiles"].insert(0, timing(document["cells"][0], 400.0, batch=4))
    assert rows_of(document)[0].millis("prefill_ms") == 10.0
    sheet = batch_sheet(document)
    assert sheet is not None
    assert [title for title, _ in sheet.sections] == ["Batch 1", "Batch 4"]
    tokens = sheet.headers.index("Tokens/s")
    assert sheet.sections[1][1][0][tokens].text == "100.0"  # 4 sequences, 40 ms a step


def test_caption_names_what_a_number_stands_on(document: dict[str, Any]) -> None:
    document |= {"limit": 20, "dtype": "float32"}
    text = report.plain(document)
    for fact in (
        "llava",
        "dtype float32",
        "first 20 samples",
        "GQA exact_match on 500",
        "POPE f1 on 500",
        "Some CPU",
        "2 cores",
        "1 thread,",
        "8 GiB memory",
        "torch 2.13.0",
        "2026-01-02",
        "2 in mini/random-7/pope",
        "mini-hidrop/hidrop/pope: RuntimeError",
    ):
        assert fact in text, fact


def test_a_pipe_gets_plain_text_and_a_terminal_does_not(document: dict[str, Any]) -> None:
    pipe = io.StringIO()
    report.show(document, pipe)
    assert pipe.getvalue() == report.plain(document)
    assert "\x1b" not in pipe.getvalue() and "|" not in pipe.getvalue().replace("no | luck", "")


@pytest.mark.parametrize("width", [100, 220])
def test_a_terminal_gets_tables_that_fit_it(document: dict[str, Any], width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(report.render_table(document))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("Left out at this width" in shown) == (width == 100)
    row = next(line for line in shown.splitlines() if "fastv-7" in line)
    assert "60.0" in row and "70.0" in row


def test_names_are_not_read_as_markup(document: dict[str, Any]) -> None:
    document["cells"][0]["model"] = "[red]mini[/red]"
    console = Console(file=io.StringIO(), force_terminal=True, width=300, color_system=None)
    console.print(report.render_table(document))
    assert "[red]mini[/red]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_empty_document_has_a_report(document_of: Cell) -> None:
    assert report.plain(document_of()).startswith("Results: mini")
    assert markdown(document_of()).startswith("# Results: mini")
    assert csv_text(document_of()).startswith("model,method,label,trained,budget")


def test_columns_of_plain_tables_are_aligned(document: dict[str, Any]) -> None:
    lines = [line for line in plain_table(main_sheets(document)[0]).splitlines() if not line.startswith("--")]
    end = lines[0].index("GQA") + len("GQA")
    assert all(line[end - 1] != " " and line[end] == " " for line in lines)


def test_ranks_are_those_of_numbers_not_of_their_text(cell: Cell, document_of: Cell) -> None:
    schedule = Schedule(cuts=(Cut(1, 4),))
    cells = [
        cell("a", label, schedule, "gqa", value, budget="7")
        for label, value in (("one", 100.0), ("two", 62.0), ("three", 9.0))
    ]
    sheet = main_sheets(document_of(cells=cells))[0]
    place = sheet.headers.index("GQA")
    marks = {row[1].text: (row[place].best, row[place].second) for _, rows in sheet.sections for row in rows}
    assert marks == {"one": (True, False), "two": (False, True), "three": (False, False)}


@pytest.mark.parametrize(
    ("scores", "fields", "best", "second"),
    [
        ((0.9, 0.2, 0.4), {"own_scale": True, "lower_is_better": True}, "two", "three"),
        ((30.0, 25.0, 9.0), {"own_scale": True, "lower_is_better": True}, "three", "two"),
        ((0.812, 0.834, 0.821), {"own_scale": True}, "two", "three"),
    ],
)
def test_the_best_follows_the_direction_and_the_decimals_of_the_score(
    scores: tuple[float, ...], fields: dict[str, Any], best: str, second: str, cell: Cell, document_of: Cell
) -> None:
    cells = [
        cell("a", label, Schedule(cuts=(Cut(1, 4),)), "chartqa", score, budget="7", **fields)
        for label, score in zip(("one", "two", "three"), scores, strict=True)
    ]
    document = document_of(cells=cells)
    [sheet] = main_sheets(document)
    place = sheet.headers.index("chartqa")
    rows = [row for _, rows in sheet.sections for row in rows]
    assert [row[1].text for row in rows if row[place].best] == [best]
    assert [row[1].text for row in rows if row[place].second] == [second]
    texts = {row[1].text: row[place].text for row in rows}
    assert rf"\textbf{{{texts[best]}}}" in latex(document) and rf"\underline{{{texts[second]}}}" in latex(document)
    assert f"**{texts[best]}**" in markdown(document)


def test_a_timing_that_failed_for_another_batch_does_not_hide_the_one_that_is_there(document: dict[str, Any]) -> None:
    document["failed"] = [{"model": "mini", "method": "vanilla", "label": "vanilla", "task": None, "error": "no time"}]
    sheet = main_sheets(document)[0]
    place = sheet.headers.index("Prefill ms")
    shown = {row[1].text: row[place].text for _, rows in sheet.sections for row in rows}
    assert shown["vanilla"] == "10.0 (11.0)"


def test_a_line_of_timings_by_batch_size(document: dict[str, Any], timing: Callable[..., dict[str, Any]]) -> None:
    document["profiles"] = [timing(document["cells"][0], 400.0, batch=4), timing(document["cells"][0], 100.0)]
    sheet = batch_sheet(document)
    assert sheet is not None
    lines = {title: [[entry.text for entry in row] for row in rows] for title, rows in sheet.sections}
    # Of a prefill of 400 ms: decode a tenth, TTFT twice, p95 1.1 times; four sequences in 40 ms are 100 tokens/s.
    assert lines["Batch 4"] == [["mini", "vanilla", "400 (440)", "40.0", "800", "100.0", "3"]]
    assert lines["Batch 1"] == [["mini", "vanilla", "100 (110)", "10.0", "200", "100.0", "3"]]


def test_a_cost_table_of_its_own_names_only_model_and_method(document: dict[str, Any]) -> None:
    accuracy, cost = main_sheets(document, split=True)
    assert accuracy.headers[:3] == ("Model", "Method", "Share (tokens)") and "GQA" in accuracy.headers
    assert cost.headers[:2] == ("Model", "Method") and not {"Share (tokens)", "GQA"} & set(cost.headers)
