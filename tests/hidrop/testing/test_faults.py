"""Every planted fault is found, under the property that it breaks, in words that name it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from hidrop.reducer import Reducer
from hidrop.testing import MethodError, check_method
from tests.hidrop.testing import faulty

# Class -> the property that it breaks, and what the message says of it.
FAULTS: dict[str, tuple[str, str]] = {
    "WrongShape": ("runs", r"score gave \(1, 15\) for \(1, 16\) visual slots"),
    "WrongType": ("scores", "score is float16, not float32"),
    "NotANumber": ("scores", r"score after layer 2 has NaN at \d+ tokens"),
    "HostRead": ("no wait", r"\.item\(\) at faulty\.py:\d+ \(in score\)"),
    "HostList": ("no wait", r"\.tolist\(\) at faulty\.py:\d+ \(in score\)"),
    "BooleanIndex": ("no wait", r"a boolean mask as an index \(x\[mask\]\) at faulty\.py:\d+"),
    "OtherRows": ("no other rows", "of one row change with what is in another row"),
    "RowNumber": ("row order", r"a prompt keeps \[.*\] as row 1 and \[.*\] as row 0"),
    "Fillers": ("no fillers", "change with what is in filler slots"),
    "InfiniteOtherRows": ("no other rows", "of one row change with what is in another row"),
    "InfiniteFillers": ("no fillers", "change with what is in filler slots"),
    "InfiniteCancelling": ("float32 = float64", r"it keeps \[.*\], and in float64 \["),
    "NoDevice": (
        "device",
        r"torch\.arange is called without a device, and meets a tensor of the model's at faulty\.py:\d+ \(in score\)",
    ),
    "NoDeviceInPrepare": ("device", r"torch\.ones is called without .* at faulty\.py:\d+ \(in score\)"),
    "NoDeviceAtAll": ("device", "torch.arange is called without a device in what score gives"),
    "NoDeviceInChoose": ("device", r"torch\.zeros is called without .* at faulty\.py:\d+ \(in choose\)"),
    "NoDeviceInMerge": ("device", r"torch\.ones is called without .* at faulty\.py:\d+ \(in dropped\)"),
    "ModelsType": ("bfloat16", "score after layer 2 is bfloat16 on a bfloat16 model, where many tokens then score"),
    "OnlyFloat32": ("bfloat16", r"RuntimeError: .*BFloat16.* at faulty\.py:\d+ \(in score\)"),
    "Dice": ("repeatable", "two calls of score for one view"),
    "InPlace": ("nothing in place", r"changed view\.hidden_BND in place"),
    "OtherWeights": ("nothing in place", "the model's weight .*input_layernorm.weight has changed"),
    "Cancelling": ("float32 = float64", r"it keeps \[.*\], and in float64 \["),
    "Chaotic": ("rounding", "states that differ by 1e-06 move most scores after layer 2 by"),
    "Answers": ("answers are not read", r"with an answer after the question it keeps \[.*\], and without \["),
    "Attached": ("gradients", "scores have a gradient to the decoder's states"),
    "OneFamily": ("runs", r"RuntimeError: .*32.* at faulty\.py:\d+ \(in score\)"),
    "Counter": ("replay", "the operations of score for one batch, run on another"),
    "Remembers": ("row order", r"a prompt keeps \[.*\] as row"),
    "CountedPlan": ("schedule", "two calls for the same geometry gave two schedules"),
    "PlanOfState": ("plan = counted", r"schedule gave Schedule\(.*keep=5.* before, and Schedule\(.*keep=4.* now"),
    "TooMany": (
        "plan = counted",
        r"1 images: \[16, 16, 6, 6, 6, 6\] visual tokens entered the layers, planned \[16, 16, 5",
    ),
    "CountingPrepare": ("replay", "the operations of prepare for one batch, run on another"),
    "PlanOfTensors": ("schedule", r"schedule calls torch \(tensor\)"),
    "TooDeep": ("schedule", "cut after layer 12: visual tokens are there in layers 1..6 only"),
    "MissedBudget": ("budget", r"tokens became [\d.]+, and [\d.]+ is possible"),
    "OneBudget": ("budget", "the nearest that it gives, without a BudgetError"),
    "IgnoredField": ("budget", "for_budget was given layer=3, and every method that it gives has layer=2"),
    "SolvedForAnother": ("budget", "for_budget was given layer=3, and every method that it gives has layer=2"),
    "UnknownField": ("published", r"published\['64'\]: kep: unknown field of faulty-UnknownField. Did you mean 'keep'"),
    "WrongValue": ("published", r"published\['99'\]: faulty-WrongValue: keep: .*, not 'many'"),
    "NoSuchLayer": ("published", r"published\['99'\]: cut after layer 32"),
    "NeedsAnImage": ("no image", r"at faulty\.py:\d+ \(in prepare\)"),
    "ChangesThePrompt": ("nothing in place", r"prepare changed prompt\.text_BTD in place"),
    "MergedAtFillers": ("merged tokens", "some slots hold no token of this row"),
    "MergedAtOnePlace": ("merged tokens", "two merged tokens at one place"),
    "MergedFillers": ("merged tokens", "have a weight of a filler slot"),
    "NoDataclass": ("dataclass", r"NoDataclass has no @dataclass\(frozen=True\) of its own"),
    "TakenName": ("name", "'fastv' is the name of one of hidrop's own methods, FastV"),
    "NoType": ("dataclass", r"`share = 0.5` has no type"),
    "ListField": ("dataclass", "unhashable type: 'list'"),
    "NoCounts": (
        "counts",
        r"counts does not name `keep`, but the schedule leaves \[5\] tokens of an image of any size",
    ),
    "OneCountUnnamed": ("counts", r"counts does not name `more`, but the schedule leaves \[7\] tokens"),
    "Nowhere": ("runs", "every family is refused: llava"),
}


FIELDS: dict[str, dict[str, Any]] = {"IgnoredField": {"layer": 3}, "SolvedForAnother": {"layer": 3}}


def instance(name: str) -> Reducer:
    """The fault alone: a class without a dataclass and a name of its own gets them here."""
    cls: Any = getattr(faulty, name)
    if "name" not in vars(cls) and name != "NoDataclass":
        cls = dataclass(frozen=True)(type(name, (cls,), {"name": f"faulty-{name}", "__module__": cls.__module__}))
    return cls(**FIELDS.get(name, {}))


def failures_of(method: Reducer, families: tuple[str, ...] = ("llava",)) -> dict[str, str]:
    with pytest.raises(MethodError) as caught:
        check_method(method, families=families)
    return {one.property: one.seen for one in caught.value.report.failures}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(name: str) -> None:
    property_, words = FAULTS[name]
    families = ("llava", "qwen2_vl") if name == "OneFamily" else ("llava",)
    found = failures_of(instance(name), families)
    assert property_ in found, found
    assert re.search(words, found[property_]), found[property_]


def test_every_faulty_method_is_in_the_table() -> None:
    classes = [name for name, one in vars(faulty).items() if isinstance(one, type) and issubclass(one, faulty.Good)]
    assert {*classes} - {"Good", "GoodMerge"} == {*FAULTS}


@pytest.mark.parametrize("method", [faulty.Good(), faulty.GoodMerge()])
def test_the_methods_without_a_fault_pass(method: Reducer) -> None:
    assert check_method(method, families=("llava", "qwen3_vl")).ok
