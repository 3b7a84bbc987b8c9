"""POPE's readings and scores, worked out by hand, and compared with lmms-eval's own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evals.tasks.base import Answer
from evals.tasks.pope import POPE, metrics_of

TASK = POPE()


def answers(*cases: tuple[str, str, str]) -> list[Answer]:
    return [
        Answer({"category": category, "answer": target, "question_id": 0}, text) for category, target, text in cases
    ]


@pytest.mark.parametrize(
    ("text", "llava", "strict"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        ("No, there is none", "no", "no, there is none"),
        ("no", "no", "no"),
        ("There is not a cup", "no", "there is not a cup"),
        ("Yes. There is no dog", "yes", "yes. there is no dog"),
        ("NO", "yes", "no"),
        ("Nothing", "yes", "nothing"),
        (" yes\n", "yes", "yes"),
        ("", "yes", ""),
    ],
)
def test_readings(text: str, llava: str, strict: str) -> None:
    [answer] = answers(("random", "yes", text))
    assert TASK.reading(answer, "llava") == llava
    assert TASK.reading(answer, "lmms-eval") == strict


def test_metrics_by_hand() -> None:
    """Three hits, one false alarm, two misses, four right rejections."""
    readings = ["yes"] * 3 + ["yes"] + ["no"] * 2 + ["no"] * 4
    targets = ["yes"] * 3 + ["no"] + ["yes"] * 2 + ["no"] * 4
    assert metrics_of(readings, targets) == pytest.approx(
        {"accuracy": 70, "precision": 75, "recall": 60, "f1": 100 * 2 * 0.75 * 0.6 / 1.35, "yes_ratio": 40}
    )


def test_a_reading_that_is_neither_yes_nor_no_is_only_wrong_for_the_accuracy() -> None:
    found = metrics_of(["yes", "maybe", "maybe"], ["yes", "yes", "no"])
    assert found == pytest.approx(
        {"accuracy": 100 / 3, "precision": 100, "recall": 100, "f1": 100, "yes_ratio": 100 / 3}
    )


def test_answers_of_one_kind_only_have_no_division_by_zero() -> None:
    nothing = {"precision": 0, "recall": 0, "f1": 0}
    assert metrics_of(["no", "no"], ["yes", "no"]) == {"accuracy": 50, "yes_ratio": 0, **nothing}
    assert metrics_of(["yes", "yes"], ["no", "no"]) == {"accuracy": 0, "yes_ratio": 100, **nothing}
    assert metrics_of(["no"], ["no"]) == {"accuracy": 100, "yes_ratio": 0, **nothing}


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
def test_the_truth_is_compared_without_case_and_spaces(protocol: str) -> None:
    assert TASK.score(answers(("a", "Yes\n", "yes"), ("a", " NO", "yes")), protocol).samples == (1, 0)


CASES = [
    ("adversarial", "yes", "Yes"),
    ("adversarial", "no", "Yes"),  # precision 1/2, recall 1: F1 2/3
    ("popular", "yes", "yes"),
    ("popular", "no", "No."),  # 1
    ("random", "yes", "no"),
    ("random", "no", "no"),  # 0
]


def test_llavas_value_is_the_mean_f1_of_the_categories() -> None:
    result = TASK.score(answers(*CASES), "llava")
    assert result.metric == "f1" and result.value == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert [result.extra[f"f1_{c}"] for c in ("adversarial", "popular", "random")] == pytest.approx([200 / 3, 100, 0])
    assert result.extra["yes_ratio"] == pytest.approx(50)
    assert result.extra["accuracy"] == pytest.approx(400 / 6)
    assert result.samples == (1, 0, 1, 1, 0, 1)
    assert result.readings == ("yes", "yes", "yes", "no", "no", "no")


def test_the_f1_of_some_of_the_categories_is_not_called_the_mean_f1() -> None:
    named = {
        "f1": CASES,
        "f1 of adversarial only": CASES[:2],  # as with a limit
        "f1 of adversarial and random only": CASES[:2] + CASES[4:],
        "f1 of adversarial and popular and random and rare only": [*CASES, ("rare", "no", "no")],
    }
    for name, said in named.items():
        assert TASK.score(answers(*said), "llava").metric == name
        assert TASK.score(answers(*said), "lmms-eval").metric == name.replace("f1", "pope_f1_score")


def test_documents_without_a_category_are_one_category() -> None:
    docs = [Answer({"answer": target}, text) for target, text in (("yes", "yes"), ("yes", "no"), ("no", "no"))]
    assert TASK.score(docs, "llava").extra["f1_all"] == pytest.approx(200 / 3)


def test_lmms_evals_value_is_that_of_its_own_aggregation() -> None:
    from lmms_eval.tasks.pope import utils

    said = answers(*CASES)
    result = TASK.score(said, "lmms-eval")
    items = [utils.pope_process_results(a.doc, [a.text])["pope_f1_score"] for a in said]
    assert result.metric == "pope_f1_score"
    assert result.value == pytest.approx(100 * utils.pope_aggregate_f1_score(items))
    assert result.extra["accuracy"] == pytest.approx(100 * utils.pope_aggregate_accuracy(items))
    assert result.samples == tuple(item["score"] for item in items)


def test_a_failed_sample_is_read_as_the_wrong_answer() -> None:
    for target, wrong in (("yes", "no"), ("no", "yes")):
        [answer] = answers(("random", target, ""))
        failed = Answer(answer.doc, "", failed=True)
        assert TASK.score([failed], "llava").readings == (wrong,)
        assert TASK.score([failed], "llava").samples == TASK.score([failed], "lmms-eval").samples == (0.0,)


def sample(said: str, truth: str, category: str, doc_id: int = 0) -> dict[str, Any]:
    return {"doc_id": doc_id, "reading": said, "target": truth, "category": category}


def test_counts_are_true_positives_false_positives_and_misses_of_each_category() -> None:
    """In a: two hits, one false alarm, no miss. In b: no hit, no false alarm, one miss ("maybe" is neither)."""
    rows = [sample("yes", "yes", "a"), sample("yes", "yes", "a"), sample("yes", "no", "a"), sample("no", "no", "a")]
    rows += [sample("no", "yes", "b"), sample("maybe", "yes", "b"), sample("maybe", "no", "b")]
    by_category = TASK.statistic("llava", rows)
    assert list(by_category.counts(rows)) == [2, 1, 0, 0, 0, 1]
    assert list(TASK.statistic("lmms-eval", rows).counts(rows)) == [2, 1, 1]
    assert list(by_category.counts(rows[2:3])) == [0, 1, 0, 0, 0, 0]


def test_the_value_of_sums_is_the_mean_f1_for_any_number_of_axes() -> None:
    """F1 of (2, 1, 0) is 4/5, of (1, 1, 2) is 2/5, of (0, 0, 0) is 0."""
    value = TASK.statistic("llava", [sample("yes", "yes", "a"), sample("yes", "yes", "b")]).value
    sums = np.array([[2, 1, 0, 1, 1, 2], [2, 1, 0, 0, 0, 0]], dtype=float)
    assert float(value(sums[0])) == pytest.approx(100 * (4 / 5 + 2 / 5) / 2)
    assert value(sums).tolist() == pytest.approx([60, 40])
    assert value(np.stack([sums, sums[::-1]])).tolist() == [pytest.approx([60, 40]), pytest.approx([40, 60])]


def test_the_yes_ratio_is_that_of_the_answers_not_of_the_truth() -> None:
    rows = [sample("yes", "no", "a")] * 9 + [sample("no", "yes", "a")]
    assert TASK.row_stats(rows) == {"yes_ratio": 90}
