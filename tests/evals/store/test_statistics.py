"""Statistics against cases worked out by hand, and against brute force."""

from __future__ import annotations

import itertools
import random
from math import comb
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evals.store import statistics as stats
from evals.tasks import get_task
from evals.tasks.base import Resampled, Statistic, mean_of_sums


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


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (7, 0), (11, 12), (40, 9), (300, 411), (2000, 2000), (5000, 40)])
def test_mcnemar_is_scipys_exact_test(gained: int, lost: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(gained, gained + lost, 0.5).pvalue
    assert stats.mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not fall below the one before it."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_the_bootstrap_of_three_images_is_the_enumeration_of_its_27_draws() -> None:
    rows = [sample(0, 1, "a"), sample(1, 0, "a"), sample(2, 1, "b"), sample(3, 1, "c"), sample(4, 0, "c")]
    of = get_task("gqa").statistic("lmms-eval", rows)
    counts = np.stack(list(stats.clustered(rows, of).images.values()))
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
    """2 true positives, 1 false one, 1 missed: F1 = 4 / 6; by category (1 and 1/2): 3/4. A "maybe" does not count."""
    said = [("yes", "yes", "a"), ("yes", "yes", "b"), ("yes", "no", "b"), ("no", "yes", "b"), ("no", "no", "a")]
    rows = pope(*said, ("maybe", "yes", "b"))
    for protocol, wanted in (("lmms-eval", 400 / 6), ("llava", 75.0)):
        of = get_task("pope").statistic(protocol, rows)
        assert float(of.value(sum(stats.clustered(rows, of).images.values()))) == pytest.approx(wanted)


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


# ---- against plain loops -------------------------------------------------------------------------------------------
#
# The slow reference draws images by Python's own generator, copies their samples into a list and scores the list from
# scratch, as the benchmark's definition has it. A `Pick` is one drawn image: the samples that belong to it.

Pick = list[dict[str, Any]]
DRAWS = 4000


def mean_score(picks: list[Pick]) -> float:
    """The mean over samples."""
    scores = [row["score"] for pick in picks for row in pick]
    return 100 * sum(scores) / len(scores)


def circular(picks: list[Pick]) -> float:
    """The share of questions whose rotations are all right; an image that is drawn twice brings its questions twice."""
    questions = [[row for row in pick if row["group"] == g] for pick in picks for g in {row["group"] for row in pick}]
    return 100 * sum(all(row["score"] == 1 for row in rows) for rows in questions) / len(questions)


def f1(rows: Pick) -> float:
    """F1 from precision and recall."""
    said_yes = [row["target"] == "yes" for row in rows if row["reading"] == "yes"]
    is_yes = [row["reading"] == "yes" for row in rows if row["target"] == "yes"]
    if not any(said_yes):
        return 0.0
    precision, recall = sum(said_yes) / len(said_yes), sum(is_yes) / len(is_yes)
    return 100 * 2 * precision * recall / (precision + recall)


def pooled_f1(picks: list[Pick]) -> float:
    return f1([row for pick in picks for row in pick])


def mean_f1(picks: list[Pick]) -> float:
    rows = [row for pick in picks for row in pick]
    return sum(f1([row for row in rows if row["category"] == c]) for c in CATEGORIES) / len(CATEGORIES)


CATEGORIES = ("adversarial", "popular", "random")
IMAGES = 40


def soft_rows(seed: int) -> list[dict[str, Any]]:
    """One to four samples an image, whose scores lean to the image's own level."""
    rng = random.Random(seed)
    level = [random.Random(image).random() for image in range(IMAGES)]
    owners = [image for image in range(IMAGES) for _ in range(1 + image % 4)]
    return [
        sample(i, rng.choice((0.0, 0.3, 0.6, 1.0)) * (rng.random() < level[image]), f"i{image}")
        for i, image in enumerate(owners)
    ]


def circular_rows(seed: int) -> list[dict[str, Any]]:
    """Two questions an image with two to four rotations, most of which are right."""
    rng, rows = random.Random(seed), list[dict[str, Any]]()
    for question in range(2 * IMAGES):
        for _ in range(2 + question % 3):
            rows.append(sample(len(rows), float(rng.random() < 0.85), f"i{question // 2}", group=question))
    return rows


def pope_rows(seed: int) -> list[dict[str, Any]]:
    """A yes and a no in each category for each image: misses are rare, false alarms common, most among adversarial."""
    rng, rows = random.Random(seed), list[dict[str, Any]]()
    for image in range(IMAGES):
        for place, category in enumerate(CATEGORIES):
            for truth in ("yes", "no"):
                wrong = rng.random() < (0.1 if truth == "yes" else 0.7 - 0.3 * place)
                said = truth if not wrong else "no" if truth == "yes" else "yes"
                more = {"reading": said, "target": truth, "category": category}
                rows.append(sample(len(rows), float(said == truth), f"i{image}", **more))
    return rows


KINDS = {
    "mean": ("textvqa_val", "llava", soft_rows, mean_score),
    "circular": ("mmbench_en_dev", "llava", circular_rows, circular),
    "pooled F1": ("pope", "lmms-eval", pope_rows, pooled_f1),
    "mean F1": ("pope", "llava", pope_rows, mean_f1),
}


def by_image(rows: Pick) -> list[Pick]:
    found: dict[str, Pick] = {}
    for row in rows:
        found.setdefault(row["image_key"], []).append(row)
    return list(found.values())


def quantiles(values: list[float]) -> list[float]:
    """The 2.5th and 97.5th percentile."""
    ordered = sorted(values)
    return [ordered[round(share * (len(ordered) - 1))] for share in (0.025, 0.975)]


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_are_those_of_resampling_images_in_a_loop(kind: str) -> None:
    task, protocol, make, value = KINDS[kind]
    own, base = make(1), make(2)
    rows = {"own": stats.Row(own, "base"), "base": stats.Row(base, None)}
    found = stats.task_stats(task, protocol, rows)
    mine, theirs, rng = by_image(own), by_image(base), random.Random(3)
    values, differences = [], []
    for _ in range(DRAWS):
        places = [rng.randrange(IMAGES) for _ in range(IMAGES)]
        values.append(value([mine[p] for p in places]))
        differences.append(values[-1] - value([theirs[p] for p in places]))
    width = quantiles(values)[1] - quantiles(values)[0]
    assert width > 5, "the reference itself must have something to measure"
    assert found["own"]["interval"] == pytest.approx(quantiles(values), abs=0.08 * width)
    assert found["own"]["against"]["interval"] == pytest.approx(quantiles(differences), abs=0.08 * width)
    assert found["own"]["against"]["difference"] == pytest.approx(value(mine) - value(theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_of_drawn_sums_is_that_of_the_drawn_samples(kind: str) -> None:
    """Draw for draw: sums of images, weighted by how often each was drawn, against the samples themselves."""
    task, protocol, make, value = KINDS[kind]
    rows = make(4)
    of = get_task(task).statistic(protocol, rows)
    counts, picks = np.stack(list(stats.clustered(rows, of).images.values())), by_image(rows)
    for seed in range(20):
        rng = random.Random(seed)
        places = [rng.randrange(IMAGES) for _ in range(IMAGES)]
        sums = sum(counts[p] for p in places)
        assert float(of.value(sums)) == pytest.approx(value([picks[p] for p in places]))


def test_draws_take_as_many_images_as_there_are_with_replacement() -> None:
    """Of identity counts the sums are how often each image was drawn: n in all, each 1 on average, variance 1 - 1/n."""
    found = stats.drawn(np.eye(20), repeats=2 * stats.CHUNK + 1)
    assert found.shape == (2 * stats.CHUNK + 1, 20)
    assert (found.sum(axis=1) == 20).all() and (found == found.round()).all()
    assert found.mean(axis=0) == pytest.approx(np.ones(20), abs=0.15)
    assert found.var() == pytest.approx(1 - 1 / 20, abs=0.03)
    assert len(np.unique(found, axis=0)) == len(found)  # also the chunks differ from each other
    assert (stats.drawn(np.eye(20), repeats=10, seed=1) != found[:10]).any()


def test_an_interval_is_the_middle_part_of_the_values() -> None:
    values = np.arange(1001.0)
    assert stats.interval(values) == pytest.approx((25, 975))
    assert stats.interval(values, level=0.5) == pytest.approx((250, 750))


def test_a_unit_belongs_to_the_image_of_its_first_sample_and_images_keep_their_order() -> None:
    rows = [
        sample(0, 1, "b", group=5),
        sample(1, 1, "a", group=6),
        sample(2, 0, "a", group=5),  # another image of question 5
        sample(3, 1, "b", group=7),
    ]
    of = get_task("mmbench_en_dev").statistic("llava", rows)
    found = stats.clustered(rows, of).images
    assert {image: counts.tolist() for image, counts in found.items()} == {"b": [1, 2], "a": [1, 1]}
    assert list(found) == ["b", "a"]


def test_flips_by_hand() -> None:
    """Of five samples one is gained, two are lost, and two have the reading that vanilla has."""
    of = get_task("gqa").statistic("llava", [])
    base = [sample(i, s, reading=r) for i, (s, r) in enumerate([(0, "a"), (1, "b"), (1, "c"), (1, "d"), (0, "e")])]
    own = [sample(i, s, reading=r) for i, (s, r) in enumerate([(1, "x"), (0, "y"), (0, "z"), (1, "d"), (0, "e")])]
    assert stats.Flips.between(own, base, of) == stats.Flips(gained=1, lost=2, loyalty=40.0)
    assert stats.Flips.between(own[::-1], base, of) == stats.Flips(gained=1, lost=2, loyalty=40.0)
    with pytest.raises(ValueError, match="different samples"):
        stats.Flips.between(own[:4], base, of)
    with pytest.raises(ValueError, match="different samples"):
        stats.Flips.between([*own[:4], sample(9, 0)], base, of)


def test_a_unit_is_right_when_all_its_samples_are_at_least_half_right() -> None:
    of = get_task("mmbench_en_dev").statistic("llava", [])
    scores = {1: (1, 1), 2: (1, 0), 3: (0, 1), 4: (0.5, 1), 5: (0.49, 1)}
    rows = [sample(i, s, group=g) for i, (g, s) in enumerate((g, s) for g, pair in scores.items() for s in pair)]
    assert stats.right(rows, of) == {1: True, 2: False, 3: False, 4: True, 5: False}


def test_rows_are_compared_on_the_same_draws_whatever_else_is_in_the_table() -> None:
    """Three rows in one call, in another order: each has the numbers that it has with its base alone."""
    sets = {name: pope_rows(seed) for seed, name in enumerate(("base", "one", "two"))}
    rows = {name: stats.Row(sets[name], None if name == "base" else "base") for name in ("two", "base", "one")}
    table = stats.task_stats("pope", "llava", rows)
    assert list(table) == ["two", "base", "one"]
    for name in ("one", "two"):
        alone = stats.task_stats("pope", "llava", {"base": rows["base"], name: rows[name]})[name]
        assert table[name]["interval"] == pytest.approx(alone["interval"])
        against, wanted = table[name]["against"], alone["against"]
        assert against.pop("interval") == pytest.approx(wanted.pop("interval"))
        assert against == pytest.approx(wanted)
    assert len({tuple(one["interval"]) for one in table.values()}) == 3


def test_a_row_that_is_its_own_base_or_has_none_is_not_compared() -> None:
    rows = {"base": stats.Row(scored(1, 0), "base"), "alone": stats.Row(scored(1, 0), None)}
    found = stats.task_stats("gqa", "llava", rows)
    assert all("against" not in one for one in found.values())
    lost = {"own": stats.Row(scored(1, 0), "base")}
    assert "against" not in stats.task_stats("gqa", "llava", lost)["own"]


def test_rows_with_as_many_samples_about_other_images_are_not_compared() -> None:
    rows = {
        "own": stats.Row(scored(1, 0, 1, 0), "base"),
        "base": stats.Row(scored(1, 0, 1, 0, per_image=2), None),
        "short": stats.Row(scored(1, 0, 1), "base"),
    }
    found = stats.task_stats("gqa", "llava", rows)
    assert list(found) == ["own", "base", "short"] and all("against" not in one for one in found.values())


def test_units_of_a_stratum_are_drawn_within_it() -> None:
    """One image in a stratum, two in the other: the first one is in every draw exactly once."""
    rows = [
        {**sample(n, hit, image), "category": kind}
        for n, (hit, image, kind) in enumerate([(1, "a", "one"), (0, "b", "two"), (1, "c", "two")])
    ]
    of = Statistic(
        lambda s: s["doc_id"],
        lambda own: [float(s["category"] == kind) for kind in ("one", "two") for s in own],
        mean_of_sums,
        stratum=lambda s: s["category"],
    )
    found = stats.clustered(rows, of)
    assert found.strata == ((0,), (1, 2))
    sums = stats.drawn(np.stack(list(found.images.values())), repeats=50, strata=found.strata)
    assert (sums[:, 0] == 1).all() and (sums[:, 1] == 2).all()


def test_a_value_that_is_no_sum_is_computed_again_for_each_draw() -> None:
    """The median is no function of sums. Three units have 27 draws; their medians give the interval's ends."""
    rows = [{**sample(n, 0, f"i{n}"), "score": None, "item": value} for n, value in enumerate([1.0, 5.0, 9.0])]
    of = Resampled(lambda s: s["image_key"], lambda own: float(np.median([s["item"] for s in own])))
    value, draws = stats._resampled(rows, of)
    assert value == 5.0 and set(draws) <= {1.0, 5.0, 9.0} and len(draws) == stats.RESAMPLED
    # A median of 1 needs two or three draws of the first unit: 7 of 27.
    assert abs((draws == 1.0).mean() - 7 / 27) < 0.1


def test_samples_without_scores_have_an_interval_and_no_p_value(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Resampled(lambda s: s["doc_id"], lambda own: float(np.mean([s["item"] for s in own])))
    task = SimpleNamespace(unscored=None, statistics=lambda p, rows: dict.fromkeys(rows, of), row_stats=lambda s: {})
    monkeypatch.setattr(stats, "get_task", lambda name: task)
    base = [{**sample(n, 0, str(n)), "score": None, "item": float(n % 2), "reading": "a"} for n in range(20)]
    own = [{**row, "item": row["item"] - 0.25, "reading": "a" if row["doc_id"] else "b"} for row in base]
    found = stats.task_stats("any", "lmms-eval", {"own": stats.Row(own, "base"), "base": stats.Row(base, None)})
    against = found["own"]["against"]
    assert against["p"] is None and against["gained"] is None and against["lost"] is None
    # Both rows have the same draws, so the difference is the same in each.
    assert against["difference"] == pytest.approx(-0.25) and against["interval"] == pytest.approx([-0.25, -0.25])
    assert against["loyalty"] == 95.0
    stats.adjust([found["own"]])
    assert against["p_holm"] is None
