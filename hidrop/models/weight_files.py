"""Read weight files, safetensors or .bin, without running what they may carry."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hidrop.errors import UserError

if TYPE_CHECKING:
    import torch

# Buffers that older versions wrote among the weights.
BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")


def open_tensors(files: Iterable[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of weight files, mapped into memory and not read before they are used.

    Raises UserError for a file that is cut off, or holds anything but tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for file in files:
        try:
            if file.suffix == ".safetensors":
                yield from load_file(file).items()
                continue
            try:
                content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # torch's format before 1.6 cannot be mapped
                content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(
                f"{file}: broken, or holds more than tensors; it is not loaded, because it could run code"
            ) from None
        except (OSError, EOFError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{file}: cannot be read ({error}). Copy or download it again") from None
        for name, value in content.items():
            if isinstance(value, torch.Tensor):
                yield name, value
