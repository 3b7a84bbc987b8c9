"""Measures all methods on one model, interleaved, so that background load affects all methods equally."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch

from evals.profiling.clock import Clock, no_collector
from evals.profiling.energy import joules
from evals.profiling.memory import kv_bytes, peak_bytes
from evals.profiling.point import Point
from evals.profiling.prompt import SyntheticRequest, build_request
from evals.profiling.ratios import speed_ups
from evals.profiling.record import CAPTURED, Measurement, Profile, Run, Spread
from evals.profiling.vision import RecordedFeatures
from hidrop.backbones import Backbone, backbone_of
from hidrop.cache_name import cache_of
from hidrop.geometry import Geometry
from hidrop.methods import build
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer
from hidrop.runtime import Reduction, reduce
from hidrop.runtime.cuda_graphs import Graphs, Recorder

# Other work that is timed in each round next to the methods, by name, for one prompt.
Probes = Callable[[SyntheticRequest], Mapping[str, Callable[[], Any]]]


@dataclass(frozen=True)
class Timed:
    """A method at one point: its counts and times, and every run that they summarise, in the order of the rounds.

    `joules`: energy of a prefill and the decoded tokens, of the whole batch; None where it cannot be measured.
    """

    measurement: Measurement
    runs: tuple[Run, ...]
    joules: float | None = None


def measure(loaded: Any, reducers: Mapping[str, Reducer], points: Sequence[Point]) -> dict[str, Profile]:
    """Every method at each point, with its speed-ups over vanilla, without other work.

    Times of other rounds say little: a machine may be twice as fast a minute later. So vanilla is timed in the rounds
    of every model, also where no method is vanilla, as for a model that was trained with a method. If vanilla does not
    fit into memory there, the methods have no speed-ups.
    """
    beside = f"vanilla beside {', '.join(reducers)}"  # longer than any label, so it is none of them
    whole = next((label for label, reducer in reducers.items() if reducer.name == "vanilla"), beside)
    timed = {**reducers, whole: reducers.get(whole, build("vanilla"))}
    found: dict[str, list[Measurement]] = {label: [] for label in reducers}
    for point in points:
        one: dict[str, Timed] = {}
        with suppress(*[torch.OutOfMemoryError] if whole == beside else []):
            one, _ = measure_point(loaded, timed, point, lambda prompt: {})
        if not one:
            one, _ = measure_point(loaded, reducers, point, lambda prompt: {})
        for label, measurements in found.items():
            ratios = speed_ups(one[whole].runs, one[label].runs, point.new_tokens) if whole in one else None
            measurements.append(replace(one[label].measurement, speed_ups=ratios))
    return {label: Profile(label, tuple(measurements)) for label, measurements in found.items()}


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
    reducers: Mapping[str, Reducer], point: Point, recorder: Recorder | None, backbone: Backbone
) -> dict[str, Way]:
    """Every method eagerly and, with a recorder, also by graphs if it can be captured."""
    found = {label: _way(reducer, backbone) for label, reducer in reducers.items()}
    for label, way in [*found.items()] if recorder else ():
        if way.reducer.capturable:
            # All prompts have the same length, so a bucket of one token adds no padding. Two graphs: the whole forward
            # and, for the prefill, the same without the tower.
            graphs = Graphs(recorder, bucket=1, room=point.new_tokens, limit=2)
            found[label + CAPTURED] = replace(way, graphs=graphs)
    return found


def _way(reducer: Reducer, backbone: Backbone) -> Way:
    if not (reducer.shrinks and backbone.token_side):
        return Way(reducer)
    rows, columns = reducer.smaller(*backbone.pixel_grid, backbone.geometry)
    return Way(build("vanilla"), tokens=rows * columns)


@torch.inference_mode()
def measure_point(
    loaded: Any,
    reducers: Mapping[str, Reducer],
    point: Point,
    probes: Probes,
    recorder: Recorder | None = None,
    *,
    energy: bool = False,
) -> tuple[dict[str, Timed], dict[str, list[float]]]:
    """Time each method at one point, and take tokens, operations and bytes from the same runs.

    Each round runs every method once, in an order of its own: what ran before, and for how long a processor has been
    busy, changes a time by some percent. The first `point.warmup` rounds do not count. A run is one forward with the
    images (time to first token: vision tower, projector, decoder, LM head), the vision tower and projector alone, one
    forward with the images' features precomputed (prefill: decoder and LM head), and `point.new_tokens` single-token
    forwards. In a graph the tower cannot be timed apart. `probes` are timed in the same rounds, and their milliseconds
    are returned by name. With a `recorder`, each method that can be captured runs a second time in each round, by
    graphs, and the label of this run ends in CAPTURED. With `energy` the joules of each method are measured after the
    rounds, where that is possible; it takes a second each.

    Raises RuntimeError if the real KV cache has another size than the method's plan (TraceMismatch if the token counts
    already differ).
    """
    model, geometry = loaded.model, loaded.geometry
    prompt = build_request(model, geometry, point)
    run = ways(reducers, point, recorder, backbone_of(model))
    requests = {
        label: build_request(model, geometry, point, way.tokens) if way.tokens else prompt for label, way in run.items()
    }
    runs: dict[str, list[Run]] = {label: [] for label in run}
    features = _features(model, {label: way.reducer for label, way in run.items()}, requests)
    for label, way in run.items():
        if way.graphs:
            _time_once(model, way, requests[label], features[label])  # captures
    others = probes(prompt)
    beside: dict[str, list[float]] = {name: [] for name in others}
    clock, order = Clock(model.device), Random(point.seed)
    turns = [*((label, True) for label in run), *((name, False) for name in others)]
    with no_collector():
        for round_ in range(point.warmup + point.repeats):
            order.shuffle(turns)
            for name, of_method in turns:
                if of_method:
                    taken = _time_once(model, run[name], requests[name], features[name])
                    if round_ >= point.warmup:
                        runs[name].append(taken)
                    continue
                marks = [clock.start()]
                others[name]()
                marks.append(clock.mark())
                if round_ >= point.warmup:
                    beside[name] += clock.between(marks)
    features.clear()  # not part of any method's peak memory, and neither is the other timed work
    others = {}
    found: dict[str, Timed] = {}
    for label in sorted(run, key=lambda label: run[label].graphs is None):
        # Captured methods first. Their graphs are freed one by one, so that an eager method's peak is its own.
        way = run.pop(label)
        facts, used = _facts(model, geometry, way, requests[label], point, label, energy)
        found[label] = Timed(_measurement(point, runs[label], facts), tuple(runs[label]), used)
        del way
    return {label: found[label] for label in runs}, beside


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


def _time_once(model: Any, way: Way, prompt: SyntheticRequest, features: RecordedFeatures) -> Run:
    """One run of one method."""
    clock, vision = Clock(model.device), None
    with reduce(model, way.reducer, graphs=way.graphs) as reduction:
        marks = [clock.start()]
        model(**prompt.prefill_inputs())
        marks.append(clock.mark())
        (ttft,) = clock.between(marks)
        if not way.graphs:
            vision = _time_vision(reduction, prompt, clock)

    cuts: list[TimedCut] = []
    with reduce(model, way.reducer, features=features, graphs=way.graphs) as reduction:
        # While a graph is captured nothing can be timed, and its replays make no cuts one could mark.
        with nullcontext() if way.graphs else _marked(reduction.decoder, clock, cuts):
            marks = [clock.start()]
            cache = cache_of(model(**prompt.prefill_inputs()))
            marks.append(clock.mark())
            (prefill,) = clock.between(marks)
        selection = sum(cut.milliseconds(clock) for cut in cuts)

        marks = [clock.start()]
        for step in range(prompt.continuation_BN.shape[1]):
            model(**prompt.decode_inputs(step, cache))
            marks.append(clock.mark())
        decode = tuple(clock.between(marks))
    return Run(ttft, prefill, selection, decode, vision)


def _time_vision(reduction: Reduction, prompt: SyntheticRequest, clock: Clock) -> float:
    """Milliseconds of vision tower and projector alone, as the method uses them."""
    marks = [clock.start()]
    vision = reduction.backbone.vision(prompt.images)
    assert vision is not None
    reduction.reducer.encode(vision)
    marks.append(clock.mark())
    (taken,) = clock.between(marks)
    return taken


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


def _facts(
    model: Any, geometry: Geometry, way: Way, prompt: SyntheticRequest, point: Point, label: str, energy: bool
) -> tuple[dict[str, Any], float | None]:
    """Everything except times: counted tokens, operations, bytes, and joules. Runs again, outside the timings."""
    reducer = way.reducer
    with reduce(model, reducer, graphs=way.graphs) as reduction:

        def request() -> None:
            cache = cache_of(model(**prompt.prefill_inputs()))
            for step in range(point.new_tokens):
                model(**prompt.decode_inputs(step, cache))

        peak = peak_bytes(model, request)
        used = joules(model.device, request) if energy else None
        cache = cache_of(model(**prompt.prefill_inputs()))
        realised = TokenPlan(geometry, tuple(reduction.trace.entering))
        held, batch = kv_bytes(cache), len(prompt.input_ids_BS)
    plan = realised if reducer.adaptive else reducer.plan(geometry, prompt.visual_tokens)
    planned = batch * plan.kv_bytes(point.text_tokens, model.dtype.itemsize)
    if held != planned:
        raise RuntimeError(f"{label}: the KV cache holds {held} bytes after the prefill, the plan says {planned}")
    facts = {
        "entering": realised.entering,
        "flops": realised.flops(point.text_tokens),
        "paper_macs": realised.paper_macs(),
        "kv_bytes": held // batch,
        "peak_bytes": peak,
    }
    return facts, used


def _measurement(point: Point, runs: Sequence[Run], facts: dict[str, Any]) -> Measurement:
    vision = [run.vision for run in runs if run.vision is not None]
    return Measurement(
        batch=point.batch,
        text_tokens=point.text_tokens,
        new_tokens=point.new_tokens,
        repeats=point.repeats,
        ttft_ms=Spread.of([run.ttft for run in runs]),
        prefill_ms=Spread.of([run.prefill for run in runs]),
        prefill_source="features",
        selection_ms=Spread.of([run.selection for run in runs]),
        decode_ms=Spread.of([step for run in runs for step in run.decode]),
        vision_ms=Spread.of(vision) if vision else None,
        **facts,
    )
