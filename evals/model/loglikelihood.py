"""Log-likelihoods of given continuations, for lmms-eval's tasks with `output_type: multiple_choice`.

The prompt is the one of an answer, and it is prefilled once, with the method's reduction. The tokens of each
continuation are then fed one by one over its cache, as decoding feeds the tokens that it generates. The cache is put
back to the end of the prompt after each continuation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evals.model.asked_model import AskedModel
from evals.model.choices import (
    FAILED,
    LEAST,
    Document,
    Likelihood,
    Pair,
    batches_of,
    continuation_ids,
    documents_of,
    padded_from,
    read,
    written,
)
from evals.model.out_of_memory import out_of_memory_told
from evals.model.prefetch import ahead
from evals.model.requests import Batch, Preparing, Record, TokenizedPrompt, ends_of, inputs_of, record_of
from evals.tasks.protocol import Prepared, templated
from hidrop.cache_name import cache_name, cache_of
from hidrop.errors import UserError, shown

if TYPE_CHECKING:
    import torch

    from evals.model.nan_guard import Watch
    from hidrop.runtime import RaggedCache


@dataclass(frozen=True)
class Prefilled:
    """A prompt in the cache of a reduced model, and the logits (1, vocab) of its last token."""

    model: Any
    cache: RaggedCache
    logits_BV: torch.Tensor
    watch: Watch

    @classmethod
    def of(cls, model: Any, inputs: dict[str, torch.Tensor], watch: Watch) -> Prefilled:
        """Prefill the prompt of these inputs, one row. `watch` sees the logits of all steps."""
        made = model(**inputs, use_cache=True, logits_to_keep=1)
        cache = cache_of(made)
        # A graph's memory is written by its decoding steps: all continuations must find the same keys there.
        cache.release()
        return cls(model, cache, made.logits[:, -1], watch)

    def score(self, ids: Sequence[int]) -> Pair:
        """(sum of the tokens' float32 log-probabilities, at least `LEAST`; whether each token is the argmax)."""
        import torch

        logits_BV, logprobs, greedy = self.logits_BV, [], []
        for place, token in enumerate(ids):
            if place:
                logits_BV = self._step(ids[place - 1])
            self.watch.see(logits_BV)
            logprobs.append(logits_BV[0].float().log_softmax(0)[token])
            greedy.append(logits_BV[0].argmax() == token)
        self.cache.crop(1 - len(ids))  # the last token was not fed
        return max(sum(torch.stack(logprobs).tolist()), LEAST), bool(torch.stack(greedy).all())

    def _step(self, token: int) -> torch.Tensor:
        """The logits (1, vocab) after one more token, as `generate` takes a decoding step."""
        import torch

        ids_BQ = torch.tensor([[token]], device=self.model.device)
        held: dict[str, Any] = {cache_name(): self.cache}
        return self.model(input_ids=ids_BQ, use_cache=True, logits_to_keep=1, **held).logits[:, -1]


class ScoringModel(AskedModel):
    """The part of `HidropLlava` that scores given continuations."""

    def loglikelihood(self, requests: Sequence[Any]) -> list[Likelihood]:
        """The likelihoods of the continuations that requests give, in their order. See `evals.model.loglikelihood`.

        A document's record has the JSON of all its choices (`written`) as its answer. A document that cannot be
        prepared is recorded as failed, each of its choices with `FAILED`. Raises UserError for a continuation without
        tokens, FloatingPointError for logits that are no numbers, TraceMismatch, and any error of the model.
        """
        preparing = Preparing()
        asked = documents_of(requests)
        known = {document.key: self._known_pairs(document) for document in asked}
        ordered = batches_of(asked, lambda context: len(self.loaded.tokenizer(context).input_ids))
        todo = [(document, batch) for document, batch in ordered if known[document.key] is None]
        todo = [(document, batch) for document, batch in todo if self._mine(batch.number)]
        images = ahead(self._images, [batch for _, batch in todo], self._workers)
        with self._reduced() as reduction, out_of_memory_told(1):
            for (document, batch), prepared in zip(todo, images, strict=True):
                known[document.key], record = self._likelihoods(document, batch, prepared, reduction)
                preparing.shared([record])
                if self._record:
                    self._record([record])
        found: dict[int, Pair] = {}
        for document in asked:
            pairs = known[document.key] or [FAILED] * len(document.choices)
            found |= {choice.place: pair for choice, pair in zip(document.choices, pairs, strict=True)}
        found |= {place: found[source] for place, source in padded_from(requests, asked).items()}
        return [Likelihood.of(found.get(place, FAILED)) for place in range(len(requests))]

    def _known_pairs(self, document: Document) -> list[Pair] | None:
        """The likelihoods of a document's choices in an earlier run."""
        earlier = self._earlier(document.key)
        return None if earlier is None else read(earlier, len(document.choices), document.key)

    def _likelihoods(
        self, document: Document, batch: Batch, images: Sequence[Prepared | str], reduction: Any
    ) -> tuple[list[Pair], Record]:
        """The likelihoods of a document's choices, and its record. `images`: of each of its prompts.

        The record describes the document's first prompt, and the cuts of that prompt's prefill.
        """
        made = [
            images_of if isinstance(images_of, str) else self._prompt(request, images_of)
            for request, images_of in zip(document.prompts, images, strict=True)
        ]
        prompts = [prompt for prompt in made if isinstance(prompt, TokenizedPrompt)]
        errors, ids = [error for error in made if isinstance(error, str)], list[list[int]]()
        if not errors:
            ids = self._continuations(document, prompts)
            errors = self._too_long(document, prompts, ids)
        if errors:
            self.failures[document.key] = errors[0]
            failed = [FAILED] * len(document.choices)
            return failed, record_of(batch, document.prompts[0], answer=written(failed), error=errors[0])
        started = time.perf_counter()
        pairs, counted = self._scored(document, prompts, ids, reduction)
        cost = {"new_tokens": sum(map(len, ids)), "milliseconds": 1000 * (time.perf_counter() - started)}
        made_of = {**prompts[0].facts, **counted, **cost}
        return pairs, record_of(batch, document.prompts[0], answer=written(pairs), **made_of)

    def _scored(
        self,
        document: Document,
        prompts: Sequence[TokenizedPrompt],
        ids: Sequence[Sequence[int]],
        reduction: Any,
    ) -> tuple[list[Pair], Record]:
        """The likelihoods of a document's choices with these tokens, and what was counted in its first prefill.

        Raises FloatingPointError for logits that are no numbers.
        """
        import torch

        from evals.model.nan_guard import Watch

        model, (_, pad) = self.loaded.model, ends_of(self.loaded, self._asking)
        watch, counted, pairs = Watch(model.device), list[Record](), dict[int, Pair]()
        with torch.inference_mode():
            for number, prompt in enumerate(prompts):
                prefilled = Prefilled.of(model, inputs_of([prompt], pad, self.loaded.backbone), watch)
                counted += self._counted([prompt], reduction)
                for choice, tokens in zip(document.choices, ids, strict=True):
                    if choice.prompt == number:
                        pairs[choice.place] = prefilled.score(tokens)
        watch.check(str(model.dtype).removeprefix("torch."))
        return [pairs[choice.place] for choice in document.choices], counted[0]

    def _continuations(self, document: Document, prompts: Sequence[TokenizedPrompt]) -> list[list[int]]:
        """The tokens of each choice. Raises UserError for a choice without tokens."""
        task, doc_id = document.key
        texts, found = [self._prompt_text(prompt) for prompt in prompts], list[list[int]]()
        for number, choice in enumerate(document.choices, start=1):
            text = choice.text(lambda: self.task_dict[task][document.prompts[0].split][doc_id])
            found.append(continuation_ids(self.loaded.tokenizer, texts[choice.prompt], text))
            if not found[-1]:
                raise UserError(
                    f"{task}, doc_id {doc_id}: choice {number}, {shown(text)}, has no tokens, so that it has no "
                    "likelihood. Correct the task's doc_to_choice or its data"
                )
        return found

    def _prompt_text(self, prompt: TokenizedPrompt) -> str:
        """The text of a prompt, to tokenise what follows it. Only its end matters, so videos are left out."""
        question = prompt.request.context
        if self._asking is None:
            return self.protocol.text(self.loaded.tokenizer, question, prompt.images)
        return templated(self.loaded.processor, self._asking, self._asking.question(question), prompt.images)

    def _too_long(
        self, document: Document, prompts: Sequence[TokenizedPrompt], ids: Sequence[Sequence[int]]
    ) -> list[str]:
        """The error of each choice that does not fit into the model's positions after its prompt."""
        longest, pairs = self.loaded.geometry.max_positions, zip(document.choices, ids, strict=True)
        lengths = [len(prompts[choice.prompt].ids) + len(tokens) for choice, tokens in pairs]
        return [
            f"the prompt and a choice have {length} tokens, but the model has only {longest} positions"
            for length in lengths
            if length > longest
        ]
