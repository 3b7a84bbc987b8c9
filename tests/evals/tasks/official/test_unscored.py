"""Tasks whose answers are scored elsewhere: the server's file, or the answers for a judge, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.store.records import checked
from evals.tasks import TaskSpec, evaluate, get_task, missing
from evals.tasks.asked import Asked
from hidrop.errors import UserError
from tests.evals.tasks.official.stand_in import Answering, evaluated_by_lmms_eval
from tests.evals.tasks.official.unscored import SUBMITTED, TO_JUDGE, TO_SUBMIT


@pytest.mark.parametrize("name", TO_SUBMIT)
def test_the_servers_file_holds_every_answer_as_lmms_eval_writes_it(name: str, spec_of: Any, tmp_path: Path) -> None:
    row, spec = TO_SUBMIT[name], spec_of(name)
    assert missing(spec) == []
    lm = Answering(row.said)
    found = evaluate(lm, spec)
    assert found.value is None and found.unscored == "to submit" and found.extra == {}
    [content] = found.files.values()
    assert json.loads(content) == SUBMITTED[name]
    evaluated_by_lmms_eval(spec, row.said, tmp_path)
    [official] = (tmp_path / "submissions").iterdir()
    assert official.read_bytes() == content
    assert [len(lm.shown[doc_id]) for doc_id in range(found.n)] == list(row.shown)


@pytest.mark.parametrize("name", TO_JUDGE)
def test_answers_for_a_judge_are_kept_and_nothing_is_scored(
    name: str, spec_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MM-Vet's process_results gives 0 without an error where it has no key, so it must not run."""

    def scored(*_: Any, **__: Any) -> None:
        raise AssertionError("process_results was called")

    monkeypatch.setattr(Asked, "_processed", scored)
    row, spec = TO_JUDGE[name], spec_of(name)
    assert missing(spec) == []
    lm = Answering(row.said)
    found = evaluate(lm, spec)
    assert found.value is None and found.unscored == "to judge" and found.extra == {}
    [(file, content)] = found.files.items()
    lines = [json.loads(line) for line in content.decode().splitlines()]
    assert file == "answers.jsonl" and [line["answer"] for line in lines] == list(row.said)
    assert [line["question"] for line in lines] == [lm.contexts[line["doc_id"]] for line in lines]
    targets = [doc.get("gpt_answer") or doc["answer"] for doc in row.documents]
    assert [line["target"] for line in lines] == targets
    assert [sample["answer"] for sample in found.samples] == list(row.said)
    assert [sample["score"] for sample in found.samples] == [None] * len(row.said)
    for sample in found.samples:
        checked(json.loads(json.dumps({"kind": "score", **sample})))


def test_a_metric_without_a_value_here_cannot_be_named(spec_of: Any) -> None:
    with pytest.raises(UserError, match="ok_vqa_val2014: metric: submission has no value here: the aggregation of"):
        TaskSpec("ok_vqa_val2014", "data", "lmms-eval", metric="submission")
    with pytest.raises(
        UserError, match="chartqa: metric: the task has no 'relaxed_over'. Did you mean 'relaxed_overall'"
    ):
        TaskSpec("chartqa", "data", "lmms-eval", metric="relaxed_over")
    assert get_task("ok_vqa_val2014").unscored is None
