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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms

from evals.model import arguments
from evals.model.documents import unturned
from evals.model.prefetch import ahead
from evals.model.requests import (
    Batch,
    Record,
    Request,
    TokenizedPrompt,
    batches,
    cut,
    ends_of,
    generation_config,
    inputs_of,
    record_of,
    without_own_settings,
)
from evals.store.kept_tokens import cuts_of
from evals.tasks.protocol import Prepared, Smaller, imitated_class
from evals.tasks.protocol import protocol as protocol_called
from hidrop.errors import UserError, in_a_line
from hidrop.images import as_rgb
from hidrop.runtime.generation import new_tokens
from hidrop.videos import Video, VideoFile

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.pixel_limits import Resolution
    from hidrop.models import Loaded
    from hidrop.reducer import Reducer
    from hidrop.runtime.cuda_graphs import Graphs


def every_batch(number: int) -> bool:
    """The batches of a single process: all."""
    return True


class HidropLlava(lmms):
    """A multimodal model with visual-token reduction, for lmms-eval's simple (text and list of images) tasks.

    After `generate_until`, `failures` maps (task, doc_id) to the error of each sample that could not be prepared, and
    `trace` is the trace of the last prefill.
    """

    is_simple = True

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
        **fields: Any,
    ) -> None:
        """For lmms-eval's command line. `fields` are those of the method, as in a matrix: `layer=2,keep=64`.

        Without `method`, the checkpoint runs with the method that it was trained with, if any. Raises UserError.
        """
        from hidrop.models import load

        batch = arguments.whole("batch_size", batch_size)
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
        self._set_up(loaded, reducer, protocol, batch, max_new_tokens=longest)

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

    def _set_up(
        self,
        loaded: Loaded,
        reducer: Reducer | None,
        protocol: str,
        batch_size: int,
        record: Callable[[list[Record]], None] | None = None,
        max_new_tokens: int | None = None,
        done: Mapping[tuple[str, int], str | Record] | None = None,
        workers: int = 0,
        mine: Callable[[int], bool] = every_batch,
        graphs: Graphs | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size: must be at least 1, not {batch_size}")
        from hidrop.reducer import build

        self.loaded, self.reducer = loaded, reducer or build("vanilla")
        self.protocol, self._batch_size = protocol_called(protocol), batch_size
        self.protocol.check(loaded.backbone)
        self._asking = self.protocol.asking(loaded.backbone)
        # A method that gives the processor a smaller image leaves nothing to reduce.
        self._smaller: Smaller | None = None
        if self.reducer.shrinks and loaded.backbone.token_side:
            self._smaller = partial(self.reducer.smaller, geometry=loaded.geometry)
        self.max_new_tokens = max_new_tokens
        self.failures: dict[tuple[str, int], str] = {}
        self.trace: Any = None
        self._record, self._done = record, dict(done or {})
        self._workers, self._mine, self._graphs = workers, mine, graphs
        self._frames: int | None = None
        self._fps: float | None = None
        self._unturned: dict[tuple[str, str], tuple[Any, Any]] = {}  # the documents that were given, and without EXIF

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def device(self) -> torch.device:
        return self.loaded.model.device

    @property
    def asks_as(self) -> str | None:
        """lmms-eval's model class whose questions are asked, where a task has some of its own for it."""
        return imitated_class(self.protocol.name, type(self.loaded.backbone))

    def clean(self) -> None:
        """Does nothing. lmms-eval would delete the model after a task, but the next cell needs it."""

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError("hidrop answers generate_until tasks only, not log-likelihood tasks")

    def generate_until_multi_round(self, requests: Any) -> Any:
        raise NotImplementedError("hidrop answers generate_until tasks only, not multi-round tasks")

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers in the order of the requests.

        A sample that cannot be prepared (a broken image, a prompt that is too long) is recorded as failed, with the
        answer "". Raises TraceMismatch, and any error of generation.
        """
        from hidrop.reducer import build
        from hidrop.runtime import reduce

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
        running = self.reducer if self._smaller is None else build("vanilla")
        with reduce(self.loaded.model, running, features=self.loaded.features, graphs=self._graphs) as reduction:
            for batch, images in zip(todo, ahead(self._images, todo, self._workers), strict=True):
                made, records = self._answer(batch, images, reduction)
                answers = made | answers
                new = [record for place, record in records.items() if known[place] is None]
                if self._record and new:
                    self._record(sorted(new, key=lambda record: record["doc_id"]))
        return [answers.get(request.place, GenerationResult("")) for request in asked]

    def _known(self, request: Request) -> GenerationResult | None:
        """The answer of an earlier run to a request. Also restores its failure."""
        earlier = self._done.get(request.key)
        if earlier is None:
            return None
        if isinstance(earlier, str):
            return GenerationResult(earlier)
        if earlier.get("error"):
            self.failures[request.key] = earlier["error"]
        return GenerationResult(earlier["answer"])

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
        reduction.check()
        self.trace = reduction.trace
        counted = self.trace.rows[:: len(self.trace.rows) // len(prompts)]  # with beams a prompt has several
        planned = reduction.plan.entering if self._smaller is None else None
        entered = [None if row == planned else list(row) for row in counted]
        kept = cuts_of(reduction, [prompt.visual_tokens for prompt in prompts])
        return [
            {"entering": entering, "kept": cuts, "answer": answer, "new_tokens": count, "milliseconds": milliseconds}
            for (answer, count), entering, cuts in zip(rows, entered, kept, strict=True)
        ]

    def _images(self, batch: Batch) -> list[Prepared | str]:
        """Each request with its images, or the error of its sample. Runs in a worker thread."""
        return [self._images_of(request) for request in batch.requests]

    def _documents(self, task: str, split: str) -> Any:
        """The documents of a split, with images turned by their EXIF data only if the protocol does so."""
        documents = self.task_dict[task][split]
        if self.protocol.turns_images:
            return documents
        known = self._unturned.get((task, split))
        if known is None or known[0] is not documents:
            known = self._unturned[task, split] = documents, unturned(documents)
        return known[1]

    def _images_of(self, request: Request, shown: Request | None = None) -> Prepared | str:
        """A request with its images, or with those of the request `shown`; the error of its sample."""
        shown = shown or request
        try:
            doc = self._documents(shown.task, shown.split)[shown.doc_id]
            visuals = shown.visuals(doc) or ()
            videos = [self._video(one) for one in visuals if isinstance(one, VideoFile | str)]
            images = [as_rgb(one) for one in visuals if not isinstance(one, VideoFile | str)]
            return self.protocol.prepare(self.loaded, request.context, images, self._smaller, videos)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # PIL and the processor raise many types for a broken file
            return in_a_line(error)

    def _video(self, file: VideoFile | str) -> Video:
        """The frames of a video; lmms-eval's own tasks give its path."""
        file = VideoFile(Path(file).parent, Path(file).name) if isinstance(file, str) else file
        return file.read(self.protocol.sampling(self.loaded.backbone, self._frames, self._fps))

    def _prompt(self, request: Request, prepared: Prepared) -> TokenizedPrompt | str:
        """The prompt of a request, or the error of a prompt that is too long."""
        ids, longest = prepared.ids, self.loaded.geometry.max_positions
        if len(ids) >= longest:
            return f"the prompt has {len(ids)} tokens, but the model has only {longest} positions"
        vision = self.loaded.backbone.vision(prepared.inputs or {})
        # Not known: of images and videos in turns, whose grids are not in the order of the prompt, and of an image that
        # a method has made smaller, as the record's tokens are those of the whole one.
        panels = () if vision is None or all(vision.backbone.media(vision.inputs)) else vision.panels
        unplaced = 0 if vision is None else prepared.visual_tokens - sum(vision.sizes)
        if unplaced:
            panels = ()
        made = ids, prepared.inputs, prepared.images, prepared.visual_tokens, prepared.videos, panels
        return TokenizedPrompt(request, *made, whole=self.loaded.backbone.sees_whole, unplaced=unplaced)

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
        with torch.inference_mode(), nullcontext() if own else without_own_settings(model):
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
