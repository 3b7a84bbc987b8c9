"""The CUDA graphs of a model that is evaluated."""

from __future__ import annotations

from hidrop.runtime.cuda_graphs import Graphs

# Graphs that are kept. Batches are sorted by length, so that a shape of a cell does not come back, and each graph holds
# the keys and values of a whole batch (`evals.run.batch_sizes` counts them).
KEPT = 2


def graphs_on(device: str) -> Graphs:
    """Graphs for a model on one CUDA device. They are captured on torch's current device, which it becomes."""
    import torch

    torch.cuda.set_device(torch.device(device).index or 0)
    return Graphs(limit=KEPT)
