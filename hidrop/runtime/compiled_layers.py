"""The small operations between a layer's matrix products, compiled into few kernels: norms and MLPs."""

from __future__ import annotations

from typing import Any


def fuse(model: Any, backend: str = "inductor") -> None:
    """Compile norms and MLPs of the decoder's layers, in place, for any number of tokens and without graph breaks.

    What is done is done for transformers' own forward and for every method alike. Attention stays torch's kernel. The
    first forwards take seconds longer. Numbers may differ in their last bits.
    """
    for layer in model.model.language_model.layers:
        for module in (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp):
            module.compile(backend=backend, dynamic=True, fullgraph=True)
    model.model.language_model.norm.compile(backend=backend, dynamic=True, fullgraph=True)
