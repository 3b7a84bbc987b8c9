"""The matrix of tests that start whole runs: an embedded model on two of the embedded benchmarks, without timings."""

from __future__ import annotations


def small_matrix(limit: int, *more: str) -> str:
    """Its text. `more`: lines of further methods."""
    methods = "\n".join(f"  {line}" for line in ("vanilla: {}", "fastv: {layer: 1, keep: 9}", *more))
    return f"""
name: small
protocol: lmms-eval
dtype: float32
batch_size: 4
limit: {limit}
models: {{vanilla: {{source: "mini:vanilla"}}}}
methods:
{methods}
tasks: {{pope: {{data: mini}}, textvqa_val: {{data: mini}}}}
profile: null
"""
