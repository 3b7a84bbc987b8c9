"""The speed that the runtime promises: what holds, what is missed, and what is noise."""

from __future__ import annotations

from typing import Any

import pytest

from evals.bench.bars import Bar, bars, bars_text, grown_bars, inverse, targets
from evals.bench.inference import Asked
from hidrop.methods import build
from tests.evals.bench.rates import FASTV, VANILLA, rates, timed


def without_interval(ratio: float) -> Any:
    return {"ratio": ratio, "low": None, "high": None}


def test_bars_are_missed_and_held_by_their_numbers() -> None:
    of = rates()
    vanilla = of.row("vanilla", VANILLA, of.vanilla)
    fastv = of.row("fastv", FASTV, timed(35.0, (16, 16, 4, 4, 4, 4)))
    found = {bar.what.partition(": ")[2]: bar for bar in bars([vanilla, fastv], without_interval(60 / 58))}
    assert found["fastv, part of the layerwise limit"].holds  # 60 / 35 of 60 / 36
    assert found["vanilla / transformers' own forward"].missed
    assert found["methods whose KV bytes differ from the plan"].missed  # 7 bytes are no plan's
    text = bars_text(list(found.values()))
    assert "MISSED" in text and "holds" in text


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.96, 0.90, 1.00, "holds"),
        (0.94, 0.91, 0.96, "within noise"),
        (0.94, 0.91, 0.949, "MISSED"),
        (0.94, None, None, "MISSED"),
    ],
)
def test_a_bar_is_missed_if_its_whole_interval_is_beyond_the_bound(
    value: float, low: float | None, high: float | None, verdict: str
) -> None:
    bar = Bar.of("reached", {"ratio": value, "low": low, "high": high}, least=0.95)
    assert bar.cells()[-1] == verdict
    assert (bar.holds, bar.missed) == (verdict == "holds", verdict == "MISSED")
    upper = Bar.of("taken", inverse({"ratio": value, "low": low, "high": high}), most=1 / 0.95)
    assert upper.cells()[-1] == verdict


def test_the_bars_of_hidrop_are_on_its_choice_and_its_decoding() -> None:
    """A tenth of the prefill is selection; each token takes 4.5 ms instead of 6."""
    of, asked = rates(), Asked(build("hidrop", {"inject": 1, "filters": [2], "keep": [4], "exit": 6}), "4")
    rows = [of.row("vanilla", VANILLA, of.vanilla), of.row("hidrop", asked, timed(45.0, (16, 16, 4, 4, 4, 4)))]
    found = {bar.what.partition(": ")[2]: bar for bar in bars(rows, without_interval(1.0))}
    choice, decoding = found["hidrop's selection, part of its prefill"], found["hidrop's TPOT / vanilla's"]
    assert (
        choice.value == pytest.approx(0.1) and choice.missed and (choice.low, choice.high) == pytest.approx((0.1, 0.1))
    )
    assert decoding.value == pytest.approx(0.75) and decoding.holds


def test_small_prefills_have_no_bar_for_hidrop_where_they_grow() -> None:
    row = {"images": 1, "batch": 1, "captured": False, "method": "hidrop", "label": "hidrop"}
    reached = {"of_layerwise": without_interval(0.9)}
    rows = [{**row, **reached}, {**row, **reached, "images": 4}, {**row, "of_layerwise": None, "images": 4}]
    document: Any = {"rows": rows, "sizes": {"visual_tokens": 144}}
    assert [bar.what for bar in grown_bars(document)] == [
        "576 visual tokens, batch 1: hidrop, part of the layerwise limit"
    ]


def test_targets_are_for_an_h200_and_for_captured_rows() -> None:
    def row(method: str, batch: int, ms: float, ttft: float, captured: bool = True, budget: str = "48") -> Any:
        return {
            "method": method,
            "label": method,
            "batch": batch,
            "images": 1,
            "text_tokens": 60,
            "captured": captured,
            "budget": None if method == "vanilla" else budget,
            "prefill_ms": {"p50": ms},
            "of_physical_limit": 0.8,
            "speed_ups": {"prefill": without_interval(4.0), "ttft": without_interval(14 / ttft)},
        }

    rows = [row("vanilla", 1, 12, 14), row("hidrop", 1, 5.1, 7), row("vanilla", 16, 1, 1), row("hidrop", 16, 1, 1)]
    rows.append(row("hidrop", 1, 99, 99, captured=False))
    assert targets(rows, "llava-1.5-7b", "NVIDIA A100") == []
    found = {bar.what: bar.holds for bar in targets(rows, "llava-1.5-7b", "NVIDIA H200")}
    assert found == {
        "batch 1: vanilla, ms": True,
        "batch 1: vanilla, part of the physical limit": True,
        "batch 1: hidrop, ms": False,
        "batch 1: hidrop, part of the physical limit": True,
        "batch 1: hidrop, TTFT speed-up": False,
        "batch 16: hidrop, speed-up": False,
    }
    rows[1] = row("hidrop", 1, 5.1, 7, budget="64")
    assert targets(rows, "llava-1.5-7b", "NVIDIA H200")[2].holds  # 5.3 ms there
