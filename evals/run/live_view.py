"""The live view of a run on a terminal: cells, samples per second, time left, memory, and the table so far."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evals.report.columns import task_name
from evals.report.units import MISSING, fixed
from evals.store.result_document import CellEntry

# Lines of the view in addition to the table's rows: bar, current cell, times, an empty line, headings, the shell's
# prompt.
FRAME = 7
# A speed is shown after so many seconds: before, it is that of the first batch.
LEAST_SECONDS = 2.0


class LiveView:
    """The state of a run, which rich can draw at any time. `sizes`: samples of each cell, by its key."""

    def __init__(self, total: int, sizes: dict[str, int]) -> None:
        self.total, self.sizes = total, sizes
        self.ended = 0
        self.scores: dict[str, dict[str, float | str | None]] = {}  # model/label, task; None: failed
        self._left = dict(sizes)  # samples that are not answered yet
        self._key = ""
        self._began = self._first = self._phase_began = time.monotonic()
        self._phase = "starting"
        self._answered = self._new = self._all = 0
        self.spent = [0.0, 0.0, 0.0]  # seconds of preparing, generating and scoring, of the cells that have ended

    def phase(self, doing: str) -> None:
        """Something else than a cell begins, such as loading a model."""
        self._phase, self._phase_began, self._key = doing, time.monotonic(), ""

    def begin(self, key: str, answered: int) -> None:
        """A cell begins. An earlier run answered `answered` of its samples."""
        self._key = key
        self._began, self._answered, self._new = time.monotonic(), answered, 0
        if not self._all:
            self._first = self._began  # excludes the time to load the first model
        self._left[key] = max(0, self.sizes.get(key, 0) - answered)

    def count(self, key: str, samples: int) -> None:
        self._new += samples
        self._all += samples
        self._left[key] = max(0, self._left.get(key, 0) - samples)

    def end(self, key: str, value: float | str | None) -> None:
        """A cell has ended with a value, with words instead of one, or (None) has failed."""
        self.ended += 1
        self._left.pop(key, None)
        row, task = key.rsplit("/", 1)
        self.scores.setdefault(row, {})[task] = value
        if key == self._key:
            self.phase("preparing the next cell")

    def skip(self, key: str) -> None:
        """A cell is not run."""
        self.ended += 1
        self._left.pop(key, None)

    def took(self, entry: CellEntry) -> str:
        """How long the parts of a cell that ran took, and the sums of all cells. "" for a part that is not known."""
        if "preparing_seconds" not in entry or "scoring_seconds" not in entry:
            return ""
        each = entry["preparing_seconds"], entry["seconds"], entry["scoring_seconds"]
        self.spent = [so_far + more for so_far, more in zip(self.spent, each, strict=True)]
        return parts_of(each)

    def current(self) -> str:
        """The progress of the cell that runs, with its speed once that means something; else the phase and its time."""
        if not self._key:
            return f"{self._phase}, {duration(self._since(self._phase_began))}"
        done, size = self._answered + self._new, self.sizes.get(self._key)
        of = f" of {size}" if size else ""
        before = f" ({self._answered} from an earlier run)" if self._answered else ""
        spent = self._since(self._began)
        speed = f", {rate(self._new / spent)}" if self._new and spent >= LEAST_SECONDS else ""
        return f"{self._key}: {done}{of} samples{before}{speed}"

    def seconds_left(self) -> float | None:
        """Estimated from this run's samples per second. None before the first sample and after the last one."""
        if not self._all or not any(self._left.values()):
            return None
        return sum(self._left.values()) * self._since(self._first) / self._all

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        share = self.ended / max(1, self.total)
        line = Table.grid(padding=(0, 1))
        line.add_row(
            ProgressBar(total=1.0, completed=share, width=30),
            Text(", ".join(self._facts()), style="bold", no_wrap=True),
        )
        yield line
        yield Text(self.current(), no_wrap=True, overflow="ellipsis")
        if any(self.spent):
            yield Text(parts_of(self.spent), style="dim", no_wrap=True, overflow="ellipsis")
        if self.scores:
            yield Text()
            yield self._table(max(3, (console.height or 24) - FRAME))

    def _facts(self) -> Iterator[str]:
        yield f"{self.ended} of {self.total} cells"
        spent = self._since(self._first)
        if self._all and spent >= LEAST_SECONDS:
            yield rate(self._all / spent)
        left = self.seconds_left()
        if left is not None:
            yield f"about {duration(left)} left"
        yield memory()

    def _table(self, most: int) -> Table:
        """The last `most` rows."""
        tasks = list(dict.fromkeys(task for row in self.scores.values() for task in row))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("row", no_wrap=True)
        for task in tasks:
            table.add_column(task_name(task), justify="right", no_wrap=True)
        for name, scores in list(self.scores.items())[-most:]:
            table.add_row(Text(name), *(self._score(scores, task) for task in tasks))
        return table

    @staticmethod
    def _score(scores: dict[str, float | str | None], task: str) -> Text:
        if task not in scores:
            return Text(MISSING, style="dim")
        value = scores[task]
        if isinstance(value, str):
            return Text(value)
        return Text("failed", style="red") if value is None else Text(fixed(value))

    @staticmethod
    def _since(moment: float) -> float:
        return max(time.monotonic() - moment, 1e-9)


def rate(samples_per_second: float) -> str:
    """Samples per second with two significant digits, or whole."""
    return f"{samples_per_second:.{0 if samples_per_second >= 10 else 1}f} samples/s"


def duration(seconds: float) -> str:
    """12 s, 4 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def parts_of(seconds: Sequence[float]) -> str:
    """The seconds of preparing, generating and scoring in words."""
    return "preparing {:.1f} s, generating {:.1f} s, scoring {:.1f} s".format(*seconds)


def memory() -> str:
    """The peak main memory of this process, and torch's peak CUDA memory if CUDA is in use."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    text = f"{peak / 1024**3:.1f} GiB"
    torch: Any = sys.modules.get("torch")  # importing it only for this would be slow
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        text += f", GPU {torch.cuda.max_memory_allocated() / 1024**3:.1f} GiB"
    return text
