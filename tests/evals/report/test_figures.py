from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.report.figure_style import in_turn, pareto, styled
from evals.report.figures import drawings, half_width, write
from evals.report.rows import rows_of
from tests.evals.report.conftest import FREE, WHOLE
from tests.evals.report.test_latex import stats


def test_the_front_holds_what_nothing_cheaper_beats() -> None:
    points = [(10.0, 90.0), (5.0, 80.0), (5.0, 85.0), (7.0, 84.0), (20.0, 90.0), (1.0, 10.0)]
    assert pareto(points) == [(1.0, 10.0), (5.0, 85.0), (10.0, 90.0)]
    assert pareto([]) == []


def test_the_width_of_a_mean_over_tasks_by_hand(document: dict[str, Any]) -> None:
    """Two tasks, vanilla 80 each: half-widths of 2 / 80 are 2.5 %; of their mean sqrt(2 x 2.5^2) / 2."""
    for cell in document["cells"]:
        if cell["label"] == "fastv-7":
            cell["stats"] = stats(cell["value"] - 80.0, 0.5)
    row = next(row for row in rows_of(document) if row.label == "fastv-7")
    assert half_width(row, ["gqa", "pope"]) == pytest.approx((2 * 2.5**2) ** 0.5 / 2)
    assert half_width(row, ["gqa", "textvqa_val"]) is None


def test_the_same_document_draws_the_same_bytes(document: dict[str, Any], tmp_path: Path) -> None:
    first = write(document, tmp_path / "a")
    names = [path.name for path in first]
    assert names == [
        f"{name}.{kind}" for name in ("accuracy", "tokens", "speed", "retention") for kind in ("svg", "pdf")
    ]
    for one, other in zip(first, write(document, tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def titles(path: Path) -> list[str]:
    """What a pointer over each mark shows."""
    return [
        " / ".join(found.splitlines()) for found in re.findall(r"<title>(.*?)</title>", path.read_text(), re.DOTALL)
    ]


def test_a_mark_says_its_row_and_its_numbers(document: dict[str, Any], tmp_path: Path) -> None:
    write(document, tmp_path)
    found = titles(tmp_path / "accuracy.svg")
    assert "mini, fastv-7 / 81.2 % of vanilla / 7.0 tokens" in found
    fastv = next(profile for profile in document["profiles"] if profile["label"] == "fastv-7")
    first, further = fastv["ttft_ms"]["median"], fastv["decode_ms"]["median"]
    assert f"mini, fastv-7 / 81.2 % of vanilla / {first:.3g} ms" in found
    # A request of 4 output tokens: the first one, and three more.
    assert f"mini, fastv-7 / 81.2 % of vanilla / {first + 3 * further:.3g} ms" in found
    # Both have the same tokens, so their lines hide each other.
    assert "mini, fastv-7 / mini, random-7 / 7.0 tokens on average / layers 1: 16, 2-4: 4" in titles(
        tmp_path / "tokens.svg"
    )
    assert "mini, fastv-7, POPE: 87.5 % of vanilla" in titles(tmp_path / "retention.svg")
    assert any("as fast in the prefill" in title for title in titles(tmp_path / "speed.svg"))


def test_a_method_that_breaks_the_model_does_not_press_the_others_together(
    cell: Callable[..., dict[str, Any]], document_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    scores = {"vanilla": 80.0, "fastv-7": 70.0, "pdrop-7": 72.0, "dart-7": 74.0, "random-7": 71.0, "hidrop-7": 8.0}
    cells = [cell("mini", name, WHOLE if name == "vanilla" else FREE, "gqa", score) for name, score in scores.items()]
    write(document_of(cells=cells), tmp_path)
    text = (tmp_path / "accuracy.svg").read_text()
    assert ">10.0</text>" in text, "its value is written at the edge"
    assert not re.search(r">(20|40|60)</text>", text), "and the axis begins where the others are"
    assert "mini, hidrop-7 / 10.0 % of vanilla / 7.0 tokens" in titles(tmp_path / "accuracy.svg")
    assert ">10</text>" in (tmp_path / "retention.svg").read_text()


def test_a_panel_of_the_page_has_the_axes_of_the_whole_figure(document: dict[str, Any]) -> None:
    drawing = dict(drawings(document))["accuracy"]
    with styled():
        whole, alone = drawing.figure(), drawing.panel(1)
    one, other = whole.axes[1], alone.axes[0]
    assert one.get_xlim() == other.get_xlim() and one.get_ylim() == other.get_ylim()
    assert other.get_ylabel() and one.get_xlabel() == other.get_xlabel()
    assert list(drawing.legend) == ["vanilla", "fastv", "random"], "HiDrop has no mean: a task failed"


def test_text_in_a_figure_stays_text(document: dict[str, Any], tmp_path: Path) -> None:
    write(document, tmp_path)
    text = (tmp_path / "tokens.svg").read_text()
    for word in ("fastv", "random", "hidrop", "layer", "training-free"):
        assert word in text
    assert "FLOP of a prefill" in (tmp_path / "accuracy.svg").read_text()


def test_what_a_document_has_no_numbers_for_is_not_drawn(
    document: dict[str, Any], document_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    document["profiles"] = []
    document["cells"] = [cell for cell in document["cells"] if cell["method"] != "vanilla"]
    for cell in document["cells"]:
        cell["percent_of_vanilla"] = None
    assert [path.name for path in write(document, tmp_path)] == ["tokens.svg", "tokens.pdf"]
    assert write(document_of(), tmp_path / "empty") == []


def test_a_task_without_a_percentage_of_vanilla_is_in_no_figure_of_percentages(
    document: dict[str, Any], tmp_path: Path
) -> None:
    others = [{**cell, "task": "vatex_test", "value": 0.4, "percent_of_vanilla": None, "lower_is_better": True}
              for cell in document["cells"]]  # fmt: skip
    for cell in document["cells"]:
        base = {"against": {**stats(0.0, 0.5)["against"], "difference": cell["value"] - 80.0}}
        cell["stats"] = {**stats(0.0, 0.5), **base}
    write(document, tmp_path / "alone")
    write({**document, "cells": [*document["cells"], *others]}, tmp_path / "both")
    for name in ("accuracy.svg", "retention.svg"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_the_style_does_not_outlast_a_drawing_that_is_left_half_way() -> None:
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    before = dict(rcParams)
    drawings = in_turn([("first", Figure), ("second", Figure)])
    next(drawings)
    assert {name for name, value in rcParams.items() if before[name] != value} <= {"backend"}
