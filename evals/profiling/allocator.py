"""Stops the C library's memory allocator from giving memory back to the system between the layers of a model."""

from __future__ import annotations

import ctypes
import sys

# glibc's names for its settings (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def keep_memory() -> bool:
    """Let the process keep freed memory for its next allocation. Returns False if the C library does not support it.

    A decoder's activations on a CPU are blocks of some megabytes. By default each block is mapped from the system again
    and its pages are cleared one by one, which takes longer than many operations on them: up to 15 % of a prefill with
    few tokens. The setting is the same for all methods.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # glibc before 2.35 refuses thresholds above 32 MiB.
    mapped = mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) or mallopt(M_MMAP_THRESHOLD, 1 << 25)
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mapped)
