"""Half-widths of intervals between two rows, against the paired bootstrap of their samples."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from evals.report.headline import headlines
from evals.report.rows import rows_of
from evals.report.spreads import Spreads
from evals.store import statistics
from evals.store.statistics import Row
from hidrop.plan import Cut, Schedule

Cell = Callable[..., dict[str, Any]]
SAMPLES = 400
# How often each row is right where vanilla is, and where it is not. b follows a in nearly all samples.
LABELS = ("vanilla", "a", "b", "random-s0", "random-s1")


def answers() -> dict[str, list[dict[str, Any]]]:
    """The scores of each row on the same samples."""
    draw, found = random.Random(0), {label: [] for label in LABELS}
    for doc in range(SAMPLES):
        vanilla = draw.random() < 0.9
        a = vanilla and draw.random() < 0.9
        b = a and draw.random() < 0.97
        seeds = [vanilla and draw.random() < 0.85 for _ in range(2)]
        for label, right in zip(LABELS, (vanilla, a, b, *seeds), strict=True):
            more = {"reading": str(right), "target": "x", "category": None, "group": None}
            found[label].append({"doc_id": doc, "score": float(right), "image_key": str(doc), **more})
    return found


@pytest.fixture
def drawn(cell: Cell, document_of: Cell) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """A document of these rows in one task, as a run writes it, and their samples."""
    samples = answers()
    values = {label: 100 * sum(one["score"] for one in rows) / SAMPLES for label, rows in samples.items()}
    rows = {f"mini/{label}": Row(own, "mini/vanilla") for label, own in samples.items()}
    stats, together = statistics.stats_together("gqa", "lmms-eval", rows)
    statistics.adjust(list(stats.values()))
    cells = []
    for label, value in values.items():
        schedule = Schedule() if label == "vanilla" else Schedule(cuts=(Cut(1, 4),))
        made = cell("mini", label, schedule, "gqa", value, base=values["vanilla"])
        made |= {"method": label.partition("-")[0], "group": label.partition("-")[0], "stats": stats[f"mini/{label}"]}
        cells.append({**made, "percent_of_vanilla": 100 * value / values["vanilla"]})
    document = document_of(cells=cells)
    document["correlations"] = [{"task": "gqa", "rows": one.rows, "upper": one.upper} for one in together]
    return document, samples


def test_the_interval_of_two_rows_is_that_of_their_paired_bootstrap(drawn: Any) -> None:
    document, samples = drawn
    spreads, rows = Spreads(document), {row.label: row for row in rows_of(document)}
    base = rows["vanilla"].scores["gqa"]
    for one, other in (("a", "b"), ("a", "random-s0")):
        pair = {one: Row(samples[one], other), other: Row(samples[other], None)}
        low, high = statistics.task_stats("gqa", "lmms-eval", pair)[one]["against"]["interval"]
        paired = 100 / base * (high - low) / 2
        # A row of two seeds is the mean of both, so only one of them is asked here.
        own = Spreads(document)
        own.seeds = {(row.model, row.group): [row] for row in (rows[one], rows[other])}
        assert own.between(rows[one], rows[other]) == pytest.approx(paired, rel=0.1), (one, other)
    assert spreads.from_vanilla(rows["a"]) == pytest.approx(3.2, abs=0.2)


def test_rows_that_err_on_the_same_samples_are_told_apart_that_would_tie_as_independent(drawn: Any) -> None:
    document, _ = drawn
    (one,) = headlines(document)
    assert one.best.label == "a" and [row.label for row in one.tied] == []
    del document["correlations"]  # a document from before they were stored
    (one,) = headlines(document)
    assert one.best.label == "a" and "b" in [row.label for row in one.tied]


def test_the_interval_of_a_mean_of_seeds_is_narrower_than_that_of_one(drawn: Any) -> None:
    document, samples = drawn
    spreads, rows = Spreads(document), {row.label: row for row in rows_of(document)}
    both = spreads.between(rows["a"], rows["random-s0"])
    spreads.seeds["mini", "random"] = [rows["random-s0"]]
    alone = spreads.between(rows["a"], rows["random-s0"])
    assert both is not None and alone is not None and both < alone
    means = [
        {**first, "score": (first["score"] + second["score"]) / 2}
        for first, second in zip(samples["random-s0"], samples["random-s1"], strict=True)
    ]
    pair = {"a": Row(samples["a"], "mean"), "mean": Row(means, None)}
    low, high = statistics.task_stats("gqa", "lmms-eval", pair)["a"]["against"]["interval"]
    assert both == pytest.approx(100 / rows["vanilla"].scores["gqa"] * (high - low) / 2, rel=0.05)
