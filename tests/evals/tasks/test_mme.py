"""MME's questions, readings and points, worked out by hand, and compared with lmms-eval's own functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.tasks import TaskSpec, evaluate, missing, remarks
from evals.tasks.base import Answer, Statistic
from evals.tasks.mme import MME
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES

TASK = MME()
END = "Answer the question using a single word or phrase."
# The texts that images are asked about below: the reading of each, by the official rule.
READ = {
    "Yes": "yes",
    "yes.": "yes",
    " NO\n": "no",
    "Nope": "no",
    "No, there is none": "no",
    "yeah": "other",
    "The answer is yes": "other",
    "y": "yes",
    "n": "no",
    "x": "other",
    "...yes": "yes",
    "Not sure": "no",
    "": "other",
}


def pair(category: str, image: str, yes: str, no: str) -> list[Answer]:
    """What a model said to both questions about an image; the second one's answer is no."""
    name = {"question_id": f"{category}/{image}", "category": category}
    return [
        Answer({**name, "question": "Is it red?", "answer": "Yes"}, yes),
        Answer({**name, "question": "Is it blue?", "answer": "No"}, no),
    ]


@pytest.mark.parametrize(
    ("official", "asked"),
    [
        ("Is it red? Please answer yes or no.", "Is it red?"),
        ("Is it red?  Please answer yes or no.", "Is it red?"),
        (" Is it red?Please answer yes or no. ", "Is it red?"),
        ("Is it red?", "Is it red?"),
    ],
)
def test_llavas_question_has_no_official_end_and_no_space_in_its_place(official: str, asked: str) -> None:
    assert TASK.question({"question": official}) == f"{asked}\n{END}"


def test_lmms_evals_question_keeps_one_of_two_spaces(tmp_path: Path, oracle: Any) -> None:
    documents = [dict(doc) for doc in CASES["mme"].documents]
    documents[0]["question"] = "Are there two cats?  Please answer yes or no."
    put("mme", tmp_path, documents)
    asked = {}
    for protocol in ("llava", "lmms-eval"):
        lm = oracle()
        evaluate(lm, TaskSpec("mme", str(tmp_path), protocol), limit=2)
        asked[protocol] = lm.contexts
    assert asked["llava"] == [f"Are there two cats?\n{END}", f"Not: Are there two cats?\n{END}"]
    assert asked["lmms-eval"] == [f"Are there two cats? \n{END}", f"Not: Are there two cats?\n{END}"]


@pytest.mark.parametrize(("text", "reading"), READ.items())
def test_an_answer_is_read_by_its_first_four_characters(text: str, reading: str) -> None:
    for protocol in TASK.protocols:
        assert TASK.reading(Answer({}, text), protocol) == reading


def test_points_by_hand() -> None:
    """In count: one image right (200), one half right (50). In color: none right. In code_reasoning: 200."""
    said = pair("count", "1", "Yes", "No") + pair("count", "2", "Yes", "Yes") + pair("color", "3", "no", "yeah")
    said += pair("code_reasoning", "4", "yes.", "Nope")
    for protocol, metric in (("llava", "perception"), ("lmms-eval", "mme_perception_score")):
        result = TASK.score(said, protocol)
        assert result.value == 125 and result.metric == f"{metric} of 2 of 10 sub-tasks"
        assert result.samples == (1, 1, 1, 0, 0, 0, 1, 1)
        assert result.extra == {
            "cognition": 200,
            "accuracy": 100 * 5 / 8,
            "count": 125,
            "color": 0,
            "code_reasoning": 200,
        }


def test_the_largest_value_is_2000_and_has_the_protocols_name() -> None:
    from lmms_eval.tasks.mme.utils import eval_type_dict

    said = [answer for name in eval_type_dict["Perception"] for answer in pair(name, "1", "Yes", "No")]
    assert TASK.score(said, "llava").value == TASK.top == 2000 and TASK.score(said, "llava").metric == "perception"
    said += [answer for name in eval_type_dict["Cognition"] for answer in pair(name, "1", "Yes", "No")]
    assert TASK.score(said, "lmms-eval").value == 2000 and TASK.score(said, "lmms-eval").extra["cognition"] == 800


def test_a_failed_answer_is_wrong_and_takes_its_image_along() -> None:
    said = pair("count", "1", "Yes", "No")
    said[1] = Answer(said[1].doc, "No", failed=True)
    assert TASK.score(said, "llava").samples == (1, 0) and TASK.score(said, "llava").value == 50


@pytest.mark.parametrize("seed", range(3))
def test_the_value_is_that_of_lmms_evals_own_aggregation(seed: int) -> None:
    from lmms_eval.tasks.mme import utils

    random, said = np.random.default_rng(seed), list[Answer]()
    for category, images in (("count", 7), ("OCR", 3), ("posters", 11), ("text_translation", 5)):
        for image in range(images):
            said += pair(category, str(image), *random.choice(list(READ), 2))
    random.shuffle(said)  # type: ignore[arg-type]
    items: dict[str, list[Any]] = {"mme_perception_score": [], "mme_cognition_score": []}
    for answer in said:
        for name, item in utils.mme_process_results(answer.doc, [answer.text]).items():
            items[name].append(item)
    result = TASK.score(said, "lmms-eval")
    assert result.value == pytest.approx(utils.mme_aggregate_results(items["mme_perception_score"]), rel=1e-14)
    cognition = utils.mme_aggregate_results(items["mme_cognition_score"])
    assert result.extra["cognition"] == pytest.approx(cognition, rel=1e-14)


# ---- its data and its limit ----------------------------------------------------------------------------------------


def test_a_limit_asks_perception_first_and_keeps_pairs(tmp_path: Path, oracle: Any) -> None:
    documents = CASES["mme"].documents
    put("mme", tmp_path, [*documents[2:4], *documents[:2], *documents[4:]])  # cognition comes first in the file
    spec = TaskSpec("mme", str(tmp_path), "lmms-eval")
    for limit, images in ((1, 1), (2, 1), (3, 1), (4, 2), (7, 3), (8, 4)):
        result = evaluate(oracle(), spec, limit=limit)
        assert [sample["category"] for sample in result.samples] == [
            category for category in ["count", "count", "color", "code_reasoning"][:images] for _ in range(2)
        ]
    assert result.value == 400 and result.extra["cognition"] == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question_id": "count/0009.png"}, "'count/0001.png' has 1 questions instead of two, and 1 more rows. "),
        ({"category": "color"}, "column 'category': the questions about image 'count/0001.png' are of two sub-tasks. "),
        ({"category": "colour"}, "column 'category': 'colour' is not one of MME's sub-tasks"),
        ({"answer": "Maybe"}, "column 'answer': 'Maybe' is neither yes nor no"),
        ({"question_id": None}, "column 'question_id': is empty"),
    ],
)
def test_a_pair_that_is_not_whole_and_a_row_that_cannot_be_scored_are_named(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    documents = [dict(doc) for doc in CASES["mme"].documents]
    documents[1] |= change
    put("mme", tmp_path, documents)
    [problem] = missing(TaskSpec("mme", str(tmp_path)))
    assert words in problem and "hf download" in problem


def test_a_shard_of_an_earlier_revision_is_found_by_its_hash(
    tmp_path: Path, write_parquet: Callable[[list[dict[str, Any]], Path], None]
) -> None:
    for hashed in ("a29bb9d3c4e5f607", "0123456789abcdef"):
        write_parquet(CASES["mme"].documents, tmp_path / f"mme/data/test-00000-of-00001-{hashed}.parquet")
    [problem] = missing(TaskSpec("mme", str(tmp_path)))
    assert "the same shard twice" in problem


def test_all_rows_are_asked(data_folder: Path) -> None:
    assert remarks(TaskSpec("mme", str(data_folder))) == ["mme: 8 rows, but the official test has 2,374"]


# ---- statistics ----------------------------------------------------------------------------------------------------


def sample(category: str, image: str, score: float) -> dict[str, Any]:
    return {"category": category, "group": f"{category}/{image}", "score": score}


def test_the_unit_is_an_image_with_its_points_in_its_own_sub_task() -> None:
    rows = [sample("count", "1", 1), sample("count", "1", 0), sample("OCR", "1", 1), sample("OCR", "1", 1)]
    rows += [sample("code_reasoning", "1", 1), sample("code_reasoning", "1", 1)]
    of = TASK.statistic("llava", rows)
    assert isinstance(of, Statistic) and of.stratum is not None
    assert len({of.unit(row) for row in rows}) == 3 and [of.stratum(row) for row in rows[::2]] == [
        "count",
        "OCR",
        "code_reasoning",
    ]
    # Sub-tasks in lmms-eval's order: count, then OCR. Cognition has no place.
    assert [list(of.counts(rows[place : place + 2])) for place in (0, 2, 4)] == [
        [50, 1, 0, 0],
        [0, 0, 200, 1],
        [0, 0, 0, 0],
    ]


def test_the_value_of_sums_weighs_sub_tasks_the_same() -> None:
    of = TASK.statistic("llava", [sample("count", "1", 1), sample("OCR", "1", 1)])
    assert isinstance(of, Statistic)
    value = of.value
    sums = np.array([[300, 2, 200, 1], [0, 0, 100, 4]], dtype=float)
    assert value(sums).tolist() == [350, 25] and float(value(sums[0])) == 350
