"""MMBench's readings and circular scores, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TaskSpec, evaluate, mmbench
from evals.tasks.base import Answer
from evals.tasks.mmbench import MMBench, MMBenchCN, absent, option_letter, options, static_score
from hidrop.mini import test_sets
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES

TASK, CHINESE = MMBench(), MMBenchCN()
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


# ---- the Chinese one -----------------------------------------------------------------------------------------------


def chinese(turns: dict[int, str]) -> list[Answer]:
    """Answers to rotations with two options, of which "猫" is right; rotations swap the options."""
    found = []
    for index, text in turns.items():
        swapped = index // 1_000_000 % 2
        texts = ("狗", "猫") if swapped else ("猫", "狗")
        doc = {"index": index, "question": "图中是什么", "hint": None, "answer": "B" if swapped else "A"}
        doc |= {"A": texts[0], "B": texts[1], "C": None, "D": float("nan"), "L2-category": "x", "category": "y"}
        found.append(Answer(doc, text))
    return found


def test_the_chinese_question_ends_with_llavas_chinese_sentence() -> None:
    doc = {"hint": "看图", "question": "图中是什么", "A": "猫", "B": "狗", "C": "nan", "D": None}
    assert CHINESE.question(doc) == "看图\n图中是什么\nA. 猫\nB. 狗\n请直接回答选项字母。"
    assert CHINESE.question({**doc, "hint": "nan"}) == "图中是什么\nA. 猫\nB. 狗\n请直接回答选项字母。"


def test_lmms_eval_prints_a_chinese_hint_that_is_the_text_nan(tmp_path: Path, oracle: Any) -> None:
    """In English it looks for that text; see mmbench/en_utils.py and cn_utils.py."""
    documents = [{**doc, "hint": "nan" if doc["answer"] == "A" else None} for doc in CASES["mmbench_cn_dev"].documents]
    put("mmbench_cn_dev", tmp_path, documents)
    lm = oracle()
    evaluate(lm, TaskSpec("mmbench_cn_dev", str(tmp_path), "lmms-eval"))
    options = "There are several options:\nA. red\nB. blue\nC. green\n\n请直接使用所提供的选项字母作为答案回答。"
    assert lm.contexts[0] == f"nan 哪一个 {options}"
    assert lm.contexts[-1].startswith("哪一个 There are several options:\nA. dog\nB. cat\n\n")


def test_the_chinese_value_is_that_of_the_static_rules_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_eval.tasks.mmbench import cn_utils
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    monkeypatch.setattr(MMBench_Evaluator, "_post_request", lambda *_: pytest.fail("asked a server"))
    said = chinese({1: "A", 1_000_001: "B", 2: "(A)", 1_000_002: "答案是B", 3: "猫", 1_000_003: "猫。", 4: "A"})
    said += chinese({1_000_004: "A", 5: "Nope", 1_000_005: "B", 6: "", 7: "The answer is B."})
    results = []
    for answer in said:
        doc = {**answer.doc, "source": "", "split": "dev"}
        results.append(cn_utils.mmbench_process_results(doc, [answer.text])["gpt_eval_score"])
    ours = CHINESE.score(said, "lmms-eval")
    assert ours.value == pytest.approx(static_score(results, None), rel=1e-14) == pytest.approx(100 * 3 / 7)
    assert ours.metric == "gpt_eval_score" and ours.extra["questions"] == 7
    [metric] = CHINESE.metrics([{"metric": "gpt_eval_score"}, {"metric": "submission"}], "lmms-eval")
    assert metric["aggregation"](results, args=None) == ours.value


def test_english_and_chinese_data_of_one_folder_stay_apart(tmp_path: Path, oracle: Any) -> None:
    for name in ("mmbench_en_dev", "mmbench_cn_dev"):
        put(name, tmp_path / "MMBench", file=CASES[name].file)
    for name, word in (("mmbench_en_dev", "Which one?"), ("mmbench_cn_dev", "哪一个")):
        lm = oracle()
        assert evaluate(lm, TaskSpec(name, str(tmp_path))).value == 100
        assert all(word in asked for asked in lm.contexts)
