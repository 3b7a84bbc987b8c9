"""One list of columns makes tables, CSV file and caption."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from evals import report
from evals.report import columns, latex, page
from evals.report.columns import Column
from evals.report.files import csv_text
from evals.report.rows import rows_of, tasks_of
from evals.report.tables import main_sheets
from evals.report.text import markdown


def test_a_new_column_is_in_every_format(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    peak = Column(
        "Peak KiB",
        "cost",
        lambda row: f"{(row.profile or {})['peak_bytes'] / 1024:.0f}",
        {"peak_kibibytes": lambda row: (row.profile or {})["peak_bytes"] / 1024},
        topic="Memory",
        note=lambda document: f"Peak: most bytes of {len(document['profiles'])} timings",
    )
    before = columns.size_columns
    monkeypatch.setattr(columns, "size_columns", lambda rows: [*before(rows), peak])
    assert "Peak KiB" in main_sheets(document)[0].headers
    accuracy, cost = main_sheets(document, split=True)
    assert "Peak KiB" in cost.headers and "Peak KiB" not in accuracy.headers
    lines = list(csv.DictReader(io.StringIO(csv_text(document))))
    assert [line["peak_kibibytes"] for line in lines] == ["3072.0"] * 4
    for text in (markdown(document), latex.latex(document), page.html(document, tmp_path), report.plain(document)):
        assert "Peak KiB" in text and "3072" in text
        assert "most bytes of 4 timings" in text
    names = [line.split("**")[1] for line in markdown(document).splitlines() if line.startswith("- **")]
    assert names[1:7] == ["Protocol", "Scores", "Tokens", "Operations", "Memory", "Time"]


def test_every_number_of_a_table_is_in_the_csv_file_and_its_topic_in_the_caption(document: dict[str, Any]) -> None:
    found = columns.columns_of(rows_of(document), tasks_of(document))
    text = markdown(document)
    assert len({column.header for column in found if column.tabulated}) == sum(column.tabulated for column in found)
    for column in found:
        assert column.fields, column.header
        assert not column.topic or f"- **{column.topic}**: " in text, column.header
        assert column.topic or column.part == "name" or not column.tabulated, "a number is explained"
    fields = [name for column in found for name in column.fields]
    assert len(set(fields)) == len(fields) and fields == csv_text(document).splitlines()[0].split(",")


def test_the_share_comes_before_the_tokens_in_every_format(document: dict[str, Any], tmp_path: Any) -> None:
    for text in (markdown(document), latex.latex(document), page.html(document, tmp_path), report.plain(document)):
        assert "Share (tokens)" in text
        assert "43.8 % (7.0)" in text.replace(r"\%", "%")
    first = csv_text(document).splitlines()[0].split(",")
    place = first.index("share")
    assert first[place : place + 3] == ["share", "share_of_total", "average_tokens"]


def test_images_of_different_sizes_have_two_shares(document: dict[str, Any]) -> None:
    assert "images have different" not in markdown(document)
    document["cells"][2] |= {"share": 0.4, "share_of_total": 0.5}
    document["cells"][3] |= {"share": 0.4, "share_of_total": 0.3}
    line = list(csv.DictReader(io.StringIO(csv_text(document))))[1]
    assert (line["share"], line["share_of_total"], line["average_tokens"]) == ("0.4", "0.4", "7.0")
    text = "; images have different numbers of tokens, and a budget in tokens is for an image of 16"
    assert text in markdown(document)


def test_the_statistics_of_a_task_are_fields_of_their_own(document: dict[str, Any]) -> None:
    document["cells"][2]["stats"] = {
        "interval": [57.12345, 63.0],
        "against": {
            "difference": -20.0, "interval": [-24.0, -16.5], "p": 0.001, "p_holm": 0.004, "gained": 3, "lost": 103,
            "loyalty": 71.25,
        },
    }  # fmt: skip
    line = list(csv.DictReader(io.StringIO(csv_text(document))))[1]
    shown = {name.removeprefix("gqa_"): value for name, value in line.items() if name.startswith("gqa_")}
    assert shown == {
        "low": "57.1234", "high": "63.0", "difference": "-20.0", "difference_low": "-24.0", "difference_high": "-16.5",
        "p_holm": "0.004", "gained": "3", "lost": "103", "loyalty": "71.25",
    }  # fmt: skip
    assert {value for name, value in line.items() if name.startswith("pope_")} == {""}


def test_each_timing_has_its_own_three_numbers(document: dict[str, Any]) -> None:
    times = {"prefill": 10.0, "decode": 1.0, "ttft": 20.0}
    line = next(csv.DictReader(io.StringIO(csv_text(document))))
    for name, median in times.items():
        for statistic, factor in (("median", 1), ("p95", 1.1), ("min", 0.9)):
            assert float(line[f"{name}_ms_{statistic}"]) == pytest.approx(factor * median), (name, statistic)
    assert (line["batch"], line["text_tokens"], line["peak_bytes"]) == ("1", "12", str(3 * 1024**2))
    document["profiles"] = []
    line = next(csv.DictReader(io.StringIO(csv_text(document))))
    assert {line[name] for name in ("batch", "text_tokens", "peak_bytes", "ttft_ms_min", "request_ms")} == {""}


def test_a_request_and_the_speed_up_over_vanilla_of_the_same_model_are_columns(document: dict[str, Any]) -> None:
    # Of a prefill of 10 ms: TTFT twice, each further token a tenth. A request of 4 tokens has three further ones.
    vanilla, fastv, *_, trained = csv.DictReader(io.StringIO(csv_text(document)))
    assert (vanilla["request_ms"], vanilla["new_tokens"], vanilla["prefill_speed_up"]) == ("23.0", "4", "1.0")
    assert float(fastv["request_ms"]) == pytest.approx(23 * 7 / 16, abs=1e-4)
    assert float(fastv["prefill_speed_up"]) == pytest.approx(16 / 7, abs=1e-4)
    assert trained["request_ms"] != "" and trained["prefill_speed_up"] == "", "no vanilla on its weights"
    text = markdown(document)
    assert "2.29x | 0.44 | 8.75 | 10.1 |" in text and "the further ones of 4 output tokens" in text
    document["profiles"] = [one for one in document["profiles"] if one["label"] != "vanilla"]
    assert "Prefill speed-up" not in markdown(document), "nothing to compare with"
