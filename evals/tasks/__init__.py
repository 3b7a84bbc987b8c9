"""The four official tasks (gqa, mmbench_en_dev, textvqa_val, pope): data, prompts and scores.

    missing(TaskSpec("pope", data="data"))       what is not there, and the command that gets it
    evaluate(lm, TaskSpec("gqa"), limit=100)     a TaskResult
    ask(lm, TaskSpec("gqa"), limit=100)          the same questions, no score

`python -m evals.tasks export DIR` writes the same tasks as YAML files for the command line of lmms-eval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.tasks.data import NAMES, TaskSpec, data_digest, missing
from evals.tasks.protocol import PROTOCOL_VERSION, PROTOCOLS

if TYPE_CHECKING:
    from evals.tasks.evaluation import TaskResult

__all__ = [
    "NAMES",
    "PROTOCOLS",
    "PROTOCOL_VERSION",
    "TaskResult",
    "TaskSpec",
    "ask",
    "data_digest",
    "evaluate",
    "missing",
]


def ask(lm: Any, spec: TaskSpec, *, limit: int | None = None) -> None:
    """See `evals.tasks.evaluation.ask`."""
    from evals.tasks import evaluation

    evaluation.ask(lm, spec, limit=limit)


def evaluate(lm: Any, spec: TaskSpec, *, limit: int | None = None, bootstrap: bool = False) -> TaskResult:
    """See `evals.tasks.evaluation.evaluate`; imported on the first call, because lmms-eval takes seconds to load."""
    from evals.tasks import evaluation

    return evaluation.evaluate(lm, spec, limit=limit, bootstrap=bootstrap)


def __getattr__(name: str) -> Any:
    if name == "TaskResult":
        from evals.tasks.evaluation import TaskResult

        return TaskResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
