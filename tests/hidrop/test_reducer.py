from __future__ import annotations

import dataclasses

import pytest
import torch

from hidrop.geometry import PRESETS
from hidrop.methods import METHODS, build, method_class
from hidrop.reducer import Mixture, Reducer
from tests.baselines.test_every_method import METHODS as ROWS

# The fields of each method's first row in the table.
SETTINGS = {name: params for name, params, _ in reversed(ROWS.values())}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_frozen_dataclass_that_knows_its_name(name):
    cls = method_class(name)
    assert cls.name == name
    assert issubclass(cls, Reducer)
    assert dataclasses.is_dataclass(cls)
    method = build(name, SETTINGS.get(name))
    hash(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.anything = 1


@pytest.mark.parametrize("name", METHODS)
def test_fields_survive_the_way_through_yaml(name):
    method = build(name, SETTINGS.get(name))
    assert build(name, dataclasses.asdict(method)) == method
    assert method.plan(PRESETS["llava-1.5-7b"]).average_tokens >= (0 if name == "text_only" else 1)


RENUMBERED = ["pdrop", "sparsevlm", "divprune", "pool", "visionzip", "downsample", "text_only"]
RENUMBERED += ["fastervlm", "vispruner", "holov", "prumerge", "cdpruner", "stack"]
LLAVA = PRESETS["llava-1.5-7b"]
THREE_AXES = dataclasses.replace(LLAVA, rope_axes=3)


@pytest.mark.parametrize("name", METHODS)
def test_positions_are_as_released_where_a_position_is_one_number_and_kept_with_three(name):
    method = build(name, SETTINGS.get(name))
    released = "compacted" if name in RENUMBERED else "persistent"
    assert method.on(LLAVA).positions == released
    assert method.on(THREE_AXES).positions == "persistent"
    assert method.on(LLAVA).on(LLAVA) == method.on(LLAVA)


@pytest.mark.parametrize(
    ("name", "scheme"), [*((name, "compacted") for name in RENUMBERED), ("hidrop", "compacted"), ("hidrop", "group")]
)
def test_positions_that_three_axes_do_not_have_are_refused_in_words(name, scheme):
    method = build(name, {**SETTINGS[name], "positions": scheme})
    assert method.on(LLAVA).positions == scheme
    with pytest.raises(ValueError, match=rf"^positions: {scheme} has no meaning where a position is 3 numbers .*leave"):
        method.on(THREE_AXES)


def test_a_mixture_is_the_weighted_sum_of_the_slots_that_it_names():
    states = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]])
    all_slots = Mixture(torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 3.0]]]), torch.tensor([[2.0, 3.0]]))
    assert all_slots.of(states).tolist() == [[[1.5, 15.0], [4.0, 40.0]]]
    some = Mixture(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[4.0]]), among_BC=torch.tensor([[2, 0]]))
    assert some.of(states.half()).tolist() == [[[1.75, 17.5]]]
    assert some.of(states.half()).dtype == torch.float16


def test_lists_become_tuples():
    assert build("hidrop", SETTINGS["hidrop"]).filters == (3, 4)


def test_unknown_names_and_fields_are_pointed_out():
    with pytest.raises(ValueError, match="unknown method 'hidrp'. Did you mean 'hidrop'"):
        build("hidrp")
    with pytest.raises(ValueError, match="layr: unknown field of fastv. Did you mean 'layer'"):
        build("fastv", {"layr": 2})
    with pytest.raises(ValueError, match="^fastv: keep missing$"):
        build("fastv")
