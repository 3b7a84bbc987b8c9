"""How a model is computed: types of its numbers, attention kernels, quantisation, and how it is spread over devices.

Every command, matrix and recipe takes its words from here.
"""

from __future__ import annotations

from typing import Literal, get_args

# Types that a computation can run in, with the bytes of one number.
ELEMENT_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
ComputeDtype = Literal["float32", "float16", "bfloat16"]
# "auto" keeps the type that a checkpoint is stored in.
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
# Of the weights of the decoder's layers, by bitsandbytes.
Quantization = Literal["4bit", "8bit"]
# How accelerate spreads a model's layers over all CUDA devices.
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]
# Of a device, as a regular expression. Nothing is tested on others of torch's devices.
DEVICE = "cpu|cuda(:(0|[1-9][0-9]{0,2}))?"

COMPUTE_DTYPES: tuple[str, ...] = get_args(ComputeDtype)
DTYPES: tuple[str, ...] = get_args(Dtype)
ATTENTIONS: tuple[str, ...] = get_args(Attention)
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
DEVICE_MAPS: tuple[str, ...] = get_args(DeviceMap)


def element_bytes(dtype: str) -> int:
    """Bytes of one number of `dtype`; "auto" counts as half precision, which published checkpoints are stored in."""
    return ELEMENT_BYTES.get(dtype, 2)
