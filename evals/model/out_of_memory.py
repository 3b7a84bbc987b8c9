"""Words for a batch that does not fit into memory, with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hidrop.errors import UserError

# torch has a type of its own for CUDA only.
ON_CPU = "can't allocate memory"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on a CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or ON_CPU in str(error)


@contextmanager
def out_of_memory_told(batch_size: int) -> Iterator[None]:
    """Raises UserError in the place of torch's error for a batch of `batch_size` samples that does not fit."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        way = (
            f"state a smaller one, such as batch_size: {batch_size // 2}. Cells with another one then run again"
            if batch_size > 1
            else "one sample alone does not fit: use dtype: float16 or bfloat16, quantization, device_map: auto, or a "
            "smaller max_pixels where images have their own numbers of tokens"
        )
        raise UserError(f"out of memory with batch_size {batch_size}: {way}") from error
