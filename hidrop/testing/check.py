"""`check_method`: every property that hidrop asks of a method, on tiny random models of every family."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from hidrop.backbones import BACKBONES, backbone_of
from hidrop.budget import Budget
from hidrop.errors import did_you_mean, reason
from hidrop.reducer import Reducer
from hidrop.runtime import reduce
from hidrop.testing import batches, budgets, capture, decoding, definition, devices, half, precision, scores, slow_rule
from hidrop.testing.case import Case, model_of
from hidrop.testing.definition import Definition
from hidrop.testing.properties import Property, in_library, place_of, raised
from hidrop.testing.report import Failure, MethodError, Outcome, Report
from hidrop.testing.slow_rule import SlowRule

RUNS = "runs"
RUNS_RULE = "a prompt with one image and one with two run through the model"
RUNS_FIX = "correct the error. A family that the method cannot work on is refused in words: `Reducer.refuses(family)`"
PROPERTIES: tuple[Property[Case], ...] = (
    *batches.PROPERTIES,
    *decoding.PROPERTIES,
    *scores.PROPERTIES,
    *precision.PROPERTIES,
    *half.PROPERTIES,
    *devices.PROPERTIES,
    *capture.PROPERTIES,
)
REFUSING = ("refuses", "on", "check_backbone", "check_files")  # where a method refuses a model on purpose
AT_THE_END = ("plan = counted", "nothing in place")  # tried again there: what happened in between has changed nothing


def check_method(
    method: Reducer,
    *,
    slow: SlowRule | None = None,
    families: Sequence[str] | None = None,
    budgets: Sequence[Budget] | None = None,
) -> Report:
    """Try every property of a method. Returns a report, whose `str()` is a table.

    method: an object whose fields fit a decoder of 6 layers and images of 16 visual tokens, such as MyMethod(layer=2,
    keep=5). In families whose images have their own number of tokens, counts are of an image of 16.
    slow: the method a second time, in plain Python: see `hidrop.testing.slow_rule`.
    families: model types, such as ("llava", "qwen2_vl"); by default all of them. A family that the method refuses in
    words (`Reducer.refuses`, or a ValueError of `reduce`) is reported as refused; with a note if its schedule raises.
    budgets: numbers of tokens of an image of 576, or shares such as "11%", that `for_budget` is asked for.

    Raises MethodError with all failures, each with what was seen, the rule and what to do; TypeError for something that
    is not a method; ValueError for an unknown family. The state of torch's and Python's random generators is restored.
    """
    __tracebackhide__ = True  # pytest: the list of failures says it all
    if not isinstance(method, Reducer):
        found = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
        raise TypeError(f"check_method: an object such as MyMethod(keep=5) was expected, not {found}")
    if method.composed:
        raise TypeError(f"check_method: a {method.name} is made of other methods: check each of them")
    names = list(BACKBONES) if families is None else [families] if isinstance(families, str) else list(families)
    if not names:
        raise ValueError(f"families: name at least one. Known: {', '.join(BACKBONES)}")
    for name in names:
        if name not in BACKBONES:
            raise ValueError(
                f"families: unknown family '{name}'.{did_you_mean(name, BACKBONES)} Known: {', '.join(BACKBONES)}"
            )
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            report = _report(method, names, slow, budgets)
        finally:
            random.setstate(state)
    if report.failures:
        raise MethodError(report)
    return report


def _report(method: Reducer, names: Sequence[str], slow: SlowRule | None, asked: Sequence[Budget] | None) -> Report:
    extra = [] if slow is None else [slow_rule.property_of(slow)]
    model = model_of("llava")
    it = Definition(method, backbone_of(model).geometry)
    alone = (*definition.PROPERTIES, budgets.property_of(asked))
    outcomes = [one.tried(it) for one in alone]
    broken = next((one for one in outcomes if one.property == "schedule" and one.status == "failed"), None)
    if broken is None:
        for name in names:
            outcomes += _on_family(method, name, extra)
        if all(one.status == "refused" for one in outcomes if one.family):
            outcomes.append(Outcome(RUNS, "", "failed", f"every family is refused: {', '.join(names)}"))
    properties = {one.name: (one.rule, one.fix) for one in alone}
    properties |= {one.name: (one.rule, one.fix) for one in (*PROPERTIES, *extra)}
    title = f"{type(method).__name__} ({getattr(method, 'name', 'without a name')})"
    return Report(title, tuple(outcomes), tuple(_failures(outcomes, properties)))


def _on_family(method: Reducer, name: str, extra: Sequence[Property[Case]]) -> Iterator[Outcome]:
    """The outcomes on one family: refused, or every property."""
    start, model = time.perf_counter(), model_of(name)
    if (why := method.refuses(type(backbone_of(model)))) is not None:
        yield Outcome(RUNS, name, "refused", why)
        return
    try:
        case = Case(method, name, model)
        with reduce(model, method, reference_tokens=case.reference):
            pass
    except ValueError as error:
        yield Outcome(RUNS, name, "refused", reason(error) + unintended(error))
        return
    except Exception as error:
        yield Outcome(RUNS, name, "failed", raised(error))
        return
    try:
        for row in case.rows[:2]:
            case.run(case.batch([row]))
    except Exception as error:
        yield Outcome(RUNS, name, "failed", raised(error), time.perf_counter() - start)
        return
    yield Outcome(RUNS, name, "ok", "", time.perf_counter() - start)
    for one in (*PROPERTIES, *extra):
        yield one.tried(case, name)
    for one in PROPERTIES:
        if one.name in AT_THE_END and (again := one.tried(case, name)).status == "failed":
            yield again


def unintended(error: ValueError) -> str:
    """A warning for an error that a method's schedule raises, say, which may be a mistake and not a refusal."""
    frames = traceback.extract_tb(error.__traceback__)
    place = place_of(frames)
    meant = any(frame.name in REFUSING and not in_library(Path(frame.filename)) for frame in frames)
    return f" (ValueError{place}: check that this is meant)" if place and not meant else ""


def _failures(outcomes: Sequence[Outcome], properties: dict[str, tuple[str, str]]) -> Iterator[Failure]:
    """The failures, those of several families with the same words as one."""
    where: dict[tuple[str, str], list[str]] = {}
    for one in outcomes:
        if one.status == "failed":
            where.setdefault((one.property, one.why), []).append(one.family)
    for (name, why), families in where.items():
        rule, fix = properties.get(name, (RUNS_RULE, RUNS_FIX))
        yield Failure(name, tuple(dict.fromkeys(families)), why, rule, fix)
