"""The tasks (benchmarks), one file each: their data, their questions, their scores.

    missing(TaskSpec("pope", data="data"))       what is missing, and the command that gets it
    evaluate(lm, TaskSpec("gqa"), limit=100)     a TaskResult
    ask(lm, TaskSpec("gqa"), limit=100)          the same questions, without scores

`base` is the interface of a task, `registry` the list of them. `run.py export-tasks` writes them as YAML files for the
command line of lmms-eval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.tasks.checks import missing, remarks
from evals.tasks.data import TaskSpec, data_digest, prepare
from evals.tasks.protocol import PROTOCOL_VERSION, PROTOCOLS, protocol_version
from evals.tasks.registry import TASKS, get_task

if TYPE_CHECKING:
    from evals.tasks.evaluation import TaskResult

__all__ = [
    "PROTOCOLS",
    "PROTOCOL_VERSION",
    "TASKS",
    "TaskSpec",
    "ask",
    "data_digest",
    "evaluate",
    "get_task",
    "missing",
    "prepare",
    "protocol_version",
    "remarks",
]


def ask(lm: Any, spec: TaskSpec, *, limit: int | None = None) -> None:
    """See `evals.tasks.evaluation.ask`."""
    from evals.tasks import evaluation

    evaluation.ask(lm, spec, limit=limit)


def evaluate(lm: Any, spec: TaskSpec, *, limit: int | None = None) -> TaskResult:
    """See `evals.tasks.evaluation.evaluate`; imported on the first call, because lmms-eval takes seconds to load."""
    from evals.tasks import evaluation

    return evaluation.evaluate(lm, spec, limit=limit)
