"""`run.py bench`: measure the speed of methods on this machine and compare it with limits.

The layerwise limit is the sum over the layers of the time that transformers' own decoder layer takes at that layer's
number of tokens, measured in the same rounds. A runtime without overhead would reach it. The physical limit is the time
for the operations and bytes at the ceilings that this machine reached immediately before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch

from baselines.pdrop import quarters
from evals.bench.document import SCHEMA, BenchDocument, BenchRow
from evals.profiling.ceilings import Ceilings, measure_ceilings, physical_ms
from evals.profiling.measure import CAPTURED, measure_beside
from evals.profiling.prompt import SyntheticRequest
from evals.profiling.record import Measurement, Spread
from evals.profiling.settings import ProfileSettings
from evals.profiling.vision import recorded_answer, replayed_answer
from hidrop.backbones import backbone_of
from hidrop.budget import early_layer, solve, whole_layers
from hidrop.cache_name import cache_name
from hidrop.errors import UserError
from hidrop.geometry import Geometry
from hidrop.methods import build, method_class
from hidrop.plan import TokenPlan
from hidrop.provenance import provenance
from hidrop.reducer import Reducer
from hidrop.runtime.cuda_graphs import Recorder

DEFAULT_METHODS = ("vanilla", "hidrop", "pdrop", "fastv", "random")
PLAIN = "transformers"  # label of transformers' own forward among the timings
# Timings run this many layers, spread over the depth, instead of all: all layers have the same sizes.
TIMED_LAYERS = 6


@dataclass(frozen=True)
class Bench:
    """Measurements of each method at each batch size, and of the machine."""

    sizes: Geometry
    ceilings: Ceilings
    settings: ProfileSettings
    rows: list[BenchRow]
    # By batch size: vanilla's prefill time over that of transformers' own forward.
    overhead: dict[int, float]

    def document(self, **facts: Any) -> BenchDocument:
        """The document for results/bench/. `facts`: the fields of BenchDocument from `model` to `budget`."""
        made = {
            "schema": SCHEMA,
            **facts,
            **provenance(facts["device"]),
            "sizes": asdict(self.sizes),
            "ceilings": asdict(self.ceilings),
            "settings": self.settings.model_dump(mode="json"),
            "vanilla_over_transformers": {str(batch): ratio for batch, ratio in self.overhead.items()},
            "rows": self.rows,
        }
        return cast(BenchDocument, made)


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
        # It has no fields for a budget to set.
        settled = {field.name for field in fields(cls)} <= {"positions"}
        try:
            label = cls.name if cls.name not in found else name
            found[label] = build(name) if settled else solve(name, _layers(name, budget, geometry), budget, geometry)
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


def bench(
    loaded: Any, reducers: Mapping[str, Reducer], settings: ProfileSettings, recorder: Recorder | None = None
) -> Bench:
    """Measure the ceilings, then all methods interleaved with transformers' own forward and layers.

    With a `recorder` (on CUDA) each method is measured eagerly and captured; captured runs are compared with captured
    vanilla.
    """
    model, geometry = loaded.model, loaded.geometry
    ceilings = measure_ceilings(model.device, model.dtype)
    known = [reducer for reducer in reducers.values() if not reducer.adaptive]

    def probes(prompt: SyntheticRequest) -> dict[str, Callable[[], Any]]:
        batch, plans = len(prompt.input_ids_BS), [r.plan(geometry, prompt.visual_tokens) for r in known]
        text, counts = settings.text_tokens, {n for plan in plans for n in plan.entering}
        layers = {str(n + text): timed_layers(model, text, n, batch) for n in sorted(counts)}
        return {PLAIN: plain_prefill(model, prompt), **layers}

    profiles, beside = measure_beside(loaded, reducers, settings, probes, recorder)
    rows, overhead = [], {}
    for batch, spreads in beside.items():
        found = {label: next(m for m in p.measurements if m.batch == batch) for label, p in profiles.items()}
        for label, one in found.items():
            own = label.removesuffix(CAPTURED)
            vanilla = found["vanilla" + label[len(own) :]]
            each = Rates(geometry, ceilings, settings, model.dtype.itemsize, spreads, vanilla)
            rows.append(each.row(label, reducers[own], one))
        overhead[batch] = found["vanilla"].prefill_ms.median / spreads[PLAIN].median
    return Bench(geometry, ceilings, settings, rows, overhead)


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
    """Compares measurements with vanilla and with the limits, at one batch size."""

    geometry: Geometry
    ceilings: Ceilings
    settings: ProfileSettings
    element_bytes: int
    spreads: Mapping[str, Spread]
    vanilla: Measurement

    def layerwise_ms(self, entering: tuple[int, ...]) -> float | None:
        """The layerwise limit in milliseconds; None if the token counts were not known before the run."""
        names = [str(n + self.settings.text_tokens) for n in entering]
        if not set(names) <= set(self.spreads):
            return None
        return sum(self.spreads[name].median for name in names) / len(chosen_layers(self.geometry.layers))

    def physical_ms(self, entering: tuple[int, ...]) -> float:
        text = self.settings.text_tokens
        return physical_ms(entering, self.geometry, self.ceilings, self.vanilla.batch, text, self.element_bytes)

    def row(self, label: str, reducer: Reducer, one: Measurement) -> BenchRow:
        """All numbers of one method: the measurement, the speed-up, and its part of each limit."""
        speed_up = self.vanilla.prefill_ms.median / one.prefill_ms.median
        layerwise, whole = self.layerwise_ms(one.entering), self.layerwise_ms(self.vanilla.entering)
        ideals = {
            "layerwise": whole / layerwise if layerwise and whole else None,
            "physical": self.physical_ms(self.vanilla.entering) / self.physical_ms(one.entering),
            "flops": self.vanilla.flops / one.flops,
        }
        planned = TokenPlan(self.geometry, one.entering)
        if not reducer.adaptive:
            planned = reducer.plan(self.geometry, self.vanilla.entering[0])
        row = {
            "label": label,
            "method": reducer.name,
            "captured": label.endswith(CAPTURED),
            "fields": asdict(reducer),
            **asdict(one),
            "entering": list(one.entering),
            "average_tokens": sum(one.entering) / len(one.entering),
            "kv_bytes_planned": planned.kv_bytes(self.settings.text_tokens, self.element_bytes),
            "tokens_per_second": one.tokens_per_second,
            "selection_share": one.selection_ms.median / one.prefill_ms.median,
            "vision_share": None if one.vision_ms is None else one.vision_ms.median / one.ttft_ms.median,
            "speed_up": speed_up,
            "ideal_speed_up": ideals,
            "of_ideal": {name: ideal and speed_up / ideal for name, ideal in ideals.items()},
            "layerwise_ms": layerwise,
            "physical_ms": self.physical_ms(one.entering),
            "of_physical_limit": self.physical_ms(one.entering) / one.prefill_ms.median,
        }
        return cast(BenchRow, row)
