"""What a bench says in words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from evals.bench.answer import answers, savings, verdict
from evals.report.units import ratio
from tests.evals.bench.rates import FASTV, VANILLA, rates, timed


def row_with(ttft: float, tpot: float, new: tuple[int, ...], spread: float = 0.0) -> tuple[Any, Any]:
    """FastV with these times next to vanilla's 60 and 6 ms; `spread`: half of each interval."""
    of = rates(new=new)
    vanilla, row = of.row("vanilla", VANILLA, of.vanilla), of.row("fastv", FASTV, timed(40.0, (16, 16, 4, 4, 4, 4)))
    row["ttft_ms"]["p50"], row["tpot_ms"]["p50"] = ttft, tpot

    def interval(value: float) -> dict[str, float]:
        return {"ratio": value, "low": value - spread, "high": value + spread}

    row["speed_ups"] = {"prefill": interval(1.5), "ttft": interval(60 / ttft), "tpot": interval(6 / tpot)}
    for one in row["requests"]:
        more = one["new_tokens"] - 1
        one["speed_up"] = interval((60 + more * 6) / (ttft + more * tpot))
    return row, vanilla


@pytest.mark.parametrize(
    ("ttft", "tpot", "new", "words"),
    [
        (58, 6, (128,), "whole request 1.00x at 128 tokens: not worth it here."),
        (
            70,
            5,
            (11,),
            "whole request 1.00x at 11 tokens: not worth it at 11 tokens, only from 35 output tokens on; faster "
            "than vanilla from 11 output tokens on.",
        ),
        (40, 6, (128,), "whole request 1.02x at 128 tokens: not worth it at 128 tokens, only up to 27 output tokens."),
        (40, 6, (1, 128), "1.50x at 1 token, 1.02x at 128 tokens: worth it up to 27 output tokens."),
        (40, 6, (1, 16), "1.15x at 16 tokens: worth it (up to 27 output tokens)."),
        (40, 4, (64,), "whole request 1.50x at 64 tokens: worth it at every output length."),
        (40, 6, (), "prefill 1.50x, TTFT 1.50x: worth it up to 27 output tokens."),
    ],
)
def test_the_verdict_names_the_lengths(ttft: float, tpot: float, new: tuple[int, ...], words: str) -> None:
    assert verdict(*row_with(ttft, tpot, new)).endswith(words)


def test_a_gain_within_the_noise_is_no_gain() -> None:
    text = verdict(*row_with(50, 6, (4,), spread=0.3))
    assert "TTFT 1.20x (noise), whole request 1.15x (noise) at 4 tokens: no difference beyond the noise" in text
    assert ratio({"ratio": 1.2, "low": 1.1, "high": 1.3}, interval=True) == "1.20 ± 0.10x"
    assert ratio({"ratio": 1.0, "low": 1.0, "high": 1.0}, interval=True) == "1.00x"


def test_the_part_that_bounds_vanilla_is_named() -> None:
    row, vanilla = row_with(40, 6, (1, 11))
    *_, first, second = answers([vanilla, row])
    assert re.fullmatch(
        r"What takes most of vanilla's time: at 1 token overhead \(\d+ %\), at 11 tokens overhead .*", first
    )
    assert second.startswith("What takes most of fastv's time: ")
    row["repeats"] = vanilla["repeats"] = 1
    assert answers([vanilla, row])[-1].startswith("One round:")


def test_memory_and_throughput_are_told_next_to_vanillas() -> None:
    row, vanilla = row_with(40, 6, (1, 11))
    row |= {"largest_batch": 30, "peak_bytes": 3 << 20, "kv_bytes": 1 << 20}
    vanilla |= {"largest_batch": 10, "peak_bytes": 5 << 20, "kv_bytes": 4 << 20}
    assert savings(row, vanilla) == (
        "fastv: KV cache 1.0 of 4.0 MiB a request, peak 2 MiB lower, about 30 requests fit instead of 10, "
        "12.5 instead of 8.33 requests/s with 11 tokens, 138 output tokens/s."
    )
