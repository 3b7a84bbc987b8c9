"""VQA's soft accuracy, worked out by hand."""

from __future__ import annotations

import pytest

from evals.tasks.soft_accuracy import evalai, references_problem, soft_accuracy


def vqa_accuracy(text: str, references: list[str]) -> float:
    """As a task with the whole normalisation scores it."""
    return soft_accuracy(evalai()(text), [evalai()(reference) for reference in references])


def test_soft_accuracy_leaves_each_reference_out_once() -> None:
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
def test_both_sides_are_normalised_as_evalai(text: str, reference: str) -> None:
    assert vqa_accuracy(text, [reference] * 10) == 1.0


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (None, "0 of at least 4 references"),
        (["a"] * 3, "3 of at least 4 references"),
        (["a", None, "b", "c"], "not a list of texts"),
        ("['a', 'b']", "not a list of texts"),
        (["", " "] * 5, "all references are empty"),
    ],
)
def test_references_that_no_answer_can_be_compared_with_are_told(said: object, problem: str) -> None:
    found = references_problem(said)
    assert found is not None and found[0] == "answers" and problem in found[1]
    assert references_problem(["", "a", "a", "a"]) is None
