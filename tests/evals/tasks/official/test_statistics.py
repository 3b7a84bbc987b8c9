"""A value follows again from the records of a scored task's samples, and so do its interval and its differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evals.store.records import checked
from evals.store.statistics import LEVEL, Row, drawn, redrawn, task_stats, value_of
from evals.tasks import evaluate, get_task
from evals.tasks.official_config import official
from tests.evals.tasks.official.stand_in import Answering
from tests.evals.tasks.official.tables import SCORED

PROTOCOL = "lmms-eval"
# Values that are no mean, and no mean of means, of scores from 0 to 1: what each sample gave is aggregated again.
AGGREGATED = ("ocrbench", "mlvu_dev", "mvbench_action_antonym", "countix")
# A mean over two categories of different sizes, and a metric that one of four documents lacks: weights of samples.
WEIGHTED = {"mmstar_oc": [2 / 3, 2 / 3, 2 / 3, 2], "seedbench_lite": [4 / 3, 4 / 3, 4 / 3, None]}
# The digits to which a task rounds a mean.
ROUNDED = {"mmmu_pro_standard": 5}
MEANS = [name for name in SCORED if name not in (*AGGREGATED, *WEIGHTED)]

every_scored_task = pytest.mark.parametrize("name", SCORED)


@pytest.fixture(scope="session")
def results(official_data: Any) -> dict[str, Any]:
    """The result of every scored task."""
    from evals.tasks import TaskSpec

    return {
        name: evaluate(Answering(row.said), TaskSpec(name, str(official_data), PROTOCOL, metric=row.metric))
        for name, row in SCORED.items()
    }


def recorded(samples: Sequence[dict[str, Any]]) -> list[Any]:
    """Samples after a journal."""
    return [checked(json.loads(json.dumps({"kind": "score", **sample}, allow_nan=False))) for sample in samples]


@every_scored_task
def test_the_value_follows_from_the_records_alone(name: str, results: dict[str, Any]) -> None:
    found = results[name]
    assert value_of(name, PROTOCOL, recorded(found.samples)) == pytest.approx(found.value, rel=1e-12)


@every_scored_task
def test_samples_have_scores_wherever_the_value_follows_from_such(name: str, results: dict[str, Any]) -> None:
    samples = results[name].samples
    assert all("item" in sample for sample in samples if sample["score"] is None and name in AGGREGATED)
    assert all(sample["score"] is None for sample in samples) == (name in AGGREGATED)
    if name not in AGGREGATED:
        scale = 100 if results[name].value > 1 else 1
        weights = WEIGHTED.get(name, [scale] * len(samples))
        assert [sample.get("weight") for sample in samples] == pytest.approx(weights)
        assert {sample.get("digits") for sample in samples} == {ROUNDED.get(name)}
        assert [sample["score"] is None for sample in samples] == [weight is None for weight in weights]


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("mmmu_val", [1, 0, 1, 1]),
        ("multidocvqa_val", [1, 3 / 4, 5 / 6]),
        ("refcoco_bbox_rec_test", [1, 0.5, 0]),
        ("temporal_grounding_charades", [1, 1, 0]),
    ],
)
def test_scores_are_the_values_of_single_documents_where_their_mean_is_the_value(
    name: str, scores: list[float], results: dict[str, Any]
) -> None:
    """What process_results gives has no score in it: a list of readings, or a box."""
    assert [sample["score"] for sample in results[name].samples] == pytest.approx(scores)
    assert all("item" in sample for sample in results[name].samples)


@pytest.mark.parametrize("name", [name for name in SCORED if name not in AGGREGATED])
def test_a_wrong_weight_or_score_changes_the_value(name: str, results: dict[str, Any]) -> None:
    found = results[name]
    place = next(place for place, sample in enumerate(found.samples) if sample["score"])
    for wrong in ({"weight": 1.1 * found.samples[place]["weight"]}, {"score": 0.3}):
        samples = [{**sample, **(wrong if at == place else {})} for at, sample in enumerate(found.samples)]
        assert value_of(name, PROTOCOL, samples) != pytest.approx(found.value, rel=1e-6)


@pytest.mark.parametrize("name", AGGREGATED)
def test_a_wrong_item_changes_the_value(name: str, results: dict[str, Any]) -> None:
    """Another document's item instead of one, for at least one pair of documents."""
    samples = results[name].samples
    others = set()
    for a, sample in enumerate(samples):
        for b in range(len(samples)):
            changed = [*samples[:a], {**sample, "item": samples[b]["item"]}, *samples[a + 1 :]]
            others.add(value_of(name, PROTOCOL, changed))
    assert len(others) > 1


def per_image(samples: Sequence[dict[str, Any]]) -> np.ndarray:
    """The sum of scores and the number of samples of each image, in the order of first appearance."""
    images: dict[Any, list[float]] = {}
    for sample in samples:
        sums = images.setdefault(sample["image_key"], [0.0, 0.0])
        sums[0] += sample["score"]
        sums[1] += 1
    return np.array(list(images.values()))


def middle(values: np.ndarray) -> list[float]:
    return list(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))


@pytest.mark.parametrize("name", MEANS)
def test_a_means_interval_and_difference_are_those_of_the_paired_bootstrap_over_images(
    name: str, results: dict[str, Any]
) -> None:
    """The other run has the scores in reverse, on the same images."""
    found = results[name]
    scores = [sample["score"] for sample in found.samples]
    others = [{**sample, "score": score} for sample, score in zip(found.samples, reversed(scores), strict=True)]
    stats = task_stats(name, PROTOCOL, {"own": Row(found.samples, "base"), "base": Row(others, None)})
    both = np.concatenate([per_image(found.samples), per_image(others)], axis=1)
    scale, sums = 100 if found.value > 1 else 1, drawn(both)
    own, base = (np.round(scale * sums[:, at] / sums[:, at + 1], ROUNDED.get(name, 15)) for at in (0, 2))
    assert stats["own"]["interval"] == pytest.approx(middle(own))
    assert stats["own"]["against"]["difference"] == pytest.approx(
        found.value - value_of(name, PROTOCOL, others), abs=1e-9
    )
    assert stats["own"]["against"]["interval"] == pytest.approx(middle(own - base), abs=1e-9)
    low, high = stats["own"]["interval"]
    assert low - 1e-9 <= found.value <= high + 1e-9


@pytest.mark.parametrize("name", AGGREGATED)
def test_other_values_intervals_are_lmms_evals_aggregates_of_drawn_documents(
    name: str, results: dict[str, Any]
) -> None:
    found = results[name]
    [interval] = [task_stats(name, PROTOCOL, {"own": Row(found.samples, None)})["own"]["interval"]]
    images: dict[Any, list[Any]] = {}
    for sample in found.samples:
        images.setdefault(sample["image_key"], []).append(sample)
    lists = list(images.values())
    values = [get_task(name)._aggregate([s for place in draw for s in lists[place]]) for draw in redrawn(len(lists))]
    assert interval == pytest.approx(middle(np.array(values)))
    assert interval[0] <= found.value <= interval[1] and (interval[0] < interval[1] or len(lists) == 1)


def test_a_mean_over_categories_is_drawn_within_them(results: dict[str, Any]) -> None:
    """Of three scores 1, 1, 0 a draw gives k / 3 with k binomial(3, 2/3), and 1 for the only one of the other."""
    [low, high] = task_stats("mmstar_oc", PROTOCOL, {"own": Row(results["mmstar_oc"].samples, None)})["own"]["interval"]
    assert (low, high) == pytest.approx(((0 + 1) / 2, (1 + 1) / 2))


def test_documents_without_the_metric_do_not_widen_its_interval(results: dict[str, Any]) -> None:
    """Where all that have it are right, each draw is 1: it takes as many of them as there are."""
    samples = [
        {**sample, "score": None if sample["score"] is None else 1.0} for sample in results["seedbench_lite"].samples
    ]
    assert [sample["score"] for sample in samples] == [1, 1, 1, None]
    assert task_stats("seedbench_lite", PROTOCOL, {"own": Row(samples, None)})["own"]["interval"] == [1, 1]


def test_flips_are_those_of_the_documents_that_have_the_metric(spec_of: Any) -> None:
    """The fourth document is a video, and the metric is for images: B and C become right, A wrong."""
    own, base = (
        evaluate(Answering(said), spec_of("seedbench_lite")) for said in (("B", "B", "C", "D"), ("A", "A", "A", "A"))
    )
    stats = task_stats("seedbench_lite", PROTOCOL, {"own": Row(own.samples, "base"), "base": Row(base.samples, None)})
    against = stats["own"]["against"]
    assert (against["gained"], against["lost"], against["loyalty"]) == (2, 1, 0)
    assert against["difference"] == pytest.approx(1 / 3) and against["p"] == 1


def test_rows_with_and_without_scores_are_compared_on_what_lmms_eval_aggregates(spec_of: Any) -> None:
    """F1 is the mean of scores only where all answers are right; both rows are F1 of the same draws then."""
    from evals.tasks import TaskSpec

    name, row = "pope_adv", SCORED["pope_adv"]
    spec = replace(spec_of(name), metric="pope_f1_score")
    own, base = (evaluate(Answering(said), spec) for said in (row.said, [doc["answer"] for doc in row.documents]))
    assert isinstance(spec, TaskSpec) and (own.value, base.value) == (pytest.approx(2 / 3), 1.0)
    assert [own.samples[0]["score"], base.samples[0]["score"]] == [None, 1.0]
    stats = task_stats(name, PROTOCOL, {"own": Row(own.samples, "base"), "base": Row(base.samples, None)})
    assert stats["own"]["against"]["difference"] == pytest.approx(-1 / 3) and stats["own"]["against"]["p"] is None
    assert stats["own"]["against"]["interval"][0] < stats["own"]["against"]["interval"][1] == 0


def test_scores_of_a_judges_file_need_no_items() -> None:
    """Next to a row that lmms-eval's own functions scored, whose weights are others."""
    plain = {"target": "x", "category": None, "group": None, "reading": "a"}
    filed = [{**plain, "doc_id": n, "image_key": str(n), "score": 0.5, "weight": 100.0} for n in range(3)]
    theirs = [{**one, "weight": 1.0, "metric": "gpt_eval_score,none", "item": {"score": 0.5}} for one in filed]
    rows = {"a": Row(filed, "b"), "b": Row(filed, None), "c": Row(theirs, "b")}
    stats = task_stats("mmvet", PROTOCOL, rows)
    assert stats["a"]["against"]["difference"] == 0 and stats["c"]["interval"] == [0.5, 0.5]


def test_rows_of_a_mean_of_numbers_are_compared_although_one_has_numbers_above_1(spec_of: Any) -> None:
    """Relative errors: of the first row all are below 1, and are scores."""
    row, spec = SCORED["countix"], spec_of("countix")
    own, base = (evaluate(Answering(said), spec) for said in (("5", "9", "2", "4"), row.said))
    assert [own.samples[0]["score"], base.samples[0]["score"]] == [pytest.approx(1 / 4.1), None]
    stats = task_stats("countix", PROTOCOL, {"own": Row(own.samples, "base"), "base": Row(base.samples, None)})
    assert stats["own"]["against"]["difference"] == pytest.approx(own.value - base.value)


def test_a_lower_value_is_better_where_the_task_says_so() -> None:
    assert not get_task("countix").higher_is_better("mae_norm") and get_task("countix").higher_is_better("obo")
    assert not get_task("vlms_are_biased").higher_is_better("bias_ratio")
    assert get_task("ai2d").higher_is_better("exact_match")


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("pope_adv", [0, 0, 1, 1, 2, 2]),  # the data name the image
        ("chartqa", [0, 1, 2, 3]),  # the image itself does
        ("mtvqa", [0, 0, 1, 2]),  # in rows that the task makes of its file
        ("refcoco_bbox_rec_test", [0, 0, 1]),  # which here takes decoded images
        ("mlvu_dev", [0, 0, 1, 1]),  # a video
        ("egoschema_subset", [0, 1, 0, 1]),
        ("countix", [0, 1, 0, 1]),
        ("scienceqa", [0, 1, 2, 3]),  # two without an image
        ("hellaswag", [0, 1, 2]),
    ],
)
def test_documents_about_one_image_or_video_are_one_unit(name: str, images: list[int], results: dict[str, Any]) -> None:
    keys = [sample["image_key"] for sample in results[name].samples]
    assert [list(dict.fromkeys(keys)).index(key) for key in keys] == images


def test_a_global_counter_does_not_grow(results: dict[str, Any]) -> None:
    """OCRBench's aggregation counts in a global of its module."""
    counter = official(get_task("ocrbench"))["process_results"].__globals__["OCRBench_score"]
    again = [value_of("ocrbench", PROTOCOL, results["ocrbench"].samples) for _ in range(3)]
    assert again == [0.004] * 3 and set(counter.values()) == {0}
