"""What is told of a method without running it, compared with what really runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

from hidrop.backbones import BACKBONES, backbone_class
from hidrop.method_facts import Facts, as_yaml, facts, listed, type_text
from hidrop.methods import METHODS, build
from hidrop.runtime import reduce
from hidrop.strict_yaml import value
from tests.baselines.test_every_family import METHODS as ROWS
from tests.baselines.test_every_family import NOWHERE, REFUSED, stated
from tests.hidrop.backbones.families import model_of

# What is compared below, and what is made of other methods.
ELSEWHERE = {*NOWHERE, "stack"}


def test_a_method_refuses_the_families_that_it_does_not_run_on_and_no_others() -> None:
    """tests/baselines/test_every_family.py runs every other pair of a family and a method."""
    said = {(kind, name) for name in {*METHODS} - ELSEWHERE for kind in facts(name).refused}
    assert said == {(kind, ROWS[row][0]) for kind, row in REFUSED if ROWS[row][0] not in ELSEWHERE}
    assert all(set(facts(name).refused) == {*BACKBONES} - {"llava"} for name in NOWHERE - {"downsample"})
    for name in {*METHODS} - {"stack"}:
        one = facts(name)
        assert [*one.runs_on, *one.refused] and {*one.runs_on} | {*one.refused} == set(BACKBONES)


@pytest.mark.parametrize("kind", [kind for kind in BACKBONES if kind != "llava"])
def test_downsample_runs_where_it_says_so(kind: str) -> None:
    why = facts("downsample").refused.get(kind)
    with pytest.raises(ValueError, match="downsample: ") as caught:
        reduce(model_of(kind), build("downsample", {"side": 2}), **stated(kind))
    family = backbone_class(kind)
    assert family is not None
    # Qwen's processors are given a smaller image, which only an evaluation can do.
    in_a_matrix = "a matrix makes it smaller" in str(caught.value)
    assert str(caught.value).endswith(why) if why else in_a_matrix


def test_a_reason_does_not_repeat_the_family() -> None:
    for name in METHODS:
        for kind, why in facts(name).refused.items():
            family = backbone_class(kind)
            assert family is not None and not why.startswith(family.title)


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("vanilla", ("never",)),
        ("hidrop", ("late entry", "layers", "exit")),
        ("fastv", ("layers",)),
        ("pdrop", ("layers",)),
        ("sparsevlm", ("layers",)),
        ("divprune", ("input",)),
        ("visionzip", ("tower",)),
        ("downsample", ("tower",)),
        ("random", ("layers",)),
        ("uniform", ("input",)),
        ("text_only", ("input",)),
        ("vtw", ("exit",)),
        ("stack", ()),
    ],
)
def test_when_a_method_works_is_read_off_its_schedule(name: str, when: tuple[str, ...]) -> None:
    assert facts(name).when == when


def test_every_method_says_when_it_works_and_what_it_does() -> None:
    everything = [one for one in listed() if isinstance(one, Facts)]
    assert [one.name for one in everything] == [*METHODS]
    for one in everything:
        assert bool(one.when) != one.composed, one.name
        assert one.does[:1].isupper() and not one.does.endswith(".") and "arXiv" not in one.does
    assert facts("fastv").does == "One cut, after the first few layers"


def test_fields_have_their_types_and_defaults_as_yaml() -> None:
    found = {one.name: (one.type, one.default) for one in facts("hidrop").fields}
    assert found["inject"] == ("int", None)
    assert found["filters"] == ("list of int", None)
    assert found["query"] == ("last or text", "last")
    found = {one.name: (one.type, one.default) for one in facts("sparsevlm").fields}
    assert found["version"] == ('"1.0" or "1.5" or "2.0"', '"1.5"')
    assert found["label"] == ("int or null", "null")


def test_which_methods_take_a_budget() -> None:
    assert {name for name in METHODS if not facts(name).budget} == {"vanilla", "text_only"}


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (bool, "bool"),
        (tuple[float, float] | None, "list of 2 float or null"),
        (Annotated[tuple[Any, ...], "a check"], "list"),
        (Literal["a", "1.0"] | None, 'a or "1.0" or null'),
    ],
)
def test_types_are_words(hint: Any, text: str) -> None:
    assert type_text(hint) == text


@pytest.mark.parametrize("one", [None, True, 3, 0.5, "last", "1.5", "k2-50%", [9, 3], [None, 10, 5]])
def test_values_are_written_as_yaml_reads_them(one: Any) -> None:
    assert value(as_yaml(one), "a field") == one


def test_a_published_setting_has_the_plan_of_each_of_its_models() -> None:
    [setting] = [one for one in facts("pdrop").published if one.name == "default"]
    plans = {plan.model: (plan.average_tokens, plan.visual_tokens, plan.bound) for plan in setting.plans}
    assert plans["llava-1.5-7b"] == (270, 576, "") and plans["llava-next-7b"] == (1350, 2880, "")
    [setting] = [one for one in facts("feather").published if one.name == "released"]
    assert setting.plans[0].bound == "<="
