"""The processes of one run, which `torchrun` or `accelerate launch` starts: the rank of this one and its batches.

Each process answers its part of every cell's batches and writes it to a file of its own in the shared results folder.
The first process joins these files, scores the cells, takes the timings and writes the tables. So the processes only
have to wait for each other, and gloo does that on any machine and network.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hidrop.errors import UserError
from hidrop.patience import VARIABLE, patience
from hidrop.program import torchrun

# The environment variables that a launcher sets.
RANK, COUNT, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
# The launcher handles a process that died. For one that hangs, the others wait at most so many minutes, unless
# HIDROP_PATIENCE says otherwise. The longest honest wait is for the first process, which takes a model's timings.
PATIENCE = 120.0


@dataclass(frozen=True)
class Processes:
    """This process has number `rank` of `count`, and number `local` on its machine. By default it is the only one."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def join(cls) -> Processes:
        """Join the process group that the launcher's environment variables describe.

        Removes the variables, because lmms-eval and accelerate would distribute the samples by them a second time.
        Raises UserError for invalid variables, and if the others do not come within the patience.
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

        time = patience(PATIENCE)
        with found._waiting(time):
            dist.init_process_group("gloo", timeout=time)
        for name in (RANK, COUNT, LOCAL_RANK, "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
        return found

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def name(self) -> str | None:
        """The name of this process's part of a cell, by which a later run finds it. None for a single process."""
        return None if self.count == 1 else f"{self.rank}-of-{self.count}"

    def device(self, asked: str) -> str:
        """The CUDA device of this process. Raises UserError if several processes ask for the same device."""
        if self.count == 1 or not asked.startswith("cuda"):
            return asked
        if asked != "cuda":
            raise UserError(f"--device {asked}: each of the {self.count} processes takes its own device. Use cuda")
        return f"cuda:{self.local}"

    def mine(self, number: int) -> bool:
        """Whether this process does the work with this number."""
        return number % self.count == self.rank

    def wait(self) -> None:
        """Wait until all processes have called this. Raises UserError if that takes longer than the patience."""
        if self.count > 1:
            import torch.distributed as dist

            time = patience(PATIENCE)
            with self._waiting(time):
                dist.monitored_barrier(timeout=time, wait_all_ranks=True)

    def gather(self, thing: Any) -> list[Any]:
        """The `thing` of every process, in the order of their ranks. Waits for all; raises UserError like `wait`."""
        if self.count == 1:
            return [thing]
        import torch.distributed as dist

        self.wait()  # which knows who is missing
        things: list[Any] = [None] * self.count
        with self._waiting(patience(PATIENCE)):
            dist.all_gather_object(things, thing)
        return things

    @contextmanager
    def _waiting(self, time: datetime.timedelta) -> Iterator[None]:
        """Turn the errors of a wait that was in vain into words."""
        try:
            yield
        except RuntimeError as error:  # gloo's and the store's own types are its subclasses
            missing = re.search(r"[Rr]anks? ([\d, ]+) failed to (?:pass|reach|join)", str(error))
            who = f"process {missing[1].strip()}" if missing else "the other processes"
            minutes = f"{time.total_seconds() / 60:g} minutes"
            raise UserError(
                f"process {self.rank} of {self.count} waited {minutes} in vain for {who}: it "
                f"hangs, has died or cannot be reached. Nothing that was answered is lost; the same command goes on. "
                f"{VARIABLE}=<minutes> in the environment waits longer"
            ) from error

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the first process before the others, so that they find what it downloads."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()


ALONE = Processes()
