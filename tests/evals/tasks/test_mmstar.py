"""MMStar's readings and means, worked out by hand, and compared with lmms-eval's own functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.tasks import TaskSpec, evaluate, missing
from evals.tasks.base import Answer, Statistic
from evals.tasks.mmstar import MMStar
from hidrop.errors import UserError
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES

TASK = MMStar()
KINDS = {"geometry": "math", "statistical reasoning": "math", "image emotion": "coarse perception"}


def said(level2: str, answer: str, *texts: str) -> list[Answer]:
    return [
        Answer({"index": 0, "category": KINDS[level2], "l2_category": level2, "answer": answer}, text) for text in texts
    ]


ODD = {
    "B": "B",
    "(B)": "B",
    "The answer is B.": "B",
    "B: red": "B",
    "Both": "B",
    "I think A or B": "B",
    "b": "",
    "Nope": "",
    "": "",
    "E": "",
}


@pytest.mark.parametrize(("text", "reading"), ODD.items())
def test_an_answer_is_read_by_lmms_evals_rules(text: str, reading: str) -> None:
    [answer] = said("geometry", " b", text)
    assert TASK.reading(answer, "lmms-eval") == TASK.reading(answer, "native") == reading
    assert TASK.score([answer], "lmms-eval").samples == (float(reading == "B"),)


def test_the_value_is_the_mean_over_sub_categories_and_accuracy_that_over_questions() -> None:
    """Geometry: 1 of 4, statistics: 1 of 1, emotion: 1 of 2. The category math is the mean of its two."""
    answers = said("geometry", "A", "A", "B", "C", "") + said("statistical reasoning", "B", "B")
    answers += said("image emotion", "C", "C", "D")
    result = TASK.score(answers, "lmms-eval")
    assert result.value == pytest.approx(100 * (1 / 4 + 1 + 1 / 2) / 3)
    assert result.extra == pytest.approx({"accuracy": 300 / 7, "math": 62.5, "coarse perception": 50})
    assert result.metric == "average of 3 of 18 sub-categories"


def test_the_value_and_the_categories_are_those_of_lmms_evals_own_aggregation() -> None:
    from lmms_eval.tasks.mmstar import utils

    random, answers = np.random.default_rng(0), list[Answer]()
    for category, several in utils.eval_type_dict.items():
        for level2 in several:
            doc = {"index": 0, "category": category, "l2_category": level2}
            count = int(random.integers(1, 9))
            answers += [Answer({**doc, "answer": str(random.choice(list("ABCD")))}, text) for text in list(ODD)[:count]]
    items: dict[str, list[Any]] = {}
    for answer in answers:
        for name, item in utils.mmstar_process_results(answer.doc, [answer.text]).items():
            items.setdefault(name, []).append(item)
    result = TASK.score(answers, "lmms-eval")
    assert result.metric == "average"
    assert result.value == pytest.approx(100 * utils.mmstar_aggregate_results(items.pop("average")), rel=1e-14)
    assert len(items) == 6
    for name, of in items.items():
        assert result.extra[name] == pytest.approx(100 * utils.mmstar_aggregate_results(of), rel=1e-14)


def test_the_value_of_sums_weighs_sub_categories_the_same() -> None:
    rows = [{"doc_id": place, "category": name, "score": 1} for place, name in enumerate(("geometry", "emotion"))]
    of = TASK.statistic("lmms-eval", rows)
    assert isinstance(of, Statistic) and of.stratum is not None
    assert [of.stratum(row) for row in rows] == ["geometry", "emotion"]
    assert [list(of.counts([row])) for row in rows] == [[0, 0, 1, 1], [1, 1, 0, 0]]  # emotion comes first
    assert of.value(np.array([[1, 4, 1, 2], [0, 1, 0, 0]], dtype=float)).tolist() == [37.5, 0]


def test_the_protocol_of_llava_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"mmstar: cannot be asked under protocol 'llava'\. Use lmms-eval or native"):
        TaskSpec("mmstar", protocol="llava")


def test_its_question_is_asked_without_a_full_stop(data_folder: Path, oracle: Any) -> None:
    lm = oracle()
    evaluate(lm, TaskSpec("mmstar", str(data_folder), "lmms-eval"), limit=1)
    options = "Which one?\nOptions: A: red, B: blue, C: green, D: grey"
    assert lm.contexts == [f"{options}\nAnswer with the option's letter from the given choices directly"]


def test_its_only_file_needs_no_name_of_a_shard(
    tmp_path: Path, write_parquet: Callable[[list[dict[str, Any]], Path], None], oracle: Any
) -> None:
    write_parquet(CASES["mmstar"].documents, tmp_path / "MMStar/mmstar.parquet")
    spec = TaskSpec("mmstar", str(tmp_path), "lmms-eval")
    assert missing(spec) == [] and evaluate(oracle(), spec).value == 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"l2_category": None}, "column 'l2_category': is empty"),
        ({"category": " "}, "column 'category': is empty"),
        ({"answer": "E"}, "column 'answer': 'E' is not one of the letters A to D"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    documents = [dict(doc) for doc in CASES["mmstar"].documents]
    documents[1] |= change
    put("mmstar", tmp_path, documents)
    [problem] = missing(TaskSpec("mmstar", str(tmp_path), "lmms-eval"))
    assert f"row 1 (from 0), {words}" in problem
