"""A model whose layers are spread over devices (accelerate's device_map), tried with tensors that only have shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from hidrop.backbones import backbone_of
from hidrop.runtime import reduce
from hidrop.runtime.decoder import Decoder
from tests.hidrop.runtime.test_capturable import STATIC, changed, reducer_of

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


class WithoutCuda(TorchFunctionMode):
    """What torch's CPU build refuses on a CUDA device, even without data, is done on the CPU (all on one device)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "not linked with support for cuda" not in str(error):
                raise
        (device,) = {one.device for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}

        def there(value: Any) -> Any:
            return value.cpu() if isinstance(value, torch.Tensor) else value

        def back(value: Any) -> Any:
            return value.to(device) if isinstance(value, torch.Tensor) else value

        return tree_map(back, func(*tree_map(there, args), **tree_map(there, kwargs)))


def spread(decoder: Any, mode: FakeTensorMode) -> None:
    """Put the decoder's later layers and its norm on the second device, hooked as accelerate does it."""
    half = len(decoder.layers) // 2
    for name, module in decoder.named_modules():
        parts = name.split(".")
        later = name == "norm" or (parts[0] == "layers" and len(parts) > 1 and int(parts[1]) >= half)
        device = SECOND if later else FIRST
        for own in (module._parameters, module._buffers):
            for key, tensor in own.items():
                if tensor is not None:
                    moved = mode.from_tensor(tensor.detach()).to(device)
                    own[key] = torch.nn.Parameter(moved, requires_grad=False) if own is module._parameters else moved
        if name and name != "layers":
            add_hook_to_module(module, AlignDevicesHook(execution_device=device))


@pytest.mark.parametrize("row", STATIC)
def test_prefill_and_decoding_go_through_layers_on_several_devices(row, tiny_llava, prompt, pixels, padded):
    model, reducer = tiny_llava(), reducer_of(row)
    inputs = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
    inputs["pixel_values"] = torch.cat([pixels(seed=1), pixels(seed=2)])
    arguments: list[Any] = []
    with reduce(model, reducer) as reduction, torch.no_grad():
        inner = reduction.decoder.prefill
        reduction.decoder.prefill = lambda *args: arguments.append(args) or inner(*args)
        model(**inputs)
    decoder = Decoder(backbone_of(copy.deepcopy(model)), reduction.reducer)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, WithoutCuda(), torch.no_grad():
        spread(decoder.model, mode)
        empty = changed(lambda tensor: mode.from_tensor(tensor).to(FIRST), arguments[0])
        cache = empty[4]
        sequence, _ = decoder.prefill(*empty)
        devices = [layer.keys.device for layer in cache.layers]
        assert devices == [FIRST] * 3 + [SECOND] * 3
        assert sequence.hidden.device == sequence.order.device == FIRST
        cache.input_length = inputs["input_ids"].shape[1]
        step = decoder.step(torch.zeros(2, 1, 32, device=FIRST), None, cache)
        assert step.shape == (2, 1, 32)


@pytest.mark.parametrize("row", ["vanilla", "hidrop", "fastv", "pdrop", "sparsevlm", "visionzip"])
def test_weights_that_come_from_the_disk_for_each_module_give_the_same(row, tiny_llava, prompt, pixels, tmp_path):
    model, inputs = tiny_llava(), {"input_ids": prompt(), "pixel_values": pixels()}
    with reduce(model, reducer_of(row)), torch.no_grad():
        here = model(**inputs).logits
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"), offload_buffers=True)
    assert {p.device.type for p in model.model.language_model.parameters()} == {"meta"}
    with reduce(model, reducer_of(row)), torch.no_grad():
        assert torch.equal(model(**inputs).logits, here)


def test_the_check_finds_a_tensor_on_the_wrong_device():
    with FakeTensorMode(), WithoutCuda(), pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=FIRST) + torch.ones(2, device=SECOND)
