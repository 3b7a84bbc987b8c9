"""The choices of documents that lmms-eval asks log-likelihoods of: their requests, tokens, answers and journal text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmms_eval.api.instance import GenerationResult

from evals.model.requests import Batch, Request, batches
from hidrop import strict_json
from hidrop.errors import UserError, shown

# (log-probability, whether every token of the continuation has the highest logit).
Pair = tuple[float, bool]
# The log-probability of a sample that failed, and the least one that is written: JSON has no minus infinity. It is
# below that of every real continuation (a million tokens at -100 each have -1e8).
LEAST = -1e9


@dataclass
class Likelihood(GenerationResult):
    """The answer to one request. It unpacks to (log-probability, is_greedy), as lmms-eval's interface describes it.

    `text` is what lmms-eval 0.7.3 scores: (minus the log-probability, is_greedy). Its multiple-choice metrics take the
    choice with the smallest number, since all its model classes return a loss. Its evaluator turns a plain pair into a
    string, which it then cannot score, and takes out `text` as it is.
    """

    logprob: float = LEAST
    greedy: bool = False

    @classmethod
    def of(cls, pair: Pair) -> Likelihood:
        logprob, greedy = pair
        return cls(text=(-logprob, greedy), logprob=logprob, greedy=greedy)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.logprob, self.greedy))


FAILED: Pair = (LEAST, False)


@dataclass(frozen=True)
class Choice:
    """One request: its place in the list, its prompt (0-based, in its document) and its continuation.

    The continuation is a function of the document in tasks with `output_type: loglikelihood`.
    """

    place: int
    prompt: int
    continuation: str | Callable[[Any], str]

    def text(self, document: Callable[[], Any]) -> str:
        """The continuation. `document` is called only if it is needed."""
        return self.continuation if isinstance(self.continuation, str) else self.continuation(document())


@dataclass(frozen=True)
class Document:
    """The choices of one document, in the order of the requests, and its prompts, each of another context."""

    prompts: tuple[Request, ...]
    choices: tuple[Choice, ...]

    @property
    def key(self) -> tuple[str, int]:
        """The sample's identity: task and doc_id."""
        return self.prompts[0].key


def documents_of(requests: Sequence[Any]) -> list[Document]:
    """lmms-eval's requests by document. Requests that only pad the list of a process belong to no document.

    Raises UserError for a request without a document (the metric `acc_mutual_info`).
    """
    found: dict[tuple[str, int], Document] = {}
    for place, instance in enumerate(requests):
        asked, continuation = request_of(place, instance)
        if asked.padding:
            continue
        document = found.get(asked.key, Document((), ()))
        contexts = [prompt.context for prompt in document.prompts]
        prompts = document.prompts if asked.context in contexts else (*document.prompts, asked)
        number = [prompt.context for prompt in prompts].index(asked.context)
        found[asked.key] = Document(prompts, (*document.choices, Choice(place, number, continuation)))
    return list(found.values())


def request_of(place: int, instance: Any) -> tuple[Request, str | Callable[[Any], str]]:
    """A request and its continuation. Raises UserError like `documents_of`."""
    if len(instance.args) != 6:
        raise UserError(
            f"{getattr(instance, 'task_name', None)}: acc_mutual_info asks for likelihoods without a prompt and a "
            "document, which hidrop does not give. Remove the metric from the task's metric_list"
        )
    context, continuation, visuals, doc_id, task, split = instance.args
    padding = bool((instance.metadata or {}).get("__padding_only__"))
    return Request(place, context, {}, visuals, doc_id, task, split, padding), continuation


def padded_from(requests: Sequence[Any], documents: Sequence[Document]) -> dict[int, int]:
    """For the place of each padding request, the place of the request that it is a copy of."""
    asked = {
        (document.key, document.prompts[choice.prompt].context, choice.continuation): choice.place
        for document in documents
        for choice in document.choices
    }
    found: dict[int, int] = {}
    for place, instance in enumerate(requests):
        request, continuation = request_of(place, instance)
        source = asked.get((request.key, request.context, continuation))
        if request.padding and source is not None:
            found[place] = source
    return found


def batches_of(documents: Sequence[Document], length: Callable[[str], int]) -> list[tuple[Document, Batch]]:
    """Each document with its batch, which has a request for each of its prompts. The longest contexts come first.

    `length`: tokens of a context.
    """
    first = [replace(document.prompts[0], place=number) for number, document in enumerate(documents)]
    lengths = [sum(length(prompt.context) for prompt in document.prompts) for document in documents]
    ordered = [(batch.number, documents[batch.requests[0].place]) for batch in batches(first, lengths, 1)]
    return [(document, Batch(number, document.prompts)) for number, document in ordered]


# ---- tokens ----------------------------------------------------------------------------------------------------------


def continuation_ids(tokenizer: Any, prompt: str, continuation: str) -> list[int]:
    """The tokens that `continuation` adds to the text `prompt`: those of both together, without those of the prompt.

    lmms-eval's class llava_hf does the same. Where the tokenizer joins the end of the prompt and the start of the
    continuation in one token, the prompt must still keep its own tokens. The continuation is then tokenised after a
    newline (sentencepiece would start a text of its own with a word boundary), or by itself where it joins that, too.
    """
    for before in (prompt, "\n"):
        start = list(tokenizer(before, add_special_tokens=False).input_ids)
        whole = list(tokenizer(before + continuation, add_special_tokens=False).input_ids)
        if whole[: len(start)] == start:
            return whole[len(start) :]
    return list(tokenizer(continuation, add_special_tokens=False).input_ids)


# ---- the journal -----------------------------------------------------------------------------------------------------


def written(pairs: Sequence[Pair]) -> str:
    """A record's `answer`: compact JSON of [log-probability, is_greedy] of each choice."""
    return json.dumps([list(pair) for pair in pairs], separators=(",", ":"), allow_nan=False)


def read(answer: str, choices: int, key: tuple[str, int]) -> list[Pair]:
    """The pairs that `written` wrote. Raises UserError for anything else, and for another number of choices."""
    try:
        pairs = [(float(logprob), bool(greedy)) for logprob, greedy in strict_json.value(answer)]
    except (ValueError, TypeError):
        raise UserError(
            f"{key[0]}, doc_id {key[1]}: the recorded answer {shown(answer)} has no log-likelihoods. Another kind of "
            "task wrote it: move its journal away"
        ) from None
    if len(pairs) != choices:
        raise UserError(
            f"{key[0]}, doc_id {key[1]}: the recorded answer has {len(pairs)} choices, but the document has {choices}. "
            "The data has changed: move the journal away"
        )
    return pairs
