"""The processes of one run, which `torchrun` or `accelerate launch` starts: the rank of this one and its batches.

Each process answers its part of every cell's batches and writes it to a file of its own in the shared results folder.
The first process joins these files, scores the cells, takes the timings and writes the tables. So the processes only
have to wait for each other, and gloo does that on any machine and network.
"""

from __future__ import annotations

import datetime
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hidrop.errors import UserError, reason
from hidrop.patience import VARIABLE, patience
from hidrop.program import torchrun

# The environment variables that a launcher sets.
RANK, COUNT, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
# The launcher handles a process that died. For one that hangs, the others wait at most so many minutes, unless
# HIDROP_PATIENCE says otherwise. The longest honest wait is for the first process, which takes a model's timings.
PATIENCE = 120.0


@dataclass(frozen=True)
class Processes:
    """This process has number `rank` of `count`, and number `local` on its machine. By default it is the only one.

    hosts: the name of each process's machine, by rank; empty for a single process.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    hosts: tuple[str, ...] = ()

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

        longest = patience(PATIENCE)
        with found._waiting(longest):
            dist.init_process_group("gloo", timeout=longest)
            hosts: list[Any] = [None] * found.count
            dist.all_gather_object(hosts, socket.gethostname())
        for name in (RANK, COUNT, LOCAL_RANK, "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
        return replace(found, hosts=tuple(hosts))

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

            longest = patience(PATIENCE)
            with self._waiting(longest):
                dist.monitored_barrier(timeout=longest, wait_all_ranks=True)

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
    def _waiting(self, longest: datetime.timedelta) -> Iterator[None]:
        """Turn the errors of a wait that was in vain into words. `longest`: the patience."""
        started = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # gloo's and the store's own types are its subclasses
            raise UserError(self._in_vain(time.monotonic() - started, longest, error)) from error

    def _in_vain(self, seconds: float, longest: datetime.timedelta, error: RuntimeError) -> str:
        """What to tell a user after a wait of so many seconds that ended with gloo's `error`."""
        me, who = f"{self._called(self.rank)} of {self.count}", self._missing(str(error))
        if seconds > 0.9 * longest.total_seconds():
            minutes = f"{longest.total_seconds() / 60:g} minutes"
            what = f"waited {minutes} in vain for {who}: it hangs, has died or cannot be reached"
            more = f". {VARIABLE}=<minutes> in the environment waits longer"
        elif self.hosts:
            what, more = f"lost the connection to {who}: it has died, or the network has failed", ""
        else:
            return (
                f"{me} cannot connect to {who}: {reason(error)}. Each machine's own name has to lead to an address "
                "that the others reach (in /etc/hosts it is often 127.0.1.1), or GLOO_SOCKET_IFNAME=<interface> in the "
                "environment names the network"
            )
        return (
            f"{me} {what}. Nothing that was answered is lost: start the same command again, on all machines, and it "
            f"goes on{more}"
        )

    def _missing(self, error: str) -> str:
        """The processes that gloo's error is about. Only the first process knows who is missing."""
        if named := re.search(r"[Rr]anks? ([\d, ]+) failed to (?:pass|reach|join)", error):
            return ", ".join(self._called(int(rank)) for rank in re.findall(r"\d+", named[1]))
        if self.count == 2:
            return self._called(1 - self.rank)
        return "the other processes" if self.main else f"{self._called(0)}, or one that it waits for"

    def _called(self, rank: int) -> str:
        """A process's number, and its machine if there are several."""
        return f"process {rank} (on {self.hosts[rank]})" if len(set(self.hosts)) > 1 else f"process {rank}"

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the first process before the others, so that they find what it downloads."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()


ALONE = Processes()
