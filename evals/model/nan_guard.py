"""Detects NaN and infinite logits, which greedy decoding would turn into an answer without an error."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor


class Watch(LogitsProcessor):
    """Checks the logits of every step on the device, and changes nothing."""

    def __init__(self, device: torch.device) -> None:
        self._wrong = torch.zeros((), dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.see(scores)
        return scores

    def see(self, logits: torch.Tensor) -> None:
        """Check the logits of one step."""
        # Minus infinity is valid: other processors forbid a token with it.
        self._wrong |= (logits.isnan() | (logits == torch.inf)).any()

    def check(self, dtype: str) -> None:
        """Raises FloatingPointError if any logits were NaN or infinite."""
        if bool(self._wrong):
            raise FloatingPointError(
                f"the model's logits are NaN or infinite in {dtype}. The weights are damaged, or the range of the "
                "dtype is too small: try dtype bfloat16 or float32"
            )
