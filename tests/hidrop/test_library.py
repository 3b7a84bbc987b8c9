"""hidrop as a library: what `from hidrop import ...` gives, and `reduce` with and without a block."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch

import hidrop
from baselines.fastv import FastV
from hidrop import Reducer, build, load, reduce, solve
from hidrop.reducer import BudgetError
from hidrop.runtime import TraceMismatch


@pytest.fixture
def inputs(prompt: Any, pixels: Any) -> dict[str, torch.Tensor]:
    return {"input_ids": prompt(3, 6), "pixel_values": pixels()}


def test_everything_that_is_promised_can_be_imported() -> None:
    assert set(hidrop.__all__) == {"load", "reduce", "build", "solve", "Reducer"}
    assert all(callable(getattr(hidrop, name)) for name in hidrop.__all__)
    assert set(hidrop.__all__) <= set(dir(hidrop))
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", hidrop.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'reduced'"):
        _ = hidrop.reduced
    assert issubclass(FastV, Reducer) and callable(load)


def test_importing_hidrop_loads_no_heavy_library() -> None:
    code = "import sys, hidrop; print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_method_by_name_with_its_fields(tiny_llava: Any, inputs: Any) -> None:
    model = tiny_llava()
    with torch.no_grad():
        with reduce(model, build("fastv", {"keep": 5})):
            wanted = model(**inputs).logits
        with reduce(model, "fastv", keep=5) as reduction:
            assert torch.equal(model(**inputs).logits, wanted)
    assert reduction.reducer == FastV(keep=5)


@pytest.mark.parametrize(("budget", "average"), [(8, 8.0), ("50%", 8.0), ("8", 8.0)])
def test_a_budget_is_solved_for_the_models_own_sizes(budget: Any, average: float, tiny_llava: Any) -> None:
    model = tiny_llava()
    with reduce(model, "fastv", budget=budget, layer=1) as reduction:
        assert reduction.plan.average_tokens == pytest.approx(average, abs=0.5)
        assert reduction.reducer == solve("fastv", {"layer": 1}, average, reduction.geometry)


def test_a_budget_can_mean_what_is_left_after_the_last_cut(tiny_llava: Any) -> None:
    with reduce(tiny_llava(), "pdrop", budget=3, reading="kept") as reduction:
        assert reduction.plan.kept == 3


def test_without_a_block_the_model_stays_reduced_until_remove(tiny_llava: Any, inputs: Any) -> None:
    model = tiny_llava()
    before = dict(model.__dict__)
    with torch.no_grad():
        whole = model(**inputs).logits
        reduction = reduce(model, "text_only")
        blind = model(**inputs, logits_to_keep=1).logits
        assert reduction.trace.entering == (0,) * 6
        assert not torch.equal(blind[:, -1], whole[:, -1])
        reduction.remove()
        assert torch.equal(model(**inputs).logits, whole)
    assert dict(model.__dict__) == before
    reduction.remove()  # a second time does nothing
    with pytest.raises(RuntimeError, match="was removed: call reduce"), reduction:
        pass


def test_remove_compares_what_ran_with_the_plan(tiny_llava: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from hidrop.runtime.decoder import Decoder

    model = tiny_llava()
    reduction = reduce(model, "fastv", keep=5)
    monkeypatch.setattr(Decoder, "_cut", lambda self, sequence, before, plan, *more: (sequence, plan))
    with torch.no_grad():
        model(**inputs)
    with pytest.raises(TraceMismatch):
        reduction.remove()
    assert "forward" not in model.__dict__


def test_a_block_that_fails_leaves_the_model_as_it_was_and_shows_its_own_error(tiny_llava: Any, inputs: Any) -> None:
    model = tiny_llava()
    with pytest.raises(ZeroDivisionError), reduce(model, "fastv", keep=5):
        model(**inputs)
        _ = 1 / 0
    assert "forward" not in model.__dict__


def test_its_repr_says_what_it_does(tiny_llava: Any) -> None:
    reduction = reduce(tiny_llava(), "fastv", keep=4, layer=3)
    assert repr(reduction) == (
        "<Reduction of LlavaForConditionalGeneration by FastV(keep=4, layer=3, query='last', rechosen=False): "
        "10 of 16 visual tokens a layer on average>"
    )
    reduction.remove()
    assert repr(reduction).endswith("on average, removed>")


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("fastw", {}, ValueError, "unknown method 'fastw'. Did you mean 'fastv'?"),
        ("fastv", {"kep": 5}, ValueError, "kep: unknown field of fastv. Did you mean 'keep'?"),
        ("fastv", {"keep": "twenty"}, ValueError, "fastv: keep: input should be a valid integer, not 'twenty'"),
        ("fastv", {"keep": 5, "layer": 2.5}, ValueError, "fastv: layer: input should be a valid integer.*not 2.5"),
        ("fastv", {"budget": "many"}, ValueError, "a budget is a number of visual tokens .* not 'many'"),
        ("fastv", {}, ValueError, "^fastv: keep missing$"),
        (
            "fastv",
            {"keep": 5, "budget": 10},
            ValueError,
            "fastv: keep: the budget makes it 7, not 5; give one of the two",
        ),
        ("fastv", {"budget": 10, "reading": "keptt"}, ValueError, "reading: 'keptt' is not one of 'average', 'kept'"),
        ("fastv", {"keep": 5, "reading": "kept"}, TypeError, "reading: 'kept' says what a budget means; give a budget"),
        ("fastv", {"budget": 1}, BudgetError, "fastv: an average of 1 visual tokens is out of reach"),
        (FastV(5), {"budget": 8}, TypeError, "budget: goes with a method's name; FastV.* has all its fields already"),
        (FastV(5), {"layer": 3}, TypeError, "layer: goes with a method's name"),
        (FastV, {}, TypeError, "a name such as 'fastv', was expected, not the class FastV"),
        (64, {}, TypeError, "was expected, not 64"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(
    method: Any, options: dict[str, Any], error: type[Exception], message: str, tiny_llava: Any
) -> None:
    model = tiny_llava()
    with pytest.raises(error, match=message):
        reduce(model, method, **options)
    assert "forward" not in model.__dict__


def test_something_around_the_model_is_refused_with_the_way_to_the_model() -> None:
    with pytest.raises(TypeError, match="Loaded is not a model.* Give it the model itself: its attribute `model`"):
        reduce(load("mini:vanilla"), "fastv", keep=5)  # type: ignore[arg-type]
