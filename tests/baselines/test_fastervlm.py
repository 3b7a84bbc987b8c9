"""FasterVLM's choice, which is all that is its own; the rest is in test_chosen.py."""

from __future__ import annotations

import torch

from baselines.fastervlm import FasterVLM


def test_equal_patches_go_by_their_places():
    seen = torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.1]])
    assert FasterVLM(4).selected(seen, torch.zeros(1, 5, 2), 4).tolist() == [[0, 1, 2, 3]]
    assert FasterVLM(1).selected(seen, torch.zeros(1, 5, 2), 1).tolist() == [[1]]
