"""The defaults of a task: a benchmark that only says its name, title and source is asked and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.tasks import TaskSpec, evaluate, get_task, registry
from evals.tasks.base import Answer, Source, Task, mean_of_sums
from hidrop.errors import UserError
from tests.evals.tasks.table import PICTURES


class RealWorldQA(Task):
    """A task of lmms-eval's that has no file here."""

    name = "realworldqa"
    title = "RealWorldQA"
    source = Source("lmms-lab-encoder/RealWorldQA", "test", "realworldqa", "data/test-*", ("question", "answer"), 765)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """The registry with one line more."""
    monkeypatch.setitem(registry.TASKS, "realworldqa", f"{__name__}:RealWorldQA")
    registry._known.cache_clear()
    yield get_task("realworldqa")
    registry._known.cache_clear()


def test_a_simple_task_is_asked_and_scored_as_lmms_eval_does(
    toy: Task, tmp_path: Path, write_parquet: Callable[..., None], oracle: Any
) -> None:
    docs = [{"question": f" Which {i}? ", "answer": a, "image": PICTURES[i]} for i, a in enumerate(["Up", "0", "A"])]
    write_parquet(docs, tmp_path / "realworldqa/test.parquet")
    lm = oracle(lambda doc, context: " up " if doc["answer"] == "Up" else "A")
    result = evaluate(lm, TaskSpec("realworldqa", str(tmp_path), "lmms-eval"))
    assert lm.contexts == ["Which 0?", "Which 1?", "Which 2?"] and lm.settings["max_new_tokens"] == 16
    assert (result.metric, result.value) == ("exact_match", pytest.approx(200 / 3))
    assert [s["score"] for s in result.samples] == [1, 0, 1]
    assert [(s["reading"], s["target"]) for s in result.samples] == [("up", "Up"), ("a", "0"), ("a", "A")]
    assert {s["group"] for s in result.samples} == {s["category"] for s in result.samples} == {None}
    statistic = toy.statistic("lmms-eval", result.samples)
    assert [statistic.unit(s) for s in result.samples] == [0, 1, 2]
    counts = [statistic.counts([s]) for s in result.samples]
    assert float(statistic.value(np.sum(counts, axis=0))) == pytest.approx(result.value)


def test_a_task_without_a_question_of_llavas_is_refused_under_that_protocol(toy: Task) -> None:
    with pytest.raises(UserError, match="realworldqa: cannot be asked under protocol 'llava'. Use lmms-eval"):
        TaskSpec("realworldqa")
    with pytest.raises(UserError, match="Use llava or lmms-eval"):
        TaskSpec("gqa", protocol="lava")


def test_no_answers_are_an_error() -> None:
    with pytest.raises(ValueError, match="realworldqa: no answers"):
        RealWorldQA().score([], "lmms-eval")


def test_a_failed_sample_is_wrong_even_if_it_looks_right() -> None:
    docs = [{"answer": "up"}] * 2
    scores = RealWorldQA().score([Answer(docs[0], "up"), Answer(docs[1], "up", failed=True)], "lmms-eval")
    assert scores.samples == (1.0, 0.0) and scores.value == 50


def test_a_task_with_groups_takes_them_from_its_column() -> None:
    class Paired(RealWorldQA):
        group_column = "pair"

    assert Paired().group({"pair": "a/1"}) == "a/1" and RealWorldQA().group({"pair": "a/1"}) is None


def test_the_mean_of_sums_is_per_row_and_zero_for_no_samples() -> None:
    assert mean_of_sums(np.array([[1.0, 2.0], [0.0, 0.0]])).tolist() == [50, 0]
    assert float(mean_of_sums(np.array([3.0, 4.0]))) == 75


def test_files_for_a_server_are_not_written() -> None:
    official = [{"metric": "exact_match"}, {"metric": "submission"}]
    assert RealWorldQA().metrics(official, "lmms-eval") == [{"metric": "exact_match"}]


def test_an_unknown_task_is_suggested_and_left_out_of_documents() -> None:
    with pytest.raises(UserError, match=r"unknown task 'poep'. Did you mean 'pope'\?$"):
        get_task("poep")
    with pytest.raises(UserError, match=r"unknown task 'qqqqqqqq'. `.*tasks --grep WORD` lists all names$"):
        get_task("qqqqqqqq")
    assert [task.name for task in registry.known_tasks(["pope", "of another version", "gqa"])] == ["pope", "gqa"]
    assert get_task("pope") is get_task("pope")
