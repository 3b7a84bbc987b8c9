"""MMBench's readings and circular scores, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from evals.tasks import mmbench
from evals.tasks.base import Answer
from evals.tasks.mmbench import MMBench, absent, option_letter, options
from hidrop.mini import test_sets

TASK = MMBench()
CHOICES = {"A": "a dog", "B": "cow", "C": "horse"}


def test_the_embedded_benchmark_numbers_its_rotations_as_the_task_does() -> None:
    assert test_sets.ROTATION == mmbench.ROTATION


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("B.", "B"),
        ("(C)", "C"),
        ("**B**", "B"),
        ("B. cow", "B"),
        ("The answer is C", "C"),
        ("It is A", "A"),
        ("The answer is (A)", "A"),
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


@pytest.mark.parametrize("text", ["13", "13.", " 13 "])
def test_option_letter_prefers_the_whole_option(text: str) -> None:
    assert option_letter(text, {"A": "3", "B": "13"}) == "B"


@pytest.mark.parametrize(
    ("text", "llava", "static"),
    [
        ("Cow.", "B", "B"),
        ("**B**", "B", "B"),
        ("A or B", "", "A"),
        ("D", "", "D"),
        ("The correct option is C, not B", "", "B"),
        (" horse\n", "C", "C"),
        ("b", "", ""),
    ],
)
def test_each_protocol_reads_by_its_own_rules(text: str, llava: str, static: str) -> None:
    """lmms-eval's readings are those that decide in its own static evaluation."""
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    doc = {**CHOICES, "D": None, "index": 1, "category": "x", "L2-category": "x", "split": "dev"}
    assert TASK.reading(Answer(doc, text), "llava") == llava
    assert TASK.reading(Answer(doc, text), "lmms-eval") == static
    for letter in "ABCD":
        item = {**doc, "answer": letter, "prediction": text.strip(), "question": "Which?", "hint": "", "source": ""}
        official, *_ = MMBench_Evaluator().eval_result([item], eval_method="static")
        assert (official == 1) == (letter == static), letter


@pytest.mark.parametrize("value", [None, float("nan"), "nan", "NaN", "None", " ", ""])
def test_absent_values(value: Any) -> None:
    assert absent(value)
    assert options({"A": "x", "B": value, "C": "z"}) == {"A": "x"}


def test_present_values() -> None:
    assert options({"A": 0, "B": "Nancy", "C": False}) == {"A": "0", "B": "Nancy", "C": "False"}


def test_llavas_question_leaves_out_what_is_absent() -> None:
    choices = {"hint": "Look.", "question": "Which?", "A": "x", "B": "y", "C": None, "D": "never"}
    letter = "\nAnswer with the option's letter from the given choices directly."
    assert TASK.question(choices) == "Look.\nWhich?\nA. x\nB. y" + letter
    assert TASK.question({**choices, "hint": "nan"}) == "Which?\nA. x\nB. y" + letter


def circular(letters: dict[int, str], target: str = "A", level: str = "x") -> list[Answer]:
    return [
        Answer({"index": i, "answer": target, "A": "one", "B": "two", "C": None, "D": None, "L2-category": level}, text)
        for i, text in letters.items()
    ]


@pytest.mark.parametrize(("protocol", "metric"), [("llava", "circular_accuracy"), ("lmms-eval", "gpt_eval_score")])
def test_a_question_counts_when_all_its_rotations_are_right(protocol: str, metric: str) -> None:
    said = circular({1: "A", 1_000_001: "A"}) + circular({2: "A", 1_000_002: "B"}) + circular({3: "B"}, level="y")
    said += circular({4: "B", 1_000_004: "A"}, level="y")  # the first rotation is wrong
    result = TASK.score(said, protocol)
    assert result.value == pytest.approx(100 / 4) and result.metric == metric
    assert result.samples == (1, 1, 1, 0, 0, 0, 1)
    assert result.extra == pytest.approx({"l2_x": 50, "l2_y": 0, "questions": 4, "rotation_accuracy": 100 * 4 / 7})


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
def test_a_failed_rotation_is_wrong_and_takes_its_question_along(protocol: str) -> None:
    said = circular({1: "A", 1_000_001: "A"})
    said[1] = Answer(said[1].doc, "A", failed=True)
    result = TASK.score(said, protocol)
    assert result.samples == (1, 0) and result.value == 0


def test_the_category_is_the_second_level_where_the_data_has_it() -> None:
    assert TASK.category({"L2-category": "attribute", "category": "colour"}) == "attribute"
    assert TASK.category({"category": "colour"}) == "colour"


def test_the_official_metric_is_computed_by_rules_and_not_under_llavas_protocol() -> None:
    official = [{"metric": "gpt_eval_score", "aggregation": "ask"}, {"metric": "submission"}, {"metric": "other"}]
    assert TASK.metrics(official, "llava") == []
    static, other = TASK.metrics(official, "lmms-eval")
    assert static["metric"] == "gpt_eval_score" and callable(static["aggregation"]) and other == {"metric": "other"}
