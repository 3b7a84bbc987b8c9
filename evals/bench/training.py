"""`run.py bench-train`: measure training steps with fewer tokens and compare them with the layerwise limit.

A step is forward and backward of a batch of conversations with one image each: frozen tower, projector, decoder, loss.
The layerwise limit is the sum over the layers of the time that transformers' own decoder layer takes, forward and
backward, at that layer's number of tokens, plus the time of the parts that all methods share (tower, projector, head).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from evals.bench import TRAINING_SCHEMA, training_table
from evals.bench.bars import Bar
from evals.bench.inference import chosen_layers
from evals.plain_table import aligned
from evals.profiling.clock import Clock, no_collector
from evals.profiling.memory import peak_bytes
from evals.profiling.record import Spread
from hidrop.backbones import backbone_of
from hidrop.provenance import provenance
from hidrop.reducer import Reducer
from hidrop.runtime import reduce
from hidrop.runtime.layout import IGNORED

if TYPE_CHECKING:
    from evals.bench.document import StepRow, TrainingDocument

CHECKPOINTED = " (checkpointing)"
PAPER_BATCH = 16  # samples per GPU of LLaVA's second stage


@dataclass(frozen=True)
class Step:
    """One method's step. `activation_bytes`: memory that autograd keeps for the backward pass, without weights."""

    label: str
    method: str
    text: tuple[int, ...]  # text tokens of each sample of the batch
    checkpointing: bool
    entering: tuple[int, ...]
    step_ms: Spread
    speed_up: float | None  # None if vanilla ran out of memory
    layerwise: float | None  # None with checkpointing, which runs layers a second time
    activation_bytes: int
    peak_bytes: int

    @property
    def of_layerwise(self) -> float | None:
        return None if self.layerwise is None or self.speed_up is None else self.speed_up / self.layerwise


@dataclass(frozen=True)
class Steps:
    """The steps that were measured at one batch, and the labels of those that ran out of the device's memory."""

    text: tuple[int, ...]
    measured: list[Step]
    out_of_memory: list[str]


def batch_of(model: Any, text: Sequence[int], visual: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A right-padded batch with one row per entry of `text`, its number of text tokens, and one noise image per row.

    A quarter of each text precedes the image. The answer is the second half of the rest.
    """
    generator = torch.Generator().manual_seed(seed)
    backbone = backbone_of(model)
    image, longest = backbone.placeholder_id, max(text) + visual
    ids = torch.zeros(len(text), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, count in enumerate(text):
        words = torch.randint(3, image, (count,), generator=generator)
        before = max(1, count // 4)
        whole = torch.cat([words[:before], torch.full((visual,), image), words[before:]])
        answer = len(whole) - max(1, (count - before) // 2)
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        labels[row, answer : len(whole)] = whole[answer:]
    pixels = torch.randn(len(text), *backbone.pixel_shape, generator=generator).to(model.dtype)
    found = {"input_ids": ids, "attention_mask": mask, "labels": labels, **backbone.inputs_for(pixels)}
    if min(text) == max(text):
        del found["attention_mask"]
    return {name: tensor.to(model.device) for name, tensor in found.items()}


def measure(loaded: Any, reducers: Mapping[str, Reducer], text: Sequence[int], *, repeats: int, warmup: int) -> Steps:
    """Steps of all methods without and with gradient checkpointing, interleaved with transformers' layers.

    The layers are timed at the longest text, so the limit is exact if all texts have the same length. A step that runs
    out of a GPU's memory is left out of the following rounds.
    """
    model, geometry = loaded.model, loaded.geometry
    model.train()
    backbone_of(model).tower.requires_grad_(False)
    inputs = batch_of(model, text, geometry.visual_tokens)
    plans = {name: reducer.plan(geometry).entering for name, reducer in reducers.items()}
    counts = sorted({n + max(text) for entering in plans.values() for n in entering})
    probes = {n: layer_steps(model, n, len(text)) for n in counts}
    rest = everything_else(model, inputs)
    runs = [(name, way) for way in (False, True) for name in reducers]
    times: dict[Any, list[float]] = {key: [] for key in [*runs, *counts, "rest"]}
    clock, too_large = Clock(model.device), list[tuple[str, bool]]()

    def timed(key: Any, run: Callable[[], Any]) -> None:
        model.zero_grad(set_to_none=True)
        marks = [clock.start()]
        run()
        marks.append(clock.mark())
        times[key] += clock.between(marks)

    with no_collector():
        for round_ in range(warmup + repeats):
            for name, way in [run for run in runs if run not in too_large]:
                try:
                    with checkpointing(model, way), reduce(model, reducers[name]):
                        timed((name, way), lambda: step(model, inputs))
                except torch.OutOfMemoryError:
                    too_large.append((name, way))
                if too_large[-1:] == [(name, way)]:  # here the failed step's frames no longer hold its tensors
                    model.zero_grad(set_to_none=True)
                    torch.cuda.empty_cache()
            for count, probe in probes.items():
                timed(count, probe)
            timed("rest", rest)
            if round_ < warmup:
                times = {key: [] for key in times}
    spread = {key: Spread.of(found) for key, found in times.items() if key not in too_large}
    share = len(chosen_layers(geometry.layers))
    ideal = {
        name: spread["rest"].median + sum(spread[n + max(text)].median for n in entering) / share
        for name, entering in plans.items()
    }
    found = []
    for name, way in [run for run in runs if run in spread]:
        with checkpointing(model, way), reduce(model, reducers[name]) as reduction:
            activations = saved_bytes(model, inputs)
            model.zero_grad(set_to_none=True)
            peak = peak_bytes(model, lambda: step(model, inputs))
            assert reducers[name].adaptive or reduction.trace.entering == plans[name]
        found.append(
            Step(
                label=labelled(name, way),
                method=name,
                text=tuple(text),
                checkpointing=way,
                entering=plans[name],
                step_ms=spread[name, way],
                speed_up=spread["vanilla", way].median / spread[name, way].median
                if ("vanilla", way) in spread
                else None,
                layerwise=None if way else ideal["vanilla"] / ideal[name],
                activation_bytes=activations,
                peak_bytes=peak,
            )
        )
    model.zero_grad(set_to_none=True)
    return Steps(tuple(text), found, [labelled(*run) for run in too_large])


def labelled(name: str, checkpointed: bool) -> str:
    return name + CHECKPOINTED * checkpointed


def step(model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
    model(**inputs, use_cache=False).loss.backward()


@contextmanager
def checkpointing(model: Any, wanted: bool) -> Iterator[None]:
    """Enable gradient checkpointing of the decoder's layers inside the block, if `wanted`."""
    if wanted:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        if wanted:
            model.gradient_checkpointing_disable()


def layer_steps(model: Any, tokens: int, batch: int) -> Callable[[], None]:
    """Forward and backward of some of transformers' own decoder layers on `tokens` tokens per row."""
    backbone = backbone_of(model)
    decoder = backbone.decoder
    config, device = decoder.config, model.device
    hidden = torch.randn(batch, tokens, config.hidden_size, device=device, dtype=model.dtype, requires_grad=True)
    rope = backbone.rope(hidden, torch.arange(tokens, device=device)[None, None])
    chosen = chosen_layers(config.num_hidden_layers)

    def run() -> None:
        states: torch.Tensor = hidden
        for i in chosen:
            states = decoder.layers[i](states, attention_mask=None, position_embeddings=rope, use_cache=False)
        states.backward(torch.ones_like(states))
        hidden.grad = None

    return run


def everything_else(model: Any, inputs: Mapping[str, torch.Tensor]) -> Callable[[], None]:
    """The parts that all methods share: tower, projector, embeddings, the last norm, the LM head on the answers."""
    backbone, labels = backbone_of(model), inputs["labels"]
    hidden = torch.randn(int((labels != IGNORED).sum()), backbone.geometry.hidden, device=model.device)
    hidden, target = hidden.to(model.dtype).requires_grad_(), labels[labels != IGNORED]

    def run() -> None:
        vision = backbone.vision(inputs)
        assert vision is not None
        features = torch.cat(vision.features())
        words = model.get_input_embeddings()(inputs["input_ids"])
        logits = backbone.head(backbone.decoder.norm(hidden)).float()
        loss = torch.nn.functional.cross_entropy(logits, target)
        (loss + features.mean() + words.mean()).backward()
        hidden.grad = None

    return run


def saved_bytes(model: Any, inputs: Mapping[str, torch.Tensor]) -> int:
    """Bytes of all memory that a forward keeps for its backward pass, without parameters and inputs."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *inputs.values())}
    held: dict[int, int] = {}
    kept: list[Any] = []  # keeps storages alive, so that no address is reused

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
            kept.append(storage)
        # A result with its history would hold the node that holds it: memory that is never freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**inputs, use_cache=False).loss
    del loss
    return sum(held.values())


def document(batches: Sequence[Steps], **facts: Any) -> TrainingDocument:
    """The document for results/bench/. `facts`: the fields of TrainingDocument from `model` to `memory_kept`."""
    made = {
        "schema": TRAINING_SCHEMA,
        "kind": "training",
        **facts,
        **provenance(facts["device"]),
        "rows": [_row(one) for steps in batches for one in steps.measured],
        "out_of_memory": [
            {"label": label, "text": list(steps.text)} for steps in batches for label in steps.out_of_memory
        ],
    }
    return cast("TrainingDocument", made)


def _row(one: Step) -> StepRow:
    lists = {"entering": list(one.entering), "text": list(one.text)}
    return cast("StepRow", {**asdict(one), **lists, "of_layerwise": one.of_layerwise})


def table(steps: Steps) -> str:
    lines = [training_table.HEADINGS, *(training_table.cells(_row(one)) for one in steps.measured)]
    lost = [f"{label}: out of memory" for label in steps.out_of_memory]
    return "\n".join([training_table.batch_words(steps.text), *aligned(lines), *lost])


def bars(steps: Steps, *, cuda: bool) -> list[Bar]:
    """The bars of a HiDrop step: on a CPU layerwise limit and activations, on CUDA the paper's training speed-up.

    The paper trains with 16 samples per GPU, and a smaller batch leaves a GPU idle, so smaller ones have no bar there.
    The steps with checkpointing count where vanilla does not fit into memory without.
    """
    own = {one.label: one for one in steps.measured}
    if cuda and len(steps.text) < PAPER_BATCH:
        return []
    if cuda:
        pairs = [(f"hidrop{way}", f"vanilla{way}") for way in ("", CHECKPOINTED)]
        label = next((hidrop for hidrop, vanilla in pairs if {hidrop, vanilla} <= set(own)), None)
        what = f"batch {len(steps.text)}: {label}, samples per second / vanilla's"
        return [] if label is None else [Bar(what, own[label].speed_up or 0.0, least=1.7)]
    hidrop, vanilla = own["hidrop"], own["vanilla"]
    memory = hidrop.activation_bytes / vanilla.activation_bytes
    return [
        Bar("hidrop's step, part of the layerwise limit", hidrop.of_layerwise or 0.0, least=0.9),
        Bar("hidrop's activations / vanilla's", memory, most=0.45),
    ]
