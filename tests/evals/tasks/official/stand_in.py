"""A stand-in for a model, and lmms-eval's own evaluation of a task with it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from evals.tasks.aggregation import globals_kept
from evals.tasks.build import build, quiet
from evals.tasks.data import TaskSpec
from tests.evals.tasks.official.row import Said


class Answering(lmms):
    """Gives the answers of a row by the number of a document. `shown` has the sizes of what each document shows."""

    is_simple = True

    def __init__(self, said: Sequence[Said]) -> None:
        super().__init__()
        self.said = said
        self.contexts: dict[int, str] = {}
        self.shown: dict[int, list[Any]] = {}

    def clean(self) -> None: ...

    def generate_until_multi_round(self, requests: Any) -> Any:
        raise NotImplementedError

    def _asked(self, context: str, visuals: Any, doc_id: int, task: str, split: str) -> None:
        self.contexts[doc_id] = context
        self.shown[doc_id] = list(visuals(self.task_dict[task][split][doc_id]) or ())

    def generate_until(self, requests: Any) -> list[Any]:
        for request in requests:
            context, _, visuals, doc_id, task, split = request.args
            self._asked(context, visuals, doc_id, task, split)
        return [self.said[request.args[3]] for request in requests]

    def loglikelihood(self, requests: Any) -> list[Any]:
        """The loss of each choice and whether it is the smallest, in the form that lmms-eval does not take apart."""
        found = []
        for request in requests:
            context, _, visuals, doc_id, task, split = request.args
            self._asked(context, visuals, doc_id, task, split)
            losses = self.said[doc_id]
            loss = losses[request.idx]
            found.append(GenerationResult(text=(loss, loss == min(losses))))
        return found


def evaluated_by_lmms_eval(spec: TaskSpec, said: Sequence[Said], scratch: Path) -> dict[str, Any]:
    """What lmms-eval's evaluator gives for a task and its answers: a value by "metric,filter"."""
    from lmms_eval.evaluator import evaluate

    with quiet(), contextlib.ExitStack() as stack:
        task, lm = build(spec), Answering(said)
        task.set_config("num_fewshot", 0)
        lm.task_dict[spec.name] = task.dataset
        for aggregation in task.aggregation().values():  # some count in a global, and would count twice
            stack.enter_context(globals_kept(aggregation))
        arguments = SimpleNamespace(output_path=str(scratch), process_with_media=True)
        return evaluate(lm, {spec.name: task}, bootstrap_iters=0, cli_args=arguments)["results"][spec.name]
