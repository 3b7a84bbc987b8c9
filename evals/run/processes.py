"""The processes of one run, as `torchrun` or `accelerate launch` starts them: which one this is, and what it takes.

They share the results folder and little else: each answers its part of every cell's batches into a file of its own,
and the first one puts them together, scores them, takes the timings and writes the tables. So they only have to wait
for each other, which gloo does on any machine, over any network.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hidrop.errors import UserError
from hidrop.program import torchrun

# What a launcher says to its processes.
RANK, COUNT, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
# A process that has died is its launcher's business; here one may only be slow.
PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `count`, and number `local` on its machine. By default it is alone."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def join(cls) -> Processes:
        """Meet the others that the launcher's environment variables tell of.

        The variables are gone afterwards: lmms-eval and accelerate would deal out the samples by them once more.
        Raises UserError for variables that make no sense.
        """
        if int(os.environ.get(COUNT, "1")) < 2:
            return cls()
        try:
            found = cls(int(os.environ[RANK]), int(os.environ[COUNT]), int(os.environ.get(LOCAL_RANK, "0")))
        except (KeyError, ValueError):
            raise UserError(
                f"{COUNT} is {os.environ[COUNT]}, but {RANK} is {os.environ.get(RANK, 'not set')}: start the processes "
                f"with `{torchrun('N')} ...`, or unset both"
            ) from None
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=PATIENCE)
        for name in (RANK, COUNT, LOCAL_RANK, "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
        return found

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def name(self) -> str | None:
        """What this process calls its part of a cell, by which a later run finds it again; None when it is alone."""
        return None if self.count == 1 else f"{self.rank}-of-{self.count}"

    def device(self, asked: str) -> str:
        """Its own CUDA device, where several processes share a machine. Raises UserError for one that is named."""
        if self.count == 1 or not asked.startswith("cuda"):
            return asked
        if asked != "cuda":
            raise UserError(f"--device {asked}: each of the {self.count} processes takes its own device. Use cuda")
        return f"cuda:{self.local}"

    def mine(self, number: int) -> bool:
        """Whether work of this number is to be done here."""
        return number % self.count == self.rank

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def gather(self, thing: Any) -> list[Any]:
        """What every process brings, in the order of their ranks; waits for all."""
        if self.count == 1:
            return [thing]
        import torch.distributed as dist

        things: list[Any] = [None] * self.count
        dist.all_gather_object(things, thing)
        return things

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process is through with the block before the others enter: what it downloads, they find."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()


ALONE = Processes()
