"""Statistics against cases worked out by hand, and against brute force."""

from __future__ import annotations

import itertools
from math import comb
from typing import Any

import numpy as np
import pytest

from evals.store import statistics as stats
from evals.tasks import get_task


def sample(doc_id: int, score: float, image: str = "", **more: Any) -> dict[str, Any]:
    values = {"reading": f"answer {score}", "target": "x", "category": None, "group": None}
    return {"doc_id": doc_id, "score": score, "image_key": image or str(doc_id), **values, **more}


def scored(*scores: float, per_image: int = 1) -> list[dict[str, Any]]:
    return [sample(i, score, str(i // per_image)) for i, score in enumerate(scores)]


def test_mcnemar_by_hand() -> None:
    """Of 10 changed samples 2 were gained: 2 (C(10,0) + C(10,1) + C(10,2)) / 2^10."""
    assert stats.mcnemar(2, 8) == pytest.approx(2 * (comb(10, 0) + comb(10, 1) + comb(10, 2)) / 2**10)
    assert stats.mcnemar(8, 2) == stats.mcnemar(2, 8)
    assert stats.mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert stats.mcnemar(3, 3) == 1 and stats.mcnemar(0, 0) == 1


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not fall below the one before it."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_the_bootstrap_of_three_images_is_the_enumeration_of_its_27_draws() -> None:
    rows = [sample(0, 1, "a"), sample(1, 0, "a"), sample(2, 1, "b"), sample(3, 1, "c"), sample(4, 0, "c")]
    of = get_task("gqa").statistic("lmms-eval", rows)
    counts = np.stack(list(stats.clustered(rows, of).values()))
    assert counts.tolist() == [[1, 2], [1, 1], [1, 2]]
    exact = [100 * counts[list(d)].sum(0)[0] / counts[list(d)].sum(0)[1] for d in itertools.product(range(3), repeat=3)]
    found = of.value(stats.drawn(counts, repeats=40_000))
    assert found.mean() == pytest.approx(np.mean(exact), abs=0.2)
    assert sorted(set(np.round(found, 6))) == sorted(set(np.round(exact, 6)))
    for value in set(np.round(exact, 6)):
        assert np.mean(np.isclose(found, value)) == pytest.approx(np.mean(np.isclose(exact, value)), abs=0.01)


def test_questions_about_one_image_widen_the_interval() -> None:
    """Ten questions an image, all right or all wrong: as good as one question an image."""
    scores = [float(i % 2) for i in range(20) for _ in range(10)]
    apart = stats.task_stats("gqa", "lmms-eval", {"a": stats.Row(scored(*scores), None)})["a"]["interval"]
    images = stats.task_stats("gqa", "lmms-eval", {"a": stats.Row(scored(*scores, per_image=10), None)})["a"][
        "interval"
    ]
    assert images[1] - images[0] > 2.5 * (apart[1] - apart[0])
    assert apart[0] < 50 < apart[1]


def test_the_interval_has_the_width_of_a_binomials() -> None:
    scores = [1.0] * 360 + [0.0] * 40
    low, high = stats.task_stats("gqa", "lmms-eval", {"a": stats.Row(scored(*scores), None)})["a"]["interval"]
    width = 2 * 1.96 * 100 * (0.9 * 0.1 / 400) ** 0.5
    assert high - low == pytest.approx(width, rel=0.08) and low < 90 < high


def test_a_difference_is_paired() -> None:
    """One sample of 200 lost: the rows' own intervals are wide, that of their difference is not."""
    base = [float(i % 2) for i in range(200)]
    own = [*base[:-1], 0.0]
    rows = {"own": stats.Row(scored(*own), "base"), "base": stats.Row(scored(*base), None)}
    found = stats.task_stats("gqa", "lmms-eval", rows)
    against = found["own"]["against"]
    assert against["difference"] == pytest.approx(-0.5)
    assert (against["gained"], against["lost"], against["p"]) == (0, 1, 1.0)
    assert against["loyalty"] == pytest.approx(99.5)
    assert against["interval"][1] - against["interval"][0] < 2
    assert found["own"]["interval"][1] - found["own"]["interval"][0] > 10
    assert "against" not in found["base"]


def test_soft_scores_flip_at_one_half() -> None:
    rows = {"own": stats.Row(scored(0.6, 0.3, 1.0), "base"), "base": stats.Row(scored(0.3, 0.6, 0.9), None)}
    against = stats.task_stats("textvqa_val", "lmms-eval", rows)["own"]["against"]
    assert (against["gained"], against["lost"]) == (1, 1)
    assert against["difference"] == pytest.approx(100 * (1.9 - 1.8) / 3)


def test_a_question_of_mmbench_is_right_when_all_its_rotations_are() -> None:
    def rows(*scores: float) -> list[dict[str, Any]]:
        return [sample(i, s, f"g{i // 2}", group=i // 2) for i, s in enumerate(scores)]

    own, base = rows(1, 1, 1, 0, 0, 0), rows(1, 1, 1, 1, 1, 0)
    found = stats.task_stats("mmbench_en_dev", "llava", {"own": stats.Row(own, "base"), "base": stats.Row(base, None)})
    against = found["own"]["against"]
    assert against["difference"] == pytest.approx(100 / 3 - 200 / 3)
    assert (against["gained"], against["lost"]) == (0, 1)


def pope(*rows: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        sample(i, float(said == truth), reading=said, target=truth, category=category)
        for i, (said, truth, category) in enumerate(rows)
    ]


def test_f1_of_pope_by_hand() -> None:
    """2 true positives, 1 false one, 1 missed: F1 = 4 / 6; by category (1 and 1/2): 3/4."""
    rows = pope(("yes", "yes", "a"), ("yes", "yes", "b"), ("yes", "no", "b"), ("maybe", "yes", "b"), ("no", "no", "a"))
    for protocol, wanted in (("lmms-eval", 400 / 6), ("llava", 75.0)):
        of = get_task("pope").statistic(protocol, rows)
        assert float(of.value(sum(stats.clustered(rows, of).values()))) == pytest.approx(wanted)


def test_the_yes_ratio_is_that_of_the_predictions() -> None:
    rows = pope(*[("yes", "no", "a")] * 9, ("no", "yes", "a"))
    assert stats.task_stats("pope", "lmms-eval", {"a": stats.Row(rows, None)})["a"]["yes_ratio"] == 90


def test_rows_about_other_samples_are_not_compared() -> None:
    rows = {"own": stats.Row(scored(1, 0), "base"), "base": stats.Row(scored(1, 0, 1), None)}
    assert "against" not in stats.task_stats("gqa", "lmms-eval", rows)["own"]


def test_holm_is_over_all_comparisons_of_a_table() -> None:
    table: list[dict[str, Any]] = [{"against": {"p": p}} for p in (0.01, 0.04)] + [{"interval": [0, 1]}]
    stats.adjust(table)
    assert [one["against"]["p_holm"] for one in table[:2]] == pytest.approx([0.02, 0.04])


def test_the_same_samples_give_the_same_numbers() -> None:
    rows = {"a": stats.Row(scored(*[float(i % 3 == 0) for i in range(50)]), None)}
    assert stats.task_stats("gqa", "llava", rows) == stats.task_stats("gqa", "llava", rows)
