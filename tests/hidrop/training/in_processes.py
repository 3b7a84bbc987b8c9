"""Run by torchrun: a recipe on CPU processes, with FSDP too, which torch can do there and accelerate cannot."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from hidrop.errors import UserError
from hidrop.recipes import train
from hidrop.training import run


def main(recipe: str, out: str, work: str, *more: str) -> None:
    begin, gather = AcceleratorState.__init__, Accelerator.get_state_dict
    known: list[Any] = []

    def begin_sharded(self: Any, *args: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **settings)
        if fsdp_plugin is not None:
            known[:] = [fsdp_plugin]
        for plugin in known:  # what accelerate does by itself where a process has a GPU
            self.distributed_type = DistributedType.FSDP
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = plugin

    def gather_done(self: Any, *args: Any, **settings: Any) -> Any:
        # A copy from a GPU would be complete; on a CPU tensors may still be on their way.
        found = gather(self, *args, **settings)
        return {name: tensor.wait() if hasattr(tensor, "wait") else tensor for name, tensor in found.items()}

    AcceleratorState.__init__ = begin_sharded  # type: ignore[method-assign]
    Accelerator.get_state_dict = gather_done  # type: ignore[method-assign]
    if "hang" in more and os.environ["RANK"] == "1":
        run.Say.on_step_end = lambda *args, **settings: time.sleep(600)  # type: ignore[method-assign]
    try:
        train(recipe, out=Path(out), work=Path(work), resume="resume" in more)
    except UserError as error:
        print(error, flush=True)
        sys.exit(2)


main(*sys.argv[1:])
