"""Who is best at each budget, what ties with it, and whether it beats a null baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evals import report
from evals.report.headline import Difference, doubts, headlines
from evals.report.sections import boards
from evals.report.text import markdown
from hidrop.plan import Cut, Schedule
from tests.evals.report.test_latex import stats

Cell = Callable[..., dict[str, Any]]


@pytest.fixture
def ranked(cell: Cell, document_of: Cell) -> dict[str, Any]:
    """One task: vanilla 80, a 76, b 74, random 70 in two seeds; intervals of ±2 points are ±2.5 % of vanilla."""
    four = Schedule(cuts=(Cut(1, 4),))
    values = {"vanilla": 80.0, "a": 76.0, "b": 74.0, "random-s0": 69.0, "random-s1": 71.0}
    cells = []
    for label, value in values.items():
        made = cell("mini", label, Schedule() if label == "vanilla" else four, "gqa", value)
        made["method"] = label.partition("-")[0] if label != "a" else "fastv"
        made["group"] = label.partition("-")[0]
        made["percent_of_vanilla"] = 100 * value / 80
        if label != "vanilla":
            made["stats"] = stats(value - 80, 0.001 if label == "a" else 0.5)
        cells.append(made)
    return document_of(cells=cells)


def test_the_best_ties_with_what_is_within_chance(ranked: dict[str, Any]) -> None:
    """Half-widths of 2.5 % each: two rows differ beyond chance if they are more than sqrt(12.5) = 3.54 % apart."""
    (one,) = headlines(ranked)
    assert (one.best.label, one.percent) == ("a", 95.0)
    assert [row.label for row in one.tied] == ["b"]  # 2.5 % below; random is 7.5 % below
    assert one.from_vanilla == Difference(-5.0, pytest.approx(2.5))
    assert one.null is not None and one.null.label == "random" and one.null.seeds == 2
    assert one.over_null == Difference(pytest.approx(7.5), pytest.approx(12.5**0.5))
    assert one.sentence() == (
        "a keeps 95.0 ± 2.5 % of vanilla (a loss beyond chance), tied with b. Significantly below vanilla in GQA. "
        "Above the best null baseline, random, by 7.5 ± 3.5, beyond chance. Also above it beyond chance: b."
    )


def test_losses_are_those_that_the_table_marks(ranked: dict[str, Any]) -> None:
    """Stars are corrected for all comparisons of the table, the interval of one score is not."""
    assert headlines(ranked)[0].losses == ("GQA",)
    for cell in ranked["cells"]:
        if cell["label"] == "a":
            cell["stats"] = stats(-4.0, 0.06)
    (one,) = headlines(ranked)
    assert one.losses == () and one.from_vanilla.beyond_chance


def test_a_null_baseline_that_is_better_is_said_to_be(ranked: dict[str, Any]) -> None:
    for cell in ranked["cells"]:
        if cell["group"] == "random":
            cell["value"], cell["percent_of_vanilla"] = 79.0, 98.75
            cell["stats"] = stats(-1.0, 0.5)
    (one,) = headlines(ranked)
    assert one.best.label == "random" and one.over_null is None
    assert one.null_sentence() == "It is a null baseline, and no other method is better at this budget."
    trained = [cell for cell in ranked["cells"] if cell["label"] in ("a", "b")]
    for cell in trained:
        cell["trained"] = True
    (one,) = headlines(ranked)  # the section of random alone has no headline
    assert one.section.title.endswith("trained") and one.best.label == "a"
    assert one.null_sentence() == "The null baseline random is better, by 3.8 ± 3.5, beyond chance."


def test_without_intervals_nothing_is_called_beyond_chance(ranked: dict[str, Any]) -> None:
    for cell in ranked["cells"]:
        cell.pop("stats", None)
    (one,) = headlines(ranked)
    assert one.tied == () and one.from_vanilla.half is None
    assert one.sentence() == ("a keeps 95.0 % of vanilla. Above the best null baseline, random, by 7.5, not tested.")


def test_a_null_baseline_of_another_model_is_on_other_weights(ranked: dict[str, Any]) -> None:
    for cell in ranked["cells"]:
        if cell["label"] in ("a", "b"):
            cell["model"], cell["trained"] = "tuned", True
    (one,) = headlines(ranked)
    assert one.null_sentence().startswith("Above the best null baseline, random on other weights, by 7.5")


def test_a_model_is_named_if_it_is_not_that_of_most_rows(ranked: dict[str, Any]) -> None:
    for cell in ranked["cells"]:
        if cell["label"] == "a":
            cell["model"] = "tuned"
    (one,) = headlines(ranked)
    assert one.sentence().startswith("a (tuned) keeps 95.0")


def test_a_speed_up_is_of_times_of_the_same_model(document: dict[str, Any]) -> None:
    """Times of two models are of different minutes."""
    board = boards(document)[0]
    row = next(row for row in board.rows if row.label == "fastv-7")
    whole = next(row for row in board.rows if row.method == "vanilla")
    times = whole.millis("prefill_ms"), row.millis("prefill_ms")
    assert times[0] and times[1]
    assert board.speed_up(row, "prefill") == {"ratio": times[0] / times[1], "low": None, "high": None}
    for other in document["profiles"] + document["cells"]:
        if other["label"] == "fastv-7":
            other["model"] = "tuned"
    board = boards(document)[0]
    row = next(row for row in board.rows if row.label == "fastv-7")
    assert row.millis("prefill_ms") and board.speed_up(row, "prefill") is None
    (one,) = (one for one in headlines(document) if one.best.label == "fastv-7")
    assert one.speed_words() == "not timed in the same rounds as vanilla"
    interval = {"ratio": 1.5, "low": 1.48, "high": 1.52}
    for profile in document["profiles"]:
        if profile["label"] == "fastv-7":
            profile["speed_ups"] = dict.fromkeys(("prefill", "ttft", "request"), interval)
    (one,) = (one for one in headlines(document) if one.best.label == "fastv-7")
    same = "1.50 ± 0.02x"
    assert one.speed_words() == f"prefill {same}, TTFT {same}, request of 4 output tokens {same}"


def test_every_output_has_the_headline(ranked: dict[str, Any]) -> None:
    assert report.plain(ranked).splitlines()[-1].endswith("Also above it beyond chance: b.")
    assert "- **43.8 % (7 tokens) on average, training-free**: a keeps 95.0" in markdown(ranked)


def test_times_of_a_cpu_are_said_to_be(document: dict[str, Any]) -> None:
    document["hardware"] = {"cpu": "x", "gpu": None, "threads": 2}
    assert "times are of a CPU with 2 threads" in list(doubts(document))
    document["hardware"]["gpu"] = "y"
    assert not any("CPU" in one for one in doubts(document))


def test_what_to_distrust_is_counted(ranked: dict[str, Any], failure: Cell) -> None:
    ranked["limit"], ranked["data"] = None, {"gqa": "data"}
    assert list(doubts(ranked)) == []
    embedded = {**ranked, "data": {"gqa": "mini"}}
    assert list(doubts(embedded)) == ["GQA: hidrop's embedded data, drawn scenes in the form of these benchmarks"]
    first, second, *_ = ranked["cells"]
    first["warnings"], second["n_failed"] = ["too few samples"], 2
    ranked["failed"].append(failure("mini", "c", "gqa", "boom"))
    ranked["limit"] = 50
    assert list(doubts(ranked)) == [
        "1 cell failed",
        "1 cell with warnings (marked !)",
        "2 samples failed and count as wrong",
        "only the first 50 samples of each task",
    ]
