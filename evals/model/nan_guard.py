"""Logits that are no numbers: greedy decoding would take them for an answer."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor


class Watch(LogitsProcessor):
    """Looks at every step's logits, on the device, and changes nothing."""

    def __init__(self, device: torch.device) -> None:
        self._wrong = torch.zeros((), dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        # Minus infinity is what others forbid a token with.
        self._wrong |= (scores.isnan() | (scores == torch.inf)).any()
        return scores

    def check(self, dtype: str) -> None:
        """Raises FloatingPointError when logits were NaN or infinite."""
        if bool(self._wrong):
            raise FloatingPointError(
                f"the model's logits are NaN or infinite in {dtype}. Damaged weights, or too small a range: "
                "try dtype bfloat16 or float32"
            )
