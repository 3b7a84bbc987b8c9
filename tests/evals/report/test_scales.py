"""Scores of several scales in one document: gqa (0-100), MME (0-2000), chartqa (0-1), a task to submit, and groups."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.report import page
from evals.report.caption import caption
from evals.report.differences import difference_sheet
from evals.report.files import csv_text
from evals.report.latex import latex
from evals.report.published import MEASURED, published_sheet
from evals.report.rows import rows_of
from evals.report.tables import main_sheets
from evals.report.text import markdown
from hidrop.plan import Cut, Schedule

FREE = Schedule(cuts=(Cut(1, 4),))
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def mixed(cell: Make, document_of: Make) -> dict[str, Any]:
    """Vanilla and FastV in four tasks, with comparisons in those that are scored."""
    tasks = {
        "gqa": ((80.0, 60.0), (1.5, -20.0), {}),
        "mme": ((1500.0, 1200.0), (40.0, -300.0), {}),
        "chartqa": ((0.81, 0.65), (0.02, -0.16), {"own_scale": True}),
        "captions": ((0.5, 0.75), (0.02, 0.25), {"own_scale": True, "lower_is_better": True}),
        "vizwiz_vqa_test": ((None, None), None, {"unscored": "to submit", "metric": "to submit", "own_scale": True}),
    }
    cells = []
    for task, (values, spread, fields) in tasks.items():
        for label, schedule, value in zip(("vanilla", "fastv"), (Schedule(), FREE), values, strict=True):
            made = cell("m", label, schedule, task, value, base=values[0] or 1.0, **fields)
            made["base"] = f"m/vanilla/{task}"
            if "lower_is_better" in fields:
                made["percent_of_vanilla"] = None
            if spread:
                half, difference = spread
                made["stats"] = {"interval": [value - half, value + half]}
                if label == "fastv":
                    ends = [difference - half, difference + half]
                    flips = {"p": 0.5, "p_holm": 0.9, "gained": 1, "lost": 9, "loyalty": 80.0}
                    made["stats"]["against"] = {"difference": difference, "interval": ends, **flips}
            cells.append(made)
    groups = {"two": ["gqa", "chartqa"], "sent": ["gqa", "vizwiz_vqa_test"], "same": ["gqa"], "own": ["chartqa"]}
    return document_of(cells=cells, groups=groups)


def test_the_mean_of_percentages_leaves_out_what_the_caption_names(mixed: dict[str, Any]) -> None:
    vanilla, fastv = rows_of(mixed)
    assert vanilla.percent_of_vanilla == 100
    assert fastv.percent_of_vanilla == pytest.approx((75 + 80 + 65 / 0.81) / 3)  # gqa, MME, chartqa
    text = dict(caption(mixed))["Scores"]
    assert "Smaller is better, and left out of % of vanilla: captions." in text
    assert "Not scored here, and left out of % of vanilla: VizWiz." in text


def test_the_caption_names_every_scale_that_is_not_0_to_100(mixed: dict[str, Any]) -> None:
    text = dict(caption(mixed))["Scores"]
    assert "Scores are 0 to 100, and as lmms-eval prints them for chartqa, captions. MME's 0 to 2,000." in text
    assert "two (mean) is the plain mean of its 2 tasks, of different scales." in text
    assert "sent (mean) is the plain mean of its 2 tasks, and missing where VizWiz is not scored." in text
    assert "same (mean) is the plain mean of its 1 task. own (mean) is the plain mean of its 1 task;" in text
    assert "same samples, and are on the scale of their score; their 95 %" in dict(caption(mixed))["Statistics"]
    assert dict(caption(mixed))["Statistics"].endswith("as vanilla; where smaller is better, only that share")
    for cell in mixed["cells"]:
        cell["lower_is_better"] = cell["task"] == "gqa"
    assert "2 tasks, of different scales and where smaller is better in some." in dict(caption(mixed))["Scores"]


def test_documents_of_scores_from_0_to_100_say_nothing_more(mixed: dict[str, Any]) -> None:
    mixed["cells"] = [cell for cell in mixed["cells"] if cell["task"] == "gqa"]
    mixed["groups"] = {"same": ["gqa"]}
    told = dict(caption(mixed))
    assert "Scores are 0 to 100. same (mean) is the plain mean of its 1 task;" in told["Scores"]
    assert "compare the same samples; their 95 %" in told["Statistics"]


def test_every_format_shows_scores_and_differences_on_their_own_scale(mixed: dict[str, Any], tmp_path: Path) -> None:
    [sheet] = main_sheets(mixed)
    row = {header: entry.text for header, entry in zip(sheet.headers, sheet.sections[1][1][0], strict=True)}
    shown = {"GQA": "60.0", "MME": "1200.0", "chartqa": "0.650", "captions": "0.750", "VizWiz": "to submit"}
    shown |= {"two (mean)": "30.3", "sent (mean)": "-", "same (mean)": "60.0", "own (mean)": "0.650"}
    assert {header: row[header] for header in shown} == shown
    sheet = difference_sheet(mixed)
    assert sheet is not None
    assert [entry.text for entry in sheet.sections[0][1][1]][2:] == [
        "-20.0 [-21.5, -18.5]",
        "-300.0 [-340.0, -260.0]",
        "-0.160 [-0.180, -0.140]",
        "+0.250 [+0.230, +0.270]",
        "-",
    ]
    for text in (markdown(mixed), page.html(mixed, tmp_path)):
        assert all(word in text for word in ("0.650", "-0.160 ", "-0.180, -0.140]", "1200.0", "to submit"))
    assert "& 1200.0 & 0.650 & 0.750 & to submit & 30.3 & - &" in latex(mixed)


def test_the_csv_file_has_score_interval_and_difference_in_one_unit(mixed: dict[str, Any]) -> None:
    vanilla, fastv = csv.DictReader(io.StringIO(csv_text(mixed)))
    for task in ("gqa", "mme", "chartqa", "captions"):
        assert float(fastv[f"{task}_low"]) < float(fastv[task]) < float(fastv[f"{task}_high"])
        apart = float(fastv[task]) - float(vanilla[task])
        assert float(fastv[f"{task}_difference"]) == pytest.approx(apart)
        assert float(fastv[f"{task}_difference_low"]) < apart < float(fastv[f"{task}_difference_high"])
    assert fastv["vizwiz_vqa_test"] == "to submit" and fastv["vizwiz_vqa_test_low"] == fastv["sent_mean"] == ""
    assert float(fastv["two_mean"]) == pytest.approx((60 + 0.65) / 2)


def test_a_score_from_0_to_1_keeps_its_decimals_next_to_published_numbers(paper: dict[str, Any]) -> None:
    more = {"task": "chartqa", "value": 0.1825, "own_scale": True}
    paper["cells"] += [{**cell, **more} for cell in paper["cells"]]
    sheet = published_sheet(paper)
    assert sheet is not None
    place = sheet.headers.index("chartqa")
    measured = [row for _, rows in sheet.sections for row in rows if row[0].text == MEASURED]
    assert measured and {row[place].text for row in measured} == {"0.182"}
    assert {row[sheet.headers.index("GQA")].text for row in measured} == {"61.0", "47.0", "60.0"}
