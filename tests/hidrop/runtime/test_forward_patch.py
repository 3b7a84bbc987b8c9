"""A reduced model in the hands of accelerate, which takes methods apart for mixed precision."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hidrop.backbones import backbone_of
from hidrop.runtime import reduce
from hidrop.runtime.forward_patch import bound
from tests.baselines.test_every_method import reducer_of


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """accelerate keeps one state for a process; other tests may have made one, and others come after this."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_mixed_precision_by_accelerate_runs_the_reduced_forward_and_leaves_it(
    tiny_llava: Any, prompt: Any, pixels: Any
) -> None:
    from accelerate import Accelerator

    model, inputs = tiny_llava(kv_heads=2), {"input_ids": prompt(3, 6), "pixel_values": pixels()}
    plain = model(**inputs).logits
    with torch.no_grad(), reduce(model, reducer_of("hidrop")) as reduction:
        wanted = model(**inputs, logits_to_keep=1).logits
        accelerator = Accelerator(mixed_precision="bf16", cpu=True)
        prepared = accelerator.prepare_model(model, evaluation_mode=True)
        made = prepared(**inputs, logits_to_keep=1).logits
        assert made.dtype == torch.float32 and not torch.equal(made, wanted)
        torch.testing.assert_close(made, wanted, atol=0.3, rtol=0.1)
        assert reduction.trace.entering == reduction.plan.entering
        with pytest.raises(RuntimeError, match="already reduced"), reduce(model, reducer_of("fastv")):
            pass
        again = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        assert torch.equal(again(**inputs, logits_to_keep=1).logits, wanted)
    assert torch.equal(model(**inputs).logits, plain)


def test_the_reduced_forward_has_the_signature_of_the_models_own(tiny_llava: Any) -> None:
    model = tiny_llava()
    own = inspect.signature(model.forward)
    refused = backbone_of(model).refused_inputs
    wanted = own.replace(parameters=[one for name, one in own.parameters.items() if name not in refused])
    with reduce(model, reducer_of("hidrop")):
        assert inspect.signature(model.forward) == wanted


def test_a_hidden_argument_keeps_its_place_and_is_not_in_the_signature() -> None:
    def forward(**given: int) -> dict[str, int]:
        return given

    own = inspect.signature(lambda first, second, third=3: None)
    method = bound(object(), forward, signature=own, hidden=("second",))
    assert list(inspect.signature(method).parameters) == ["first", "third"]
    assert method(1, 2, 4) == {"first": 1, "second": 2, "third": 4}


def test_arguments_by_place_mean_what_they_mean_to_the_model(tiny_llava: Any, prompt: Any, pixels: Any) -> None:
    model, ids, image = tiny_llava(kv_heads=2), prompt(3, 6), pixels()
    mask = torch.ones_like(ids)
    with torch.no_grad(), reduce(model, reducer_of("hidrop")):
        named = model(input_ids=ids, pixel_values=image, attention_mask=mask).logits
        assert torch.equal(model(ids, image, mask).logits, named)
