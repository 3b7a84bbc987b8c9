"""Whole requests, speed-ups with intervals, and when a method is worth it."""

from __future__ import annotations

import random
import statistics

import pytest

from evals.bench.breakdown import bound, breakdown
from evals.bench.latency import Lengths, times, worth_it
from evals.profiling.ratios import of_medians, speed_up
from evals.profiling.record import Run
from tests.evals.bench.rates import FASTV, VANILLA, rates, timed


def test_statistics_are_those_of_the_samples() -> None:
    found = times([float(n) for n in range(1, 101)])
    assert (found["mean"], found["p50"], found["min"]) == (50.5, 50.5, 1)
    assert (found["p90"], found["p95"], found["p99"]) == pytest.approx((90.1, 95.05, 99.01))
    assert found["samples"][:3] == [1, 2, 3]
    assert "samples" not in times([1.0], raw=False)
    with pytest.raises(ValueError, match="no timings"):
        times([])


def test_a_request_is_its_first_token_and_the_others() -> None:
    run = Run(ttft=100.0, prefill=80.0, selection=0.0, decode=(10.0, 12.0, 14.0))
    assert run.tpot == 12
    assert (run.request(1), run.request(11)) == (100, 220)


def test_rounds_that_are_slow_for_both_do_not_widen_a_paired_interval() -> None:
    """The machine is up to ten times slower in some rounds; the method takes half of vanilla's time in each."""
    draw = random.Random(0)
    load = [1 + 9 * draw.random() ** 4 for _ in range(15)]
    vanilla, method = [60 * one for one in load], [30 * one for one in load]
    paired, apart = speed_up(vanilla, method), speed_up(vanilla, method, paired=False)
    assert paired["ratio"] == apart["ratio"] == 2
    assert (paired["low"], paired["high"]) == (2, 2)
    assert apart["low"] < 1.8 < 2.2 < apart["high"]


def test_the_interval_of_noise_includes_1() -> None:
    draw = random.Random(1)
    ours, theirs = ([100 + draw.gauss(0, 5) for _ in range(20)] for _ in range(2))
    found = speed_up(ours, theirs)
    assert found["low"] < 1 < found["high"]
    assert speed_up(ours, theirs) == found, "the draws are the same in every run"
    assert speed_up([2.0], [1.0]) == {"ratio": 2, "low": None, "high": None}
    with pytest.raises(ValueError, match="not of the same rounds"):
        speed_up([1.0, 2.0], [1.0])


def test_the_interval_of_a_ratio_of_sums_is_that_of_drawn_rounds() -> None:
    """Against the slow way: one draw of rounds after the other."""
    draw, rounds = random.Random(2), 12
    samples = {name: [mean + draw.gauss(0, mean / 10) for _ in range(rounds)] for name, mean in (("a", 60), ("b", 20))}
    samples["c"] = [10.0] * rounds
    found = of_medians(lambda median: median["a"] / (median["b"] + median["c"]), samples)
    middle = {name: statistics.median(taken) for name, taken in samples.items()}
    assert found["ratio"] == pytest.approx(middle["a"] / (middle["b"] + 10))
    slow = []
    for _ in range(4000):
        places = [draw.randrange(rounds) for _ in range(rounds)]
        a, b = (statistics.median(samples[name][place] for place in places) for name in "ab")
        slow.append(a / (b + 10))
    slow.sort()
    assert (found["low"], found["high"]) == pytest.approx((slow[100], slow[-101]), rel=0.02)


@pytest.mark.parametrize(
    ("vanilla", "method", "words"),
    [
        ((200, 10), (100, 9), "at every output length"),
        ((200, 10), (195, 9.9), None),
        # (200.5 + 10 m) / (100 + 10 m) >= 1.1 up to m = 90.5, with m = n - 1.
        ((200.5, 10), (100, 10), "up to 91 output tokens"),
        ((111.5, 10), (100, 10), "up to 2 output tokens"),
        ((110.5, 10), (100, 10), "up to 1 output token"),
        # A prefill that takes longer, and steps at half the time: 100 + 10 m >= 1.1 (120 + 5 m) from m = 7.1 on.
        ((100, 10), (120, 5), "from 9 output tokens on"),
    ],
)
def test_one_break_even_point_separates_where_a_method_is_worth_it(
    vanilla: tuple[float, float], method: tuple[float, float], words: str | None
) -> None:
    found = worth_it(*vanilla, *method)
    assert (found and found.words()) == words
    for new in range(1, 200):
        faster = (vanilla[0] + (new - 1) * vanilla[1]) / (method[0] + (new - 1) * method[1])
        inside = found is not None and found.first <= new and (found.last is None or new <= found.last)
        assert inside == (faster >= 1.1 - 1e-12), new


def test_without_a_break_even_point_every_length_counts() -> None:
    assert worth_it(110.1, 11.1, 100, 10) == Lengths()
    assert worth_it(100, 10, 100, 10, least=1.0) == Lengths()


def test_the_parts_of_a_request_add_up_to_its_time() -> None:
    of = rates()
    for row in (of.row("vanilla", VANILLA, of.vanilla), of.row("fastv", FASTV, timed(40.0, (16, 16, 4, 4, 4, 4)))):
        for one in row["requests"]:
            parts = breakdown(row, one["new_tokens"])
            assert sum(parts.values()) == pytest.approx(one["e2el_ms"]["p50"])
            assert parts["tower"] == pytest.approx(row["vision_ms"]["p50"])
            assert parts["selection"] == pytest.approx(row["selection_ms"]["p50"])
        # At 1e9 operations and bytes a second nearly nothing of 60 ms is explained.
        assert bound(parts)[0] == "overhead"


def test_launches_are_what_a_method_takes_longer_than_by_graphs() -> None:
    row, captured = (rates().row("fastv", FASTV, timed(ms, (16, 16, 4, 4, 4, 4))) for ms in (40.0, 25.0))
    parts = breakdown(row, 11, captured)
    assert parts["launches"] == pytest.approx(80 - 50)
    assert sum(parts.values()) == pytest.approx(80)
    assert breakdown(captured, 11, row)["launches"] == 0


def test_the_least_parts_are_the_physical_limit() -> None:
    row = rates().row("fastv", FASTV, timed(40.0, (16, 16, 4, 4, 4, 4)))
    parts = row["least_parts_ms"]["prefill"]
    assert sum(parts.values()) == pytest.approx(row["physical_ms"])
    assert parts["matmul"] > parts["attention"] > 0
    step = row["least_parts_ms"]["decode"]
    assert step["weights"] > step["cache"] > 0 and step["matmul"] == step["attention"] == 0
    assert row["of_decode_limit"] == pytest.approx(sum(step.values()) / 4)


def test_a_part_measured_faster_than_its_limit_leaves_no_negative_rest() -> None:
    row = rates().row("fastv", FASTV, timed(0.1, (16, 16, 4, 4, 4, 4)))
    assert breakdown(row, 11)["overhead"] == 0
