"""Documents of lmms-eval's task object that a model has answered, and what the task's own functions make of them.

The steps are those of lmms-eval's evaluator, for one process: filters, `process_results` for each document, and an
aggregation for each metric. Three things differ, so that a number depends on a document and its answer only: random
guesses are seeded by the document, a function gets a copy of the document, and an error names its document at once
(lmms-eval tries five times and hides the error).
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from evals.tasks.aggregation import aggregated, guesses_seeded
from evals.tasks.any_columns import without_images
from evals.tasks.base import Answer
from hidrop.errors import UserError, in_a_line

# A metric's key: its name, and the name of the filter that its answers went through.
Key = tuple[str, str]
# lmms-eval's name of the filter that does nothing but take the first response.
NO_FILTER = "none"


class Asked:
    """A task whose requests (`instances`) are answered.

    `doc_ids` and `answers` are in the order of the data. An answer's text is what the first filter left of it.
    """

    def __init__(
        self,
        name: str,
        task: Any,
        instances: Sequence[Any],
        failures: Mapping[tuple[str, int], str],
        metric: str | None = None,
    ):
        """`metric`: the one that a user wants as the value."""
        self.name, self.task, self.metric = name, task, metric
        self._requests: dict[int, list[Any]] = {}
        for instance in instances:
            self._requests.setdefault(instance.doc_id, []).append(instance)
        for requests in self._requests.values():
            requests.sort(key=lambda instance: instance.idx)
        _filter(task, instances)
        self.doc_ids = sorted(self._requests)
        self.filters: list[str] = list(instances[0].filtered_resps) if instances else []
        docs = without_images(task.eval_docs_no_media)
        self.answers = [
            Answer(docs[doc_id], _text(self._responses(doc_id, self.filters[0])), (name, doc_id) in failures)
            for doc_id in self.doc_ids
        ]
        # Why no answer could be made, in the order of the data.
        self.failures = [failures[name, doc_id] for doc_id in self.doc_ids if (name, doc_id) in failures]

    @property
    def questions(self) -> list[str]:
        """What each document was asked, in the order of the data."""
        return [str(self._requests[doc_id][0].args[0]) for doc_id in self.doc_ids]

    @property
    def media(self) -> bool:
        """Whether the task's process_results reads images."""
        return bool(getattr(self.task.config, "process_results_use_image", False))

    def _responses(self, doc_id: int, name: str) -> list[Any]:
        return [request.filtered_resps[name] for request in self._requests[doc_id]]

    @cached_property
    def items(self) -> dict[Key, list[tuple[int, Any]]]:
        """What process_results gives: by metric and filter, (place among the answers, item) of each document.

        A document without a metric is left out there. Raises UserError, naming the document, when it fails.
        """
        found: dict[Key, list[tuple[int, Any]]] = {}
        for name in self.filters:
            for place, doc_id in enumerate(self.doc_ids):
                for metric, item in self._processed(place, doc_id, name).items():
                    found.setdefault((metric, name), []).append((place, item))
        return found

    def _processed(self, place: int, doc_id: int, name: str) -> Mapping[str, Any]:
        doc = self.task.eval_docs[doc_id] if self.media else self.answers[place].doc
        responses = [_without_thoughts(response, self.task) for response in self._responses(doc_id, name)]
        process = type(self.task).process_results.__wrapped__  # without lmms-eval's five attempts
        try:
            with guesses_seeded(self.name, doc_id), contextlib.redirect_stdout(io.StringIO()):
                found = process(self.task, copy.deepcopy(dict(doc)), responses)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{self.name}: document {doc_id} cannot be scored: lmms-eval's process_results failed: "
                f"{in_a_line(error)}. The answers are kept"
            ) from error
        if not self.answers[place].failed:
            return found
        better = self.task.higher_is_better()
        return {metric: failed_item(item) if better.get(metric, True) else item for metric, item in found.items()}

    def value(self, metric: str, name: str = NO_FILTER) -> Any:
        """The task's aggregate of a metric; raises UserError when it fails, or when no document has the metric."""
        if (metric, name) not in self.items:
            there = ", ".join(",".join(key) for key in self.items)
            raise UserError(f"{self.name}: not one document has the metric {metric},{name}. It has {there}")
        return self._aggregated(metric, name)[0]

    def files(self, metric: str, name: str = NO_FILTER) -> dict[str, bytes]:
        """The files that the aggregation of a metric writes, by name: what a server wants to have."""
        return self._aggregated(metric, name)[1]

    def _aggregated(self, metric: str, name: str) -> tuple[Any, dict[str, bytes]]:
        items = [item for _, item in self.items[metric, name]]
        return aggregated(self.aggregations[metric], metric, items, self.name)

    @property
    def aggregations(self) -> Mapping[str, Any]:
        """The function that makes the value of all documents, by metric."""
        return self.task.aggregation()


# In what process_results gives: a sample's own score, and how its answer was read.
SCORES = ("score", "correct", "acc", "accuracy", "is_correct", "hit")
READINGS = ("pred", "pred_answer", "parsed_pred", "prediction")


def failed_item(item: Any) -> Any:
    """The item of a document without an answer: as if the answer were wrong.

    A task may have guessed a letter for it, or taken the first of choices that are all as likely. An item that is
    neither a number nor a dict stays what the task made of an empty answer.
    """
    if isinstance(item, Mapping):
        wrong = {name: 0 for name in SCORES if isinstance(item.get(name), int | float)}
        return {**item, **wrong, **{name: "" for name in READINGS if name in item}}
    return 0.0 if isinstance(item, int | float) else item


def respond(lm: Any, instances: Sequence[Any]) -> None:
    """Let `lm` answer requests of one kind; each gets its response."""
    from lmms_eval.api.instance import unwrap_generation_output

    if not instances:
        return
    for instance, response in zip(instances, getattr(lm, instances[0].request_type)(instances), strict=True):
        text, _ = unwrap_generation_output(response)
        instance.resps = [text]


def _filter(task: Any, instances: Sequence[Any]) -> None:
    """Apply the task's filters to the responses of its requests."""
    from lmms_eval.filters.transformation import StripThinkingFilter

    strips = getattr(task.config, "auto_strip_thinking", False) and _thought_tags(task) is None
    for ensemble in task._filters:
        if strips and not any(isinstance(one, StripThinkingFilter) for one in ensemble.filters):
            ensemble.filters.insert(0, StripThinkingFilter())
        ensemble.apply(list(instances), task.task_docs)


def _thought_tags(task: Any) -> Any:
    from lmms_eval.api.reasoning import parse_reasoning_tags_config

    return parse_reasoning_tags_config(cli_value=None, task_value=getattr(task.config, "reasoning_tags", None))


def _without_thoughts(response: Any, task: Any) -> Any:
    from lmms_eval.api.reasoning import strip_reasoning_tags

    tags = _thought_tags(task)
    if tags is None:
        return response
    if isinstance(response, list):
        return [strip_reasoning_tags(one, tags) if isinstance(one, str) else one for one in response]
    return strip_reasoning_tags(response, tags) if isinstance(response, str) else response


def _text(responses: Sequence[Any]) -> str:
    """A document's answer as text: the generated text, or the number (from 0) of the choice that lmms-eval takes.

    Responses of choices are (loss, is greedy), and the smallest loss is taken. Of one choice alone, the answer says
    whether it is greedy.
    """
    if len(responses) == 1 and isinstance(responses[0], str):
        return responses[0]
    if len(responses) == 1:
        return "greedy" if responses[0][1] else "not greedy"
    losses = [loss for loss, _ in responses]
    return str(losses.index(min(losses)))
