"""`run.py bench`: measure the speed of methods on this machine and compare it with limits.

The layerwise limit is the sum over the layers of the time that transformers' own decoder layer takes at that layer's
number of tokens, and what transformers' own forward takes outside of its layers (embedding, mask, final norm and LM
head), measured in the same rounds. A runtime without overhead would reach it. The physical limit is the time for the
operations and bytes at the ceilings that this machine reached immediately before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import torch

from baselines.pdrop import quarters
from evals.bench.latency import times
from evals.profiling.ceilings import Ceilings, Parts, decode_parts, measure_ceilings, prefill_parts
from evals.profiling.measure import Timed, measure_point
from evals.profiling.memory import resident_bytes
from evals.profiling.point import Point
from evals.profiling.prompt import SyntheticRequest
from evals.profiling.ratios import of_medians, speed_up
from evals.profiling.record import CAPTURED, percentile
from evals.profiling.vision import recorded_answer, replayed_answer
from hidrop.backbones import backbone_of
from hidrop.budget import early_layer, solve, whole_layers
from hidrop.cache_name import cache_name
from hidrop.errors import UserError
from hidrop.geometry import Geometry
from hidrop.methods import build, method_class
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer
from hidrop.runtime.cuda_graphs import Recorder

if TYPE_CHECKING:
    from evals.bench.document import BenchRow, RequestEntry
    from evals.profiling.ratios import RatioEntry

# Labels among the timings of transformers' own forward, and of the same without its layers.
PLAIN, NO_LAYERS = "transformers", "transformers without layers"
# Timings run this many layers, spread over the depth, instead of all: all layers have the same sizes.
TIMED_LAYERS = 6


@dataclass(frozen=True)
class Asked:
    """A method with all its fields, and the budget that it was asked for, as typed; None if it has no budget."""

    reducer: Reducer
    budget: str | None = None


@dataclass(frozen=True)
class PointResult:
    """What one point gave: the machine's ceilings, vanilla's prefill over transformers' own, and a row per method.

    `beside`: milliseconds of transformers' own work in each round, by label.
    """

    ceilings: Ceilings
    overhead: RatioEntry
    beside: Mapping[str, Sequence[float]]
    rows: list[BenchRow]


def asked_methods(names: Iterable[str], budgets: Mapping[str, float], geometry: Geometry) -> dict[str, Asked]:
    """Each method at each budget, by label. `budgets`: visual tokens per layer, by what was typed.

    With several budgets a label ends with its own. A method without one, such as vanilla, is there once.
    """
    found: dict[str, Asked] = {}
    for typed, tokens in budgets.items():
        for label, reducer in methods(tuple(names), tokens, geometry).items():
            if not has_budget(type(reducer)):
                found.setdefault(label, Asked(reducer))
            else:
                found[f"{label}-{typed}" if len(budgets) > 1 else label] = Asked(reducer, typed)
    return found


def has_budget(cls: type[Reducer]) -> bool:
    """Whether a method has fields for a budget to set."""
    return not {field.name for field in fields(cls)} <= {"positions"}


def methods(names: tuple[str, ...], budget: float, geometry: Geometry) -> dict[str, Reducer]:
    """Vanilla, then each named method at `budget` visual tokens per layer.

    HiDrop's layers are the published ones scaled to the depth; PDrop's first cut is early enough for the budget.
    Raises UserError for an unknown method and for one that cannot meet the budget.
    """
    found: dict[str, Reducer] = {"vanilla": build("vanilla")}
    for name in dict.fromkeys(names):
        try:
            cls = method_class(name)
        except ValueError as error:
            raise UserError(f"--methods {name}: {error}") from None
        try:
            label = cls.name if cls.name not in found else name
            fitted = has_budget(cls)
            found[label] = solve(name, _layers(name, budget, geometry), budget, geometry) if fitted else build(name)
        except ValueError as error:
            way = "Give another --budget, or --methods without this method"
            raise UserError(f"--methods {name}: {error}. {way}") from None
    return found


def _layers(name: str, budget: float, geometry: Geometry) -> dict[str, Any]:
    if name == "hidrop":
        return published_layers(geometry.layers)
    if name == "pdrop":
        if whole_layers(budget, geometry) > quarters(geometry)[0]:
            return {"layers": quarters(geometry)}
        first = early_layer(budget, geometry)
        second = max(first + 1, geometry.layers // 4)
        return {"layers": (first, second, max(second + 1, geometry.layers // 2))}
    return {}


def published_layers(depth: int) -> dict[str, Any]:
    """HiDrop's layers (inject 9, filters 10, 14, 16, 18, exit 25 of 32) scaled to `depth`, kept distinct."""
    inject, *filters, exit = (int(layer * depth / 32 + 0.5) for layer in (9, 10, 14, 16, 18, 25))
    for i, layer in enumerate(filters):
        filters[i] = max(layer, inject if i == 0 else filters[i - 1] + 1)
    return {"inject": inject, "filters": tuple(filters), "exit": max(exit, filters[-1] + 2)}


def bench_point(
    loaded: Any,
    asked: Mapping[str, Asked],
    point: Point,
    new: Sequence[int] = (),
    recorder: Recorder | None = None,
    room: int | None = None,
) -> PointResult:
    """Measure the ceilings, then all methods interleaved with transformers' own forward and layers.

    `new`: output tokens of the requests whose latency is computed. `room`: bytes of memory that batches may take, to
    estimate the largest one. With a `recorder` (on CUDA) each method is measured eagerly and captured; captured runs
    are compared with captured vanilla.
    """
    model, geometry = loaded.model, loaded.geometry
    ceilings = measure_ceilings(model.device, model.dtype)
    reducers = {label: one.reducer for label, one in asked.items()}
    known = [reducer for reducer in reducers.values() if not reducer.adaptive]

    def probes(prompt: SyntheticRequest) -> dict[str, Callable[[], Any]]:
        plans, text = [r.plan(geometry, prompt.visual_tokens) for r in known], point.text_tokens
        counts = {n for plan in plans for n in plan.entering}
        layers = {str(n + text): timed_layers(model, text, n, point.batch) for n in sorted(counts)}
        plain = plain_prefill(model, prompt)
        return {PLAIN: plain, NO_LAYERS: without_layers(model, plain), **layers}

    timed, beside = measure_point(loaded, reducers, point, probes, recorder, energy=True)
    weights = resident_bytes(model)
    rows = []
    for label, one in timed.items():
        own = label.removesuffix(CAPTURED)
        vanilla = timed["vanilla" + label[len(own) :]]
        rates = Rates(geometry, ceilings, point, model.dtype.itemsize, beside, vanilla, room, tuple(new), weights)
        rows.append(rates.row(label, asked[own], one))
    overhead = speed_up([run.prefill for run in timed["vanilla"].runs], beside[PLAIN])
    return PointResult(ceilings, overhead, beside, rows)


def plain_prefill(model: Any, prompt: SyntheticRequest) -> Callable[[], Any]:
    """transformers' own forward on the prompt, with precomputed image features as in the timed prefills."""
    backbone = backbone_of(model)
    # What a processor adds for transformers' own forward: which tokens are visual.
    kinds = {name: backbone.kinds(prompt.input_ids_BS) for name in backbone.derived_inputs if "token_type" in name}
    answer = recorded_answer(model, lambda: model(**prompt.prefill_inputs(), **kinds))

    def run() -> Any:
        with replayed_answer(model, answer):
            return model(**prompt.prefill_inputs(), **kinds)

    return run


def without_layers(model: Any, forward: Callable[[], Any]) -> Callable[[], Any]:
    """`forward` through a decoder that has no layers: embedding, mask, final norm and LM head are left."""
    decoder = backbone_of(model).decoder

    def run() -> Any:
        layers, decoder.layers = decoder.layers, torch.nn.ModuleList()
        try:
            return forward()
        finally:
            decoder.layers = layers

    return run


def timed_layers(model: Any, text: int, visual: int, batch: int) -> Callable[[], Any]:
    """A prefill through some of transformers' own decoder layers: the tokens of an image amid those of the text."""
    from transformers import DynamicCache

    backbone = backbone_of(model)
    decoder = backbone.decoder
    config, device, tokens = decoder.config, model.device, text + visual
    hidden = torch.randn(batch, tokens, config.hidden_size, device=device, dtype=model.dtype)
    place = torch.arange(tokens, device=device)
    rope = backbone.rope(hidden, place[None, None])
    chosen = chosen_layers(config.num_hidden_layers)
    inside = (place >= text // 2) & (place < text // 2 + visual)
    block = torch.where(inside, 0, -1).expand(batch, -1) if backbone.both_ways else None
    # None for kernels with a built-in causal mask; eager attention needs a mask.
    mask = backbone.mask(hidden, None, None, 1, block)
    ropes = [backbone.layer_rope(rope, i + 1) for i in chosen]

    def run() -> None:
        cache, states = DynamicCache(config=config), hidden
        for i, layer_rope in zip(chosen, ropes, strict=True):
            states = decoder.layers[i](
                states, attention_mask=mask, position_embeddings=layer_rope, use_cache=True, **{cache_name(): cache}
            )

    return run


def chosen_layers(depth: int) -> list[int]:
    """Indices of the layers that are timed instead of all."""
    count = min(depth, TIMED_LAYERS)
    return [i * depth // count for i in range(count)]


@dataclass(frozen=True)
class Rates:
    """Compares measurements with vanilla and with the limits, at one point.

    `beside`: milliseconds of transformers' own layers in each round, by their number of tokens, and of what is outside
    of them (NO_LAYERS). `room`, `new`: see `bench_point`.
    """

    geometry: Geometry
    ceilings: Ceilings
    point: Point
    element_bytes: int
    beside: Mapping[str, Sequence[float]]
    vanilla: Timed
    room: int | None = None
    new: tuple[int, ...] = ()
    weight_bytes: int = 0

    def layerwise_ms(self, entering: tuple[int, ...], medians: Mapping[str, Any]) -> Any:
        """The layerwise limit in milliseconds, from such medians by label (numbers or arrays)."""
        names = (str(n + self.point.text_tokens) for n in entering)
        return sum(medians[name] for name in names) / len(chosen_layers(self.geometry.layers)) + medians[NO_LAYERS]

    def of_layerwise(self, timed: Timed) -> RatioEntry | None:
        """The prefill's speed-up over the layerwise limit; None if the token counts were not known before the run."""
        own, whole = timed.measurement.entering, self.vanilla.measurement.entering
        if not {str(n + self.point.text_tokens) for n in own} <= set(self.beside):
            return None
        runs = {"vanilla": self.vanilla.runs, "own": timed.runs}
        prefills = {name: [run.prefill for run in taken] for name, taken in runs.items()}

        def reached(median: Mapping[str, Any]) -> Any:
            limit = self.layerwise_ms(whole, median) / self.layerwise_ms(own, median)
            return median["vanilla"] / median["own"] / limit

        return of_medians(reached, {**self.beside, **prefills})

    def least(self, of: Callable[..., Parts], entering: tuple[int, ...]) -> Parts:
        point = self.point
        return of(entering, self.geometry, self.ceilings, point.batch, point.text_tokens, self.element_bytes)

    def row(self, label: str, asked: Asked, timed: Timed) -> BenchRow:
        """All numbers of one method: times, speed-ups, its part of each limit, whole requests, and bytes."""
        one, vanilla, reducer = timed.measurement, self.vanilla.measurement, asked.reducer
        prefill, step = self.least(prefill_parts, one.entering), self.least(decode_parts, one.entering)
        whole = self.least(prefill_parts, vanilla.entering)
        planned = TokenPlan(self.geometry, one.entering)
        if not reducer.adaptive:
            planned = reducer.plan(self.geometry, vanilla.entering[0])
        found = {name: [getattr(run, name) for run in timed.runs] for name in ("prefill", "ttft", "tpot", "selection")}
        theirs = {name: [getattr(run, name) for run in self.vanilla.runs] for name in ("prefill", "ttft", "tpot")}
        ratios = {name: speed_up(theirs[name], found[name]) for name in theirs}
        of_layerwise, layerwise, unreduced = self.of_layerwise(timed), None, None
        if of_layerwise is not None:
            medians = {name: percentile(taken, 0.5) for name, taken in self.beside.items()}
            layerwise, unreduced = (self.layerwise_ms(of.entering, medians) for of in (one, vanilla))
        ideals = {
            "layerwise": unreduced / layerwise if layerwise and unreduced else None,
            "physical": whole.total / prefill.total,
            "flops": vanilla.flops / one.flops,
        }
        vision = [run.vision for run in timed.runs if run.vision is not None]
        row = {
            "label": label,
            "method": reducer.name,
            "captured": label.endswith(CAPTURED),
            "fields": asdict(reducer),
            "budget": asked.budget,
            "batch": self.point.batch,
            "images": self.point.images,
            "text_tokens": self.point.text_tokens,
            "new_tokens": self.point.new_tokens,
            "repeats": self.point.repeats,
            **{f"{name}_ms": times(taken) for name, taken in found.items()},
            "itl_ms": times([step for run in timed.runs for step in run.decode]),
            "vision_ms": times(vision) if vision else None,
            "prefill_source": one.prefill_source,
            "entering": list(one.entering),
            "average_tokens": sum(one.entering) / len(one.entering),
            "flops": one.flops,
            "paper_macs": one.paper_macs,
            "kv_bytes": one.kv_bytes,
            "kv_bytes_planned": planned.kv_bytes(self.point.text_tokens, self.element_bytes),
            "peak_bytes": one.peak_bytes,
            # While captured methods are measured, the graphs of the next ones take memory, too.
            "largest_batch": None if label.endswith(CAPTURED) else self.largest_batch(one.peak_bytes),
            "joules": timed.joules,
            "vision_share": percentile(vision, 0.5) / one.ttft_ms.median if vision else None,
            "selection_share": one.selection_ms.median / one.prefill_ms.median,
            "speed_ups": ratios,
            "requests": [self.request(new, timed) for new in self.new],
            "ideal_speed_up": ideals,
            "of_ideal": {name: ideal and ratios["prefill"]["ratio"] / ideal for name, ideal in ideals.items()},
            "of_layerwise": of_layerwise,
            "layerwise_ms": layerwise,
            "physical_ms": prefill.total,
            "of_physical_limit": prefill.total / one.prefill_ms.median,
            "least_parts_ms": {"prefill": asdict(prefill), "decode": asdict(step)},
            "of_decode_limit": step.total / percentile(found["tpot"], 0.5),
        }
        return cast("BenchRow", row)

    def request(self, new: int, timed: Timed) -> RequestEntry:
        """A whole request with `new` output tokens, next to vanilla's in the same rounds."""
        ours, theirs = ([run.request(new) for run in of.runs] for of in (timed, self.vanilla))
        seconds = percentile(ours, 0.5) / 1000
        # What the energy was measured of: prefill and the decoded tokens.
        run = percentile([run.request(1 + len(run.decode)) for run in timed.runs], 0.5) / 1000
        energy = None if timed.joules is None else timed.joules / self.point.batch * seconds / run
        return {
            "new_tokens": new,
            "e2el_ms": times(ours, raw=False),
            "speed_up": speed_up(theirs, ours),
            "requests_per_second": self.point.batch / seconds,
            "output_tokens_per_second": self.point.batch * new / seconds,
            "joules": energy,
        }

    def largest_batch(self, peak: int) -> int | None:
        """How many requests of this shape fit into the device's memory, with the longest of the output lengths.

        An estimate: what the peak holds beyond the weights grows with the batch, and each further output token adds its
        keys and values in every layer.
        """
        if self.room is None:
            return None
        more = max(0, max(self.new, default=1) - 1 - self.point.new_tokens)
        tokens = self.geometry.layers * self.geometry.layer_kv_bytes(more, self.element_bytes)
        each = (peak - self.weight_bytes) / self.point.batch + tokens
        return int(self.room / each) if each > 0 else None
