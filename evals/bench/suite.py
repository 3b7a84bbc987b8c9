"""`run.py bench --suite gpu`: everything that hidrop measures on a GPU, each part in a process with a time limit.

A part that fails or takes too long leaves the others. What each printed is in a log next to the result files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from evals.plain_table import aligned
from hidrop.provenance import ROOT

HIDROP = ("-m", "hidrop")
LMMS_EVAL = ("datasets", "lmms_eval")
PYTEST = ("-m", "pytest", "-q", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider")
MINI = ROOT / "results" / "mini"
HEADINGS = ("part", "result", "seconds")
DONE, FAILED, LATE = "done", "FAILED", "time was up"
MISSED = "FAILED (bars missed, or cells or tests failed)"
SOME_FAILED = 1  # the exit code of hidrop's commands and of pytest
ENDING = 10.0  # seconds that a process has to end after it was asked to


@dataclass(frozen=True)
class Part:
    """One process: arguments for Python, and its limit in seconds. `needs`, `paths`: without them it is skipped."""

    name: str
    arguments: tuple[str, ...]
    limit: int
    needs: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()

    @property
    def skipped(self) -> str | None:
        """Why the part cannot run here; None if it can."""
        if lacking := [name for name in self.needs if find_spec(name) is None]:
            return f"skipped: {', '.join(lacking)} not installed"
        if missing := [str(path) for path in self.paths if not path.exists()]:
            return f"skipped: {', '.join(missing)} not here; it is in a checkout of hidrop"
        return None


@dataclass(frozen=True)
class Outcome:
    part: Part
    result: str
    seconds: float
    log: Path | None

    @property
    def failed(self) -> bool:
        return self.result.startswith((FAILED, LATE))

    def cells(self) -> tuple[str, ...]:
        return self.part.name, self.result, f"{self.seconds:.0f}"


def folder(out: Path) -> Path:
    """A new folder for the logs and matrices of one run, so that nothing of an earlier one is taken or overwritten."""
    return out / f"gpu-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def gpu(out: Path, own: Path) -> list[Part]:
    """The parts on a GPU, at most twelve minutes together. Files of bench go to `out`, everything else to `own`."""
    sizes = ("--device", "cuda", "--geometry", "llava-1.5-7b", "--json", "--out", str(out))
    compiled = ("--batch", "1", "--budget", "48", "--methods", "hidrop", "--compile")
    matrix = (*HIDROP, "run", "--device", "cuda", "--out")
    return [
        Part("cuda-tests", (*PYTEST, "-m", "cuda and not slow", "tests"), 100, ("pytest",), (ROOT / "tests",)),
        Part("bench", (*HIDROP, "bench", *sizes, "--batch", "1,16", "--budget", "48,64", "--bars"), 200),
        Part("bench-train", (*HIDROP, "bench-train", *sizes, "--batch", "1,4"), 120),
        Part("smoke", (*matrix, str(own / "smoke"), "smoke"), 60, LMMS_EVAL),
        Part("bench-compiled", (*HIDROP, "bench", *sizes, *compiled), 90),
        Part("mini", (*matrix, str(own / "mini"), "mini"), 100, LMMS_EVAL),
        Part("compare-mini", (*HIDROP, "compare", str(MINI), str(own / "mini")), 30, LMMS_EVAL, (MINI,)),
    ]


def dry_run(out: Path, own: Path) -> list[Part]:
    """bench, bench-train and the matrix smoke on the CPU with small sizes, and one file of tests: whether they run."""
    few = ("--device", "cpu", "--repeats", "1", "--json", "--out", str(out))
    small = ("--geometry", "bench-40m-144", "--budget", "20%", "--methods", "fastv", "--steps", "1", "--warmup", "0")
    return [
        Part("tests", (*PYTEST, "tests/hidrop/test_devices.py"), 120, ("pytest",), (ROOT / "tests",)),
        Part("bench", (*HIDROP, "bench", *few, *small), 300),
        Part("bench-train", (*HIDROP, "bench-train", *few, "--geometry", "bench-40m", "--budget", "20%"), 300),
        Part("smoke", (*HIDROP, "run", "smoke", "--limit", "2", "--out", str(own / "smoke")), 180, LMMS_EVAL),
    ]


def run(parts: list[Part], out: Path, say: Callable[[str], None]) -> list[Outcome]:
    """Run the parts one after the other, with their logs in `out`. `say` gets a line for each."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for part in parts:
        if part.skipped is not None:
            found.append(Outcome(part, part.skipped, 0.0, None))
        else:
            found.append(_run(part, out / f"{part.name}.log"))
        say("  ".join(found[-1].cells()))
    return found


def _run(part: Part, log: Path) -> Outcome:
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *part.arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            code = process.wait(part.limit)
            result = DONE if code == 0 else MISSED if code == SOME_FAILED else f"{FAILED} (exit code {code})"
        except subprocess.TimeoutExpired:
            result = f"{LATE} after {part.limit} s"
        finally:
            _end(process)
    return Outcome(part, result, time.monotonic() - started, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and every process that it started, also after its own end. It is asked first, then killed."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDING)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table(found: list[Outcome]) -> str:
    return "\n".join(aligned([HEADINGS, *(one.cells() for one in found)]))
