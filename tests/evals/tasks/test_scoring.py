"""Golden scores, worked out by hand, and agreement with lmms-eval's own functions."""

from __future__ import annotations

from typing import Any

import pytest

from evals.tasks.scoring import (
    Answer,
    gqa_reading,
    option_letter,
    pope_metrics,
    pope_reading,
    score,
    vqa_accuracy,
)


def answers(*pairs: tuple[dict[str, Any], str]) -> list[Answer]:
    return [Answer(doc, text) for doc, text in pairs]


def test_gqa_of_llava_strips_only_trailing_dots_and_case() -> None:
    said = answers(*(({"answer": "red"}, text) for text in ("Red.", "red..", "red", "a red", "red!", "")))
    result = score("gqa", "llava", said)
    assert result.samples == (1, 1, 1, 0, 0, 0)
    assert result.value == 50.0
    assert result.metric == "accuracy"


def test_gqa_of_lmms_eval_strips_all_punctuation() -> None:
    said = answers(*(({"answer": "red"}, text) for text in ("Red.", "r-e-d!", "a red")))
    assert score("gqa", "lmms-eval", said).samples == (1, 1, 0)


@pytest.mark.parametrize("text", ["Red.", "t-shirt", "A red", "no, it is", "2", ""])
def test_gqa_reading_agrees_with_lmms_eval(text: str) -> None:
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    for target in ("red", "tshirt", "t-shirt", "2"):
        official = exact_match_hf_evaluate([text], [target], ignore_case=True, ignore_punctuation=True)["exact_match"]
        assert (gqa_reading(text, False) == gqa_reading(target, False)) == bool(official)


def test_vqa_accuracy_leaves_each_reference_out_once() -> None:
    two_of_ten = ["yes"] * 2 + ["no"] * 8
    # The two that say "yes" see one other, eight see two: (2 * 1/3 + 8 * 2/3) / 10.
    assert vqa_accuracy("yes", two_of_ten) == pytest.approx(0.6)
    # Three of ten: (3 * 2/3 + 7 * 1) / 10.
    assert vqa_accuracy("yes", ["yes"] * 3 + ["no"] * 7) == pytest.approx(0.9)
    assert vqa_accuracy("yes", ["yes"] + ["no"] * 9) == pytest.approx(0.3)
    assert vqa_accuracy("yes", ["yes"] * 4 + ["no"] * 6) == 1.0
    assert vqa_accuracy("maybe", two_of_ten) == 0.0


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("The Nokia.", "nokia"),
        ("Two", "2"),
        ("1,000", "1000"),
        ("dont", "don't"),
        ("a cat", "the cat"),
        ("x-ray", "x ray"),
    ],
)
def test_vqa_accuracy_normalises_as_evalai(text: str, reference: str) -> None:
    assert vqa_accuracy(text, [reference] * 10) == 1.0


@pytest.mark.parametrize(
    ("text", "llava", "strict"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        ("No, there is none", "no", "no, there is none"),
        ("There is not a cup", "no", "there is not a cup"),
        ("Yes. There is no dog", "yes", "yes. there is no dog"),
        ("NO", "yes", "no"),
        ("Nothing", "yes", "nothing"),
        ("", "yes", ""),
    ],
)
def test_pope_readings(text: str, llava: str, strict: str) -> None:
    assert pope_reading(text, True) == llava
    assert pope_reading(text, False) == strict


def test_pope_metrics_by_hand() -> None:
    # 3 hits, 1 false alarm, 2 misses, 4 right rejections.
    readings = ["yes"] * 3 + ["yes"] + ["no"] * 2 + ["no"] * 4
    targets = ["yes"] * 3 + ["no"] + ["yes"] * 2 + ["no"] * 4
    metrics = pope_metrics(readings, targets)
    assert metrics["accuracy"] == pytest.approx(70)
    assert metrics["precision"] == pytest.approx(75)
    assert metrics["recall"] == pytest.approx(60)
    assert metrics["f1"] == pytest.approx(100 * 2 * 0.75 * 0.6 / 1.35)
    assert metrics["yes_ratio"] == pytest.approx(40)


def test_pope_of_one_answer_only_has_no_division_by_zero() -> None:
    assert pope_metrics(["no", "no"], ["yes", "no"])["f1"] == 0.0


def pope_answers() -> list[Answer]:
    cases = [
        ("adversarial", "yes", "Yes"),
        ("adversarial", "no", "Yes"),  # F1 of adversarial: precision 1/2, recall 1 -> 2/3
        ("popular", "yes", "yes"),
        ("popular", "no", "No."),  # 1
        ("random", "yes", "no"),
        ("random", "no", "no"),  # 0
    ]
    return answers(*(({"category": c, "answer": target, "question_id": 0}, text) for c, target, text in cases))


def test_pope_of_llava_is_the_mean_f1_of_the_categories() -> None:
    result = score("pope", "llava", pope_answers())
    assert result.value == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert result.extra["f1_adversarial"] == pytest.approx(200 / 3)
    assert result.extra["yes_ratio"] == pytest.approx(50)
    assert result.samples == (1, 0, 1, 1, 0, 1)


def test_pope_of_lmms_eval_agrees_with_its_aggregation() -> None:
    from lmms_eval.tasks.pope import utils

    said = pope_answers()
    result = score("pope", "lmms-eval", said)
    items = [utils.pope_process_results(a.doc, [a.text])["pope_f1_score"] for a in said]
    assert result.value == pytest.approx(100 * utils.pope_aggregate_f1_score(items))
    assert result.extra["accuracy"] == pytest.approx(100 * utils.pope_aggregate_accuracy(items))
    assert result.samples == tuple(item["score"] for item in items)


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
def test_a_failed_sample_is_wrong_whatever_its_target(protocol: str) -> None:
    for target in ("yes", "no"):
        doc = {"category": "random", "answer": target}
        assert score("pope", protocol, [Answer(doc, "", failed=True)]).samples == (0.0,)
    assert score("gqa", protocol, [Answer({"answer": ""}, "", failed=True)]).samples == (0.0,)
    assert score("textvqa_val", protocol, [Answer({"answers": [""] * 10}, "", failed=True)]).samples == (0.0,)


CHOICES = {"A": "a dog", "B": "cow", "C": "horse"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("B.", "B"),
        ("(C)", "C"),
        ("**B**", "B"),
        ("B. cow", "B"),
        ("The answer is C", "C"),
        ("a dog", "A"),
        ("Cow.", "B"),
        ("I see a cow here", "B"),
        ("A cow is standing there", "B"),
        ("horse and cow", ""),
        ("A or B", ""),
        ("D", ""),
        ("b", ""),
        ("", ""),
    ],
)
def test_option_letter(text: str, letter: str) -> None:
    assert option_letter(text, CHOICES) == letter


def test_option_letter_prefers_the_whole_option() -> None:
    assert option_letter("13", {"A": "3", "B": "13"}) == "B"


def circular(letters: dict[int, str], target: str = "A", level: str = "x") -> list[Answer]:
    return [
        Answer({"index": i, "answer": target, "A": "one", "B": "two", "C": None, "D": None, "L2-category": level}, text)
        for i, text in letters.items()
    ]


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
def test_an_mmbench_question_counts_when_all_its_rotations_are_right(protocol: str) -> None:
    said = circular({1: "A", 1_000_001: "A"}) + circular({2: "A", 1_000_002: "B"}) + circular({3: "B"}, level="y")
    result = score("mmbench_en_dev", protocol, said)
    assert result.value == pytest.approx(100 / 3)
    assert result.samples == (1, 1, 1, 0, 0)
    assert result.extra["l2_x"] == pytest.approx(50)
    assert result.extra["l2_y"] == 0
    assert result.extra["questions"] == 3
    assert result.extra["rotation_accuracy"] == pytest.approx(60)


def test_no_answers_are_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        score("gqa", "llava", [])
