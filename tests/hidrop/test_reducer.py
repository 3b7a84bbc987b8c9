from __future__ import annotations

import dataclasses

import pytest

from hidrop.geometry import PRESETS
from hidrop.reducer import METHODS, Reducer, build, method_class
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


def test_lists_become_tuples():
    assert build("hidrop", SETTINGS["hidrop"]).filters == (3, 4)


def test_unknown_names_and_fields_are_pointed_out():
    with pytest.raises(ValueError, match="unknown method 'hidrp'. Did you mean 'hidrop'"):
        build("hidrp")
    with pytest.raises(ValueError, match="layr: unknown field of fastv. Did you mean 'layer'"):
        build("fastv", {"layr": 2})
    with pytest.raises(ValueError, match="^fastv: keep missing$"):
        build("fastv")
