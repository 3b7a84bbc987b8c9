"""The model class for lmms-eval: any checkpoint that hidrop loads, with any reduction method.

The runner wraps a loaded model (`HidropLlava.from_loaded`). `lmms-eval --model hidrop` builds one from strings:

    lmms-eval --model hidrop --model_args pretrained=mini:hidrop,protocol=llava --tasks ...
    lmms-eval --model hidrop --model_args pretrained=llava-hf/llava-1.5-7b-hf,method=fastv,budget=64 --tasks pope
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Self

from lmms_eval.api.instance import GenerationResult, TokenCounts

from evals.matrix.capture import not_compiled, obstacle
from evals.model import arguments
from evals.model.asked_model import every_batch
from evals.model.loglikelihood import ScoringModel
from evals.model.out_of_memory import out_of_memory_told
from evals.model.prefetch import ahead
from evals.model.requests import (
    Batch,
    Preparing,
    Record,
    Request,
    TokenizedPrompt,
    batches,
    cut,
    ends_of,
    generation_config,
    inputs_of,
    record_of,
    sampling_seeded,
    without_own_settings,
)
from evals.tasks.protocol import Prepared
from evals.tasks.protocol import protocol as protocol_called
from hidrop.errors import UserError
from hidrop.runtime.generation import new_tokens

if TYPE_CHECKING:
    from hidrop.backbones.pixel_limits import Resolution
    from hidrop.models import Loaded
    from hidrop.reducer import Reducer
    from hidrop.runtime.cuda_graphs import Graphs


class HidropLlava(ScoringModel):
    """A multimodal model with visual-token reduction, for lmms-eval's simple (text and list of images) tasks.

    After `generate_until` or `loglikelihood`, `failures` maps (task, doc_id) to the error of each sample that could not
    be prepared, and `trace` is the trace of the last prefill.
    """

    def __init__(
        self,
        pretrained: str = "mini:vanilla",
        method: str | None = None,
        protocol: str = "lmms-eval",
        dtype: str = "auto",
        attention: str = "sdpa",
        quantization: str | None = None,
        device: str = "cpu",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        budget: float | str | None = None,
        max_new_tokens: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        resolution: Resolution | None = None,
        reference_tokens: int | None = None,
        graphs: bool | str = False,
        compile: bool | str = False,
        **fields: Any,
    ) -> None:
        """For lmms-eval's command line. `fields` are those of the method, as in a matrix: `layer=2,keep=64`.

        Without `method`, the checkpoint runs with the method that it was trained with, if any. `graphs` (auto, true,
        false) and `compile` (true, false) are those of a matrix. Raises UserError.
        """
        from evals.model.graphs import graphs_on
        from hidrop.models import load
        from hidrop.runtime.compiled_layers import fuse

        batch = arguments.whole("batch_size", batch_size)
        captured = arguments.choice("graphs", graphs, ("auto", "true", "false"))
        compiled = arguments.choice("compile", compile, ("true", "false")) == "true"
        longest = None if max_new_tokens is None else arguments.whole("max_new_tokens", max_new_tokens)
        numbers = {"min_pixels": min_pixels, "max_pixels": max_pixels, "reference_tokens": reference_tokens}
        stated: dict[str, Any] = {
            name: arguments.whole(name, value) for name, value in numbers.items() if value is not None
        }
        method = None if method is None else str(method)
        arguments.check(method, budget, fields)
        protocol_called(protocol)
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        loaded = load(
            str(pretrained),
            dtype=str(dtype),
            attention=str(attention),
            quantization=None if quantization is None else str(quantization),
            device=str(device),
            resolution=resolution,
            **stated,
        )
        reducer = arguments.method(loaded, method, budget, fields)
        if compiled and (why := not_compiled(quantization, device)):
            raise UserError(f"model_args: compile=true: {why}")
        if compiled:
            fuse(loaded.backbone.decoder)
        why = obstacle(loaded.geometry, device, attention, quantization)
        if captured == "true" and why:
            raise UserError(f"model_args: graphs=true: {why}. Use graphs=auto, or leave it out")
        kept = graphs_on(device) if captured != "false" and not why else None
        self._set_up(loaded, reducer, protocol, batch, max_new_tokens=longest, graphs=kept)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """The model for lmms-eval's `--model_args`. An argument there wins over lmms-eval's own option of that name.

        lmms-eval would take the last of two values unseen, and end with a traceback for an argument without a value.
        Raises UserError.
        """
        given = arguments.split(arg_string)
        return cls(**{name: value for name, value in (additional_config or {}).items() if value is not None} | given)

    @classmethod
    def from_loaded(
        cls,
        loaded: Loaded,
        reducer: Reducer | None = None,
        protocol: str = "llava",
        batch_size: int = 1,
        record: Callable[[list[Record]], None] | None = None,
        max_new_tokens: int | None = None,
        *,
        done: Mapping[tuple[str, int], str | Record] | None = None,
        workers: int = 0,
        mine: Callable[[int], bool] = every_batch,
        graphs: Graphs | None = None,
        frames: int | None = None,
        fps: float | None = None,
    ) -> Self:
        """Wrap a loaded model. `reducer` None: no reduction.

        record: called with the records of each batch when it is answered, before the next batch.
        max_new_tokens: overrides the setting of the tasks.
        done: samples answered by an earlier run, by (task, doc_id): the answer or the whole record. They are not
        recorded again.
        workers: threads that decode and preprocess the images of the next batches.
        mine: whether this process answers the batch with a given number; samples of other batches stay "". By default
        it answers all.
        graphs: captures prefills and decoding steps as CUDA graphs where possible.
        frames, fps: which frames of a video are shown (`Sampling.stated`); by default as the protocol says.
        """
        model = cls.__new__(cls)
        model._set_up(loaded, reducer, protocol, batch_size, record, max_new_tokens, done, workers, mine, graphs)
        model._frames, model._fps = frames, fps
        return model

    def generate_until_multi_round(self, requests: Any) -> Any:
        raise NotImplementedError("hidrop answers generate_until and loglikelihood requests only, not several rounds")

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers in the order of the requests.

        A sample that cannot be prepared (a broken image, a prompt that is too long) is recorded as failed, with the
        answer "". Raises TraceMismatch, and any error of generation.
        """
        preparing = Preparing()
        asked = [Request.of(place, instance) for place, instance in enumerate(requests)]
        tokenizer = self.loaded.tokenizer
        lengths = [len(tokenizer(request.context).input_ids) for request in asked]
        known = {request.place: self._known(request) for request in asked}
        answers = {place: earlier for place, earlier in known.items() if earlier is not None}
        # An incomplete batch runs again as a whole, so that its numbers stay the same.
        todo = [
            batch
            for batch in batches(asked, lengths, self._batch_size)
            if self._mine(batch.number) and any(request.place not in answers for request in batch.requests)
        ]
        with self._reduced() as reduction, out_of_memory_told(self._batch_size):
            for batch, images in zip(todo, ahead(self._images, todo, self._workers), strict=True):
                made, records = self._answer(batch, images, reduction)
                preparing.shared(records.values())
                answers = made | answers
                new = [record for place, record in records.items() if known[place] is None]
                if self._record and new:
                    self._record(sorted(new, key=lambda record: record["doc_id"]))
        return [answers.get(request.place, GenerationResult("")) for request in asked]

    def _known(self, request: Request) -> GenerationResult | None:
        """The answer of an earlier run to a request."""
        earlier = self._earlier(request.key)
        return None if earlier is None else GenerationResult(earlier)

    def _answer(
        self, batch: Batch, images: Sequence[Prepared | str], reduction: Any
    ) -> tuple[dict[int, GenerationResult], dict[int, Record]]:
        """Run one batch, grouped by its images and frames: answers, and records (without padding), by place."""
        answers: dict[int, GenerationResult] = {}
        records: dict[int, Record] = {}
        alike: dict[Any, list[TokenizedPrompt]] = {}
        for request, shown in zip(batch.requests, images, strict=True):
            prompt = shown if isinstance(shown, str) else self._prompt(request, shown)
            if isinstance(prompt, TokenizedPrompt):
                alike.setdefault(prompt.alike, []).append(prompt)
                continue
            answers[request.place] = GenerationResult("")
            if not request.padding and request.key not in self._done:
                self.failures[request.key] = prompt
                records[request.place] = record_of(batch, request, answer="", error=prompt)
        for prompts in alike.values():
            for prompt, made in zip(prompts, self._made(prompts, reduction), strict=True):
                request, count = prompt.request, made["new_tokens"]
                answers[request.place] = GenerationResult(made["answer"], TokenCounts(len(prompt.ids), count))
                if not request.padding:
                    records[request.place] = record_of(batch, request, **prompt.facts, **made)
        return answers, records

    def _made(self, prompts: Sequence[TokenizedPrompt], reduction: Any) -> list[Record]:
        """Answer prompts with equally many images: of each the fields of its record that generation fills."""
        rows, milliseconds = self._generate(prompts)
        return [
            {**counted, "answer": answer, "new_tokens": count, "milliseconds": milliseconds}
            for (answer, count), counted in zip(rows, self._counted(prompts, reduction), strict=True)
        ]

    def _generate(self, prompts: Sequence[TokenizedPrompt]) -> tuple[list[tuple[str, int]], float]:
        """(answer, generated tokens with the end token) of each prompt, and milliseconds per prompt.

        All prompts have equally many images. Shorter prompts are padded on the left.
        """
        import torch

        from evals.model.nan_guard import Watch

        model, settings = self.loaded.model, prompts[0].request.settings
        ends, pad = ends_of(self.loaded, self._asking)
        inputs = inputs_of(prompts, pad, self.loaded.backbone)
        width = inputs["input_ids"].shape[1]
        config = generation_config(settings, self._longest(settings, width), ends, pad)
        watch = Watch(model.device)
        started = time.perf_counter()
        own = self._asking is not None and self._asking.own_settings
        # Few tasks sample their answers. A batch has a seed of its own, so an interrupted run gives the same ones.
        seeded = sampling_seeded(prompts) if config.do_sample else nullcontext()
        with torch.inference_mode(), nullcontext() if own else without_own_settings(model), seeded:
            out = model.generate(**inputs, generation_config=config, logits_processor=[watch])
        watch.check(str(model.dtype).removeprefix("torch."))
        rows = out[:, width:].tolist()  # waits for the device, so the timing includes it
        milliseconds = 1000 * (time.perf_counter() - started) / len(prompts)
        made = [new_tokens(row, ends) for row in rows]
        return [(self._text(ids, settings), len(ids)) for ids in made], milliseconds

    def _longest(self, settings: Mapping[str, Any], width: int) -> int:
        """The maximum number of tokens of an answer to a prompt of `width` tokens."""
        longest = self._asking.longest if self._asking else self.protocol.max_new_tokens
        asked = self.max_new_tokens or settings.get("max_new_tokens") or longest
        return min(int(asked), self.loaded.geometry.max_positions - width)

    def _text(self, ids: Sequence[int], settings: Mapping[str, Any]) -> str:
        """The answer in generated ids."""
        text, until = self.loaded.tokenizer.decode(ids, skip_special_tokens=True), settings.get("until")
        return self._asking.answer(text, until) if self._asking else cut(text, until)
