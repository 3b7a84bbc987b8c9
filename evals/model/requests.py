"""From lmms-eval requests to answers: the steps before and after `generate` that need no model.

Batches depend only on the requests, so a resumed cell runs the same batches. This matters because the last bits of a
padded batch's arithmetic depend on the other rows in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig

    from hidrop.backbones import Backbone
    from hidrop.backbones.asking import Asking
    from hidrop.backbones.model_inputs import Panel
    from hidrop.models import Loaded

Record = dict[str, Any]

# A task's sampling settings that `generate` takes, with the values that turn them off. `until` cuts the text after
# generation. Other settings of a task (image_aspect_ratio) are for other models.
SAMPLING: dict[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}


@dataclass(frozen=True)
class Request:
    """A simple lmms-eval request, its place in the list, and whether it only pads the list of a process."""

    place: int
    context: str
    settings: Mapping[str, Any]
    visuals: Any
    doc_id: int
    task: str
    split: str
    padding: bool = False

    @classmethod
    def of(cls, place: int, instance: Any) -> Request:
        context, settings, visuals, doc_id, task, split = instance.args
        padding = bool((instance.metadata or {}).get("__padding_only__"))
        return cls(place, context, settings or {}, visuals, doc_id, task, split, padding)

    @property
    def key(self) -> tuple[str, int]:
        """The sample's identity: task and doc_id."""
        return self.task, self.doc_id


@dataclass(frozen=True)
class TokenizedPrompt:
    """A tokenized request: token ids, and the model's inputs for its images, if any (see Protocol.prepare).

    `videos`: the frames of each video.
    """

    request: Request
    ids: list[int]
    pixels: Mapping[str, torch.Tensor] | None
    images: int
    visual_tokens: int
    videos: tuple[int, ...] = ()
    panels: Sequence[Sequence[Panel]] = ()  # where the visual tokens are in their images
    whole: bool = False  # see Backbone.sees_whole
    unplaced: int = 0  # visual tokens without a place in `ids`: a method has made the image smaller before the prompt

    @property
    def alike(self) -> tuple[int, tuple[int, ...]]:
        """Prompts that run together have as many images, and videos of as many frames."""
        return self.images, self.videos

    @property
    def facts(self) -> Record:
        """The fields of a sample's record that describe its prompt, with the whole images."""
        found: Record = {"prompt_hash": self.hash, "prompt_tokens": len(self.ids) + self.unplaced}
        found["visual_tokens"] = self.visual_tokens
        if self.panels:
            found["panels"] = [[list(panel) for panel in image] for image in self.panels]
            found["whole"] = self.whole
        return found

    @property
    def hash(self) -> str:
        """sha256 (16 digits) of the token ids. Two runs with equal hashes used the same prompt."""
        return hashlib.sha256(" ".join(map(str, self.ids)).encode()).hexdigest()[:16]


def inputs_of(prompts: Sequence[TokenizedPrompt], pad: int, backbone: Backbone) -> dict[str, torch.Tensor]:
    """The model's inputs for prompts with equally many images, on its device. Shorter prompts are padded left."""
    import torch

    model, width = backbone.model, max(len(prompt.ids) for prompt in prompts)
    pixels = backbone.pixel_inputs
    images = backbone.joined([prompt.pixels for prompt in prompts if prompt.pixels is not None])
    inputs = {
        "input_ids": torch.tensor([[pad] * (width - len(p.ids)) + p.ids for p in prompts]),
        "attention_mask": torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts]),
        # Seconds between frames keep their precision.
        **{name: value.to(model.dtype) if name in pixels else value for name, value in images.items()},
    }
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def ends_of(loaded: Loaded, asking: Asking | None = None) -> tuple[list[int], int]:
    """The ids that end an answer, and the id that pads shorter rows."""
    own, stated = loaded.tokenizer.eos_token_id, [] if asking and asking.ends else list(loaded.ends)
    ends = stated or ([] if own is None else [own])
    return ends, next((i for i in (loaded.tokenizer.pad_token_id, *ends) if i is not None), 0)


def generation_config(settings: Mapping[str, Any], longest: int, ends: Sequence[int], pad: int) -> GenerationConfig:
    """All settings of `generate` for a task's settings. Fields that are not set here have transformers' default."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=longest, pad_token_id=pad, eos_token_id=list(ends) or None, **decoding(settings)
    )


@contextlib.contextmanager
def without_own_settings(model: Any) -> Iterator[None]:
    """Take the settings of a checkpoint's generation_config.json away from a model, and put them back afterwards.

    `generate` fills every field that its caller left open from them: penalties, forced and forbidden tokens, kinds of
    cache, and whatever a later version of transformers adds.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@contextlib.contextmanager
def sampling_seeded(prompts: Sequence[TokenizedPrompt]) -> Iterator[None]:
    """A block in which sampled tokens depend on the documents of a batch, and on no batch before it."""
    import torch

    keys = json.dumps([prompt.request.key for prompt in prompts]).encode()
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(hashlib.sha256(keys).digest()[:8], "big"))
        yield


@dataclass(frozen=True)
class Batch:
    """Requests that run together. `number` counts the batches of the task."""

    number: int
    requests: tuple[Request, ...]


def batches(requests: Sequence[Request], lengths: Sequence[int], size: int) -> list[Batch]:
    """Requests with equal settings, longest first, in batches of `size`. Ties keep the order of the requests."""

    def order(request: Request) -> tuple[str, int, int]:
        return _settings_key(request), -lengths[request.place], request.place

    found: list[list[Request]] = []
    for request in sorted(requests, key=order):
        if found and len(found[-1]) < size and _settings_key(found[-1][0]) == _settings_key(request):
            found[-1].append(request)
        else:
            found.append([request])
    return [Batch(number, tuple(batch)) for number, batch in enumerate(found)]


def _settings_key(request: Request) -> str:
    return json.dumps(request.settings, sort_keys=True, default=str)


def decoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings for a GenerationConfig: greedy unless the task asks for sampling at a temperature above 0."""
    temperature = settings.get("temperature") or 0.0
    sampling = bool(settings.get("do_sample", temperature > 0)) and temperature > 0
    values = {name: (settings.get(name) or off) if sampling else off for name, off in SAMPLING.items()}
    return {"do_sample": sampling, "num_beams": int(settings.get("num_beams") or 1), **values}


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """The answer up to the first of the strings in `until`, stripped."""
    for stop in [until] if isinstance(until, str) else until or ():
        if stop:
            text = text.split(stop)[0]
    return text.strip()


class Preparing:
    """The time between the generation of batches, for questions, images and records, as far as the model waits."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def shared(self, records: Iterable[Record]) -> None:
        """Put each record's share of the milliseconds since the last call, without generation, into `preparing_ms`."""
        records, now = list(records), time.perf_counter()
        spent = 1000 * (now - self._since) - sum(record["milliseconds"] for record in records)
        for record in records:
            record["preparing_ms"] = max(0.0, spent / len(records))
        self._since = now


def record_of(batch: Batch, request: Request, **values: Any) -> Record:
    """The record of a sample. `milliseconds` is its share of the time that its batch's generation needed."""
    nothing: Record = {"prompt_hash": None, "prompt_tokens": 0, "visual_tokens": 0, "entering": None}
    nothing |= {"kept": None, "new_tokens": 0, "milliseconds": 0.0, "preparing_ms": 0.0, "error": None}
    return {"task": request.task, "doc_id": request.doc_id, "batch": batch.number, **nothing, **values}
