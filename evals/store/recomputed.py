"""A cell's result, computed again from its answers and scores whenever it is read.

The result line repeats what the lines before it give, so that a table can be written without scoring. Here it is
compared with them: a number that was changed, or that an earlier rule gave, is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any

from evals.store.records import AnswerRecord, PromptGroup, SampleRecord, ScoreRecord
from evals.tasks.registry import TASKS
from hidrop.errors import UserError, shown
from hidrop.program import program

# Sums of the same numbers in another order differ in their last bits.
CLOSE = 1e-9


def check(path: Path, identity: Mapping[str, Any], records: Sequence[SampleRecord]) -> None:
    """Raises UserError, with the file's name, if a finished cell's result is not what its records give."""
    if problem := contradiction(identity, records):
        raise UserError(
            f"{path}: {problem}. `{program()} doctor --repair` drops the result, and the next run scores the "
            "answers again"
        )


def contradiction(identity: Mapping[str, Any], records: Sequence[SampleRecord]) -> str | None:
    """The first number of a cell's result that its other records do not give, in words. None without a result."""
    result = next((record for record in records if record["kind"] == "result"), None)
    if result is None:
        return None
    answers = [record for record in records if record["kind"] == "answer"]
    scores = [record for record in records if record["kind"] == "score"]
    without = sum(score["score"] is None for score in scores)
    if without and result["value"] is not None and identity.get("task") in TASKS:
        return f"its result has a value, but {without} of its samples have no score"
    given: dict[str, Any] = facts(answers, {score["doc_id"] for score in scores}) | _value(identity, scores)
    for name, wanted in given.items():
        found: Any = result.get(name, wanted)  # early results lack the counts of empty and different answers
        exact = not isinstance(wanted, float)
        if found != wanted if exact else not isclose(found, wanted, rel_tol=CLOSE, abs_tol=1e-6):
            return f"its result says {name} {shown(found)}, but its answers and scores give {shown(wanted)}"
    return None


def facts(answers: Collection[AnswerRecord], scored: Collection[int]) -> dict[str, Any]:
    """The fields of a result that count its samples: all but the metric, its value and the model's dtype.

    scored: the doc_ids of the samples with a score.
    """
    preparing = [answer["preparing_ms"] for answer in answers if "preparing_ms" in answer]
    return {
        "n": len(scored),
        "n_failed": sum(answer["error"] is not None for answer in answers if answer["doc_id"] in scored),
        "n_empty": sum(not answer["answer"] and not answer["error"] for answer in answers),
        "n_distinct": len({answer["answer"] for answer in answers}),
        "prompts": prompt_groups(answers),
        "seconds": round(sum(answer["milliseconds"] for answer in answers) / 1000, 3),
        # Of answers from before it was written there is none.
        **({"preparing_seconds": round(sum(preparing) / 1000, 3)} if len(preparing) == len(answers) > 0 else {}),
    }


def prompt_groups(answers: Iterable[AnswerRecord]) -> list[PromptGroup]:
    """The prompts of all answered samples, grouped by their numbers of tokens."""
    kinds = Counter(
        (a["prompt_tokens"] - a["visual_tokens"], a["visual_tokens"], _tuple(a.get("entering")))
        for a in answers
        if a["error"] is None
    )
    order = sorted(kinds.items(), key=lambda item: (item[0][:2], item[0][2] or ()))
    return [
        {"text": text, "visual": visual, "entering": None if entering is None else list(entering), "count": count}
        for (text, visual, entering), count in order
    ]


def _tuple(entering: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if entering is None else tuple(entering)


def _value(identity: Mapping[str, Any], scores: Sequence[ScoreRecord]) -> dict[str, float]:
    """The task's value. Empty where the identity does not name a known task and its protocol."""
    task, protocol = identity.get("task"), identity.get("protocol")
    if not isinstance(task, str) or task not in TASKS or not isinstance(protocol, list) or not (protocol and scores):
        return {}
    if all(score["score"] is None and "item" not in score for score in scores):  # a task that is not scored here
        return {}
    from evals.store.statistics import value_of

    return {"value": value_of(task, str(protocol[0]), scores)}
