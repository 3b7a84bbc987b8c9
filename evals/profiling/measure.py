"""Measures all methods on one model, interleaved, so that background load affects all methods equally."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from evals.profiling.clock import Clock, no_collector
from evals.profiling.memory import kv_bytes, peak_bytes
from evals.profiling.prompt import SyntheticRequest, build_request
from evals.profiling.record import Measurement, Profile, Spread
from evals.profiling.settings import ProfileSettings
from evals.profiling.vision import RecordedFeatures
from hidrop.backbones import Backbone, backbone_of
from hidrop.cache_name import cache_of
from hidrop.geometry import Geometry
from hidrop.methods import build
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer
from hidrop.runtime import Reduction, reduce
from hidrop.runtime.cuda_graphs import Graphs, Recorder

CAPTURED = " (captured)"


@dataclass
class _Timings:
    """Milliseconds gathered for one method at one batch size."""

    ttft: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    vision: list[float] = field(default_factory=list)
    selection: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)


# Other work that is timed in each round next to the methods, by name, for one batch's prompt.
Probes = Callable[[SyntheticRequest], Mapping[str, Callable[[], Any]]]


def measure(loaded: Any, reducers: Mapping[str, Reducer], settings: ProfileSettings) -> dict[str, Profile]:
    """`measure_beside` without other work."""
    return measure_beside(loaded, reducers, settings, lambda prompt: {})[0]


@dataclass(frozen=True)
class Way:
    """A method and how it runs: eagerly, or by graphs, which are captured on its first run.

    `tokens`: those of the image that it runs on, where the method gives the processor a smaller one; the model then
    runs unreduced.
    """

    reducer: Reducer
    graphs: Graphs | None = None
    tokens: int | None = None


def ways(
    reducers: Mapping[str, Reducer], settings: ProfileSettings, recorder: Recorder | None, backbone: Backbone
) -> dict[str, Way]:
    """Every method eagerly and, with a recorder, also by graphs if it can be captured."""
    found = {label: _way(reducer, backbone) for label, reducer in reducers.items()}
    for label, way in [*found.items()] if recorder else ():
        if way.reducer.capturable:
            # All prompts have the same length, so a bucket of one token adds no padding. Two graphs: the whole forward
            # and, for the prefill, the same without the tower.
            graphs = Graphs(recorder, bucket=1, room=settings.new_tokens, limit=2)
            found[label + CAPTURED] = replace(way, graphs=graphs)
    return found


def _way(reducer: Reducer, backbone: Backbone) -> Way:
    if not (reducer.shrinks and backbone.token_side):
        return Way(reducer)
    rows, columns = reducer.smaller(*backbone.pixel_grid, backbone.geometry)
    return Way(build("vanilla"), tokens=rows * columns)


@torch.inference_mode()
def measure_beside(
    loaded: Any,
    reducers: Mapping[str, Reducer],
    settings: ProfileSettings,
    probes: Probes,
    recorder: Recorder | None = None,
) -> tuple[dict[str, Profile], dict[int, dict[str, Spread]]]:
    """Time each method at each batch size, and take tokens, operations and bytes from the same runs.

    Each round runs every method once (A, B, C, A, B, C, ...). The first `settings.warmup` rounds do not count. A run is
    one forward with the image (time to first token: vision tower, projector, decoder, LM head), the vision tower and
    projector alone, one forward with the image's features precomputed (prefill: decoder and LM head), and
    `settings.new_tokens` single-token forwards. In a graph the tower cannot be timed apart. `probes` are timed in the
    same rounds, and their times are returned by batch size and name. With a `recorder`, each method that
    can be captured runs a second time in each round, by graphs, and the label of this run ends in CAPTURED.

    Raises RuntimeError if the real KV cache has another size than the method's plan (TraceMismatch if the token counts
    already differ).
    """
    found: dict[str, list[Measurement]] = {}
    beside: dict[int, dict[str, Spread]] = {}
    for batch in settings.batch:
        prompt = build_request(loaded.model, loaded.geometry, settings, batch)
        run = ways(reducers, settings, recorder, backbone_of(loaded.model))
        requests = {
            label: build_request(loaded.model, loaded.geometry, settings, batch, way.tokens) if way.tokens else prompt
            for label, way in run.items()
        }
        timings = {label: _Timings() for label in run}
        features = _features(loaded.model, {label: way.reducer for label, way in run.items()}, requests)
        for label, way in run.items():
            if way.graphs:
                _time_once(loaded.model, way, requests[label], features[label])  # captures
        others = probes(prompt)
        taken_by: dict[str, list[float]] = {name: [] for name in others}
        clock = Clock(loaded.model.device)
        with no_collector():
            for round_ in range(settings.warmup + settings.repeats):
                for label, way in run.items():
                    taken = _time_once(loaded.model, way, requests[label], features[label])
                    if round_ >= settings.warmup:
                        _append(timings[label], taken)
                for name in others:
                    marks = [clock.start()]
                    others[name]()
                    marks.append(clock.mark())
                    if round_ >= settings.warmup:
                        taken_by[name] += clock.between(marks)
        beside[batch] = {name: Spread.of(times) for name, times in taken_by.items()}
        features.clear()  # not part of any method's peak memory, and neither is the other timed work
        others = {}
        for label, way in run.items():
            facts = _facts(loaded.model, loaded.geometry, way, requests[label], settings, label)
            found.setdefault(label, []).append(_measurement(batch, settings, timings[label], facts))
    return {label: Profile(label, tuple(measurements)) for label, measurements in found.items()}, beside


def _features(
    model: Any, reducers: Mapping[str, Reducer], requests: Mapping[str, SyntheticRequest]
) -> dict[str, RecordedFeatures]:
    """The features of each method's request. Methods that do not work in the tower share those of one request."""
    shared: dict[int, RecordedFeatures] = {}
    found = {
        label: RecordedFeatures()
        if reducer.own_features
        else shared.setdefault(id(requests[label]), RecordedFeatures())
        for label, reducer in reducers.items()
    }
    for label, reducer in reducers.items():
        if not found[label].features:
            with reduce(model, reducer, features=found[label]):
                model(**requests[label].prefill_inputs())
    return found


def _time_once(model: Any, way: Way, prompt: SyntheticRequest, features: RecordedFeatures) -> _Timings:
    """One run of one method."""
    clock, taken = Clock(model.device), _Timings()
    with reduce(model, way.reducer, graphs=way.graphs) as reduction:
        marks = [clock.start()]
        model(**prompt.prefill_inputs())
        marks.append(clock.mark())
        taken.ttft += clock.between(marks)
        if not way.graphs:
            taken.vision += _time_vision(reduction, prompt, clock)

    cuts: list[TimedCut] = []
    with reduce(model, way.reducer, features=features, graphs=way.graphs) as reduction:
        # While a graph is captured nothing can be timed, and its replays make no cuts one could mark.
        with nullcontext() if way.graphs else _marked(reduction.decoder, clock, cuts):
            marks = [clock.start()]
            cache = cache_of(model(**prompt.prefill_inputs()))
            marks.append(clock.mark())
            taken.prefill += clock.between(marks)
        taken.selection.append(sum(cut.milliseconds(clock) for cut in cuts))

        marks = [clock.start()]
        for step in range(prompt.continuation_BN.shape[1]):
            model(**prompt.decode_inputs(step, cache))
            marks.append(clock.mark())
        taken.decode += clock.between(marks)
    return taken


def _time_vision(reduction: Reduction, prompt: SyntheticRequest, clock: Clock) -> list[float]:
    """Milliseconds of vision tower and projector alone, as the method uses them."""
    marks = [clock.start()]
    vision = reduction.backbone.vision(prompt.images)
    assert vision is not None
    reduction.reducer.encode(vision)
    marks.append(clock.mark())
    return clock.between(marks)


@dataclass
class TimedCut:
    """Marks around a cut of a prefill, and around its projection to the next layer's keys, if it has one.

    `stays`: the share of these keys that the next layer reuses. Their cost is not selection.
    """

    whole: list[Any]
    keys: list[Any]
    stays: float

    def milliseconds(self, clock: Clock) -> float:
        """The time of the selection alone."""
        whole = sum(clock.between(self.whole))
        return whole - self.stays * sum(clock.between(self.keys)) if self.stays else whole


@contextmanager
def _marked(decoder: Any, clock: Clock, cuts: list[TimedCut]) -> Iterator[None]:
    """Inside the block, add each cut of a prefill to `cuts`."""
    cut = decoder._cut

    def marked(sequence: Any, before: Any, plan: Any, place: int, *more: Any) -> Any:
        projection, keys = decoder.next_layer(plan.cuts[place].after).self_attn.k_proj, []
        with ExitStack() as hooks:
            for register in (projection.register_forward_pre_hook, projection.register_forward_hook):
                hooks.callback(register(lambda *_: keys.append(clock.mark())).remove)
            tokens, start = sequence.order.shape[1], clock.mark()
            left, plan = cut(sequence, before, plan, place, *more)
            end = clock.mark()
        cuts.append(TimedCut([start, end], keys[:2], left.order.shape[1] / tokens if left.keys is not None else 0.0))
        return left, plan

    decoder._cut = marked
    try:
        yield
    finally:
        del decoder._cut


def _append(timings: _Timings, taken: _Timings) -> None:
    timings.ttft += taken.ttft
    timings.prefill += taken.prefill
    timings.vision += taken.vision
    timings.selection += taken.selection
    timings.decode += taken.decode


def _facts(
    model: Any, geometry: Geometry, way: Way, prompt: SyntheticRequest, settings: ProfileSettings, label: str
) -> dict[str, Any]:
    """Everything except times: counted tokens, operations, bytes. Takes one more run, outside the timings."""
    reducer = way.reducer
    with reduce(model, reducer, graphs=way.graphs) as reduction:

        def request() -> None:
            cache = cache_of(model(**prompt.prefill_inputs()))
            for step in range(settings.new_tokens):
                model(**prompt.decode_inputs(step, cache))

        peak = peak_bytes(model, request)
        cache = cache_of(model(**prompt.prefill_inputs()))
        realised = TokenPlan(geometry, tuple(reduction.trace.entering))
        held, batch = kv_bytes(cache), len(prompt.input_ids_BS)
    plan = realised if reducer.adaptive else reducer.plan(geometry, prompt.visual_tokens)
    planned = batch * plan.kv_bytes(settings.text_tokens, model.dtype.itemsize)
    if held != planned:
        raise RuntimeError(f"{label}: the KV cache holds {held} bytes after the prefill, the plan says {planned}")
    return {
        "entering": realised.entering,
        "flops": realised.flops(settings.text_tokens),
        "paper_macs": realised.paper_macs(),
        "kv_bytes": held // batch,
        "peak_bytes": peak,
    }


def _measurement(batch: int, settings: ProfileSettings, timings: _Timings, facts: dict[str, Any]) -> Measurement:
    return Measurement(
        batch=batch,
        text_tokens=settings.text_tokens,
        new_tokens=settings.new_tokens,
        repeats=settings.repeats,
        ttft_ms=Spread.of(timings.ttft),
        prefill_ms=Spread.of(timings.prefill),
        prefill_source="features",
        selection_ms=Spread.of(timings.selection),
        decode_ms=Spread.of(timings.decode),
        vision_ms=Spread.of(timings.vision) if timings.vision else None,
        **facts,
    )
