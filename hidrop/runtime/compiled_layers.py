"""The small operations between a layer's matrix products, compiled into few kernels: norms and MLPs."""

from __future__ import annotations

from typing import Any


def fuse(decoder: Any, backend: str = "inductor") -> None:
    """Compile norms and MLPs of a decoder's layers, in place, for any number of tokens and without graph breaks.

    What is done is done for transformers' own forward and for every method alike. Attention stays torch's kernel. The
    first forwards take seconds longer. Numbers may differ in their last bits.
    """
    for layer in decoder.layers:
        for module in (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp):
            module.compile(backend=backend, dynamic=True, fullgraph=True)
    decoder.norm.compile(backend=backend, dynamic=True, fullgraph=True)
