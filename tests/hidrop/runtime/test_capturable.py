"""A dry check that prefill and decoding can be captured as a graph: every shape is known without looking at data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from hidrop.methods import build
from hidrop.runtime import RaggedCache, reduce
from hidrop.runtime.tensor_tree import mapped
from tests.baselines.test_every_method import METHODS, reducer_of

STATIC = [row for row in METHODS if not reducer_of(row).adaptive]


def changed(change: Callable[[torch.Tensor], torch.Tensor], arguments: tuple[Any, ...]) -> list[Any]:
    """Arguments of a prefill with other tensors, and an empty cache of their own."""
    text, visual, layout, plan, cache, memory = arguments
    entering = mapped(change, visual())
    text, layout, plan, memory = mapped(change, (text, layout, plan, memory))
    return [text, lambda: entering, layout, plan, RaggedCache(cache._config), memory]


def dry_run(model: Any, reducer: Any, inputs: dict[str, torch.Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of what leaves prefill and a step of decoding, run without data; the cache lengths are compared."""
    with reduce(model, reducer) as reduction, torch.no_grad():
        inner, arguments = reduction.decoder.prefill, []
        reduction.decoder.prefill = lambda *args: arguments.append(args) or inner(*args)
        real = model(**inputs)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            empty = changed(mode.from_tensor, arguments[0])
            cache = empty[4]
            sequence, _ = inner(*empty)
            lengths = cache.lengths
            # Of the input's length a step needs nothing but the number.
            cache.input_length = inputs["input_ids"].shape[1]
            hidden = torch.zeros(inputs["input_ids"].shape[0], 1, model.config.text_config.hidden_size)
            step = reduction.decoder.step(hidden, None, cache)
        assert lengths == real.past_key_values.lengths
        return tuple(sequence.hidden.shape), tuple(step.shape)


@pytest.mark.parametrize("row", STATIC)
def test_the_loop_over_layers_never_waits_for_the_device(row, tiny_llava, prompt, pixels, padded):
    """One transfer per prefill, in laying out the batch; none in the loop, so that it can be captured as a graph."""
    from torch.utils._python_dispatch import TorchDispatchMode

    waiting: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func)
            bool_index = name.startswith("aten.index.") and any(
                i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
            )
            if bool_index or name.split(".")[1] in ("_local_scalar_dense", "nonzero", "masked_select", "unique"):
                waiting.append(name)
            return func(*args, **(kwargs or {}))

    model = tiny_llava()
    inputs = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2), prompt(1, 4, images=2, seed=3)])
    image = torch.cat([pixels(seed=1), pixels(2, seed=2), pixels(seed=3)])
    with reduce(model, reducer_of(row)) as reduction, torch.no_grad():
        inner = reduction.decoder.prefill

        def watched(*args: Any) -> Any:
            with Watch():
                return inner(*args)

        reduction.decoder.prefill = watched
        model(**inputs, pixel_values=image)
        assert waiting == []


@pytest.mark.parametrize("row", STATIC)
def test_every_shape_is_known_without_data(row, tiny_llava, prompt, pixels, padded):
    inputs = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2), prompt(1, 4, images=2, seed=3)])
    inputs["pixel_values"] = torch.cat([pixels(seed=1), pixels(2, seed=2), pixels(seed=3)])
    prefill, step = dry_run(tiny_llava(), reducer_of(row), inputs)
    assert (prefill[0], prefill[2]) == (3, 32)
    assert step == (3, 1, 32)


def test_the_check_finds_what_depends_on_data(tiny_llava, prompt, pixels):
    adaptive = build("sparsevlm", {"version": "1.0", "layers": [2], "scale": 60})
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        dry_run(tiny_llava(), adaptive, {"input_ids": prompt(), "pixel_values": pixels()})
