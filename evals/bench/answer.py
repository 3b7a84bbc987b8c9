"""Is it worth it? The answer of a bench in words, for each method at each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evals.bench.breakdown import bound, breakdown
from evals.bench.latency import WORTH, Lengths, worth_it
from evals.profiling.record import CAPTURED

if TYPE_CHECKING:
    from evals.bench.document import BenchRow, RatioEntry

EXPLAINED = (
    f"Worth it: the whole request is at least {WORTH:g} times as fast as vanilla's. Whole request:\n"
    "TTFT + (n - 1) x TPOT for n output tokens; TTFT includes vision tower and projector.\n"
    "±: half of the 95 % interval, paired over the rounds. (noise): the interval includes 1."
)


def ratio(found: RatioEntry, *, interval: bool = False) -> str:
    """ "1.29x", with its interval "1.29 ± 0.02x"; marked if it cannot be told from 1."""
    low, high = found["low"], found["high"]
    half = f" ± {(high - low) / 2:.2f}" if interval and low is not None and high is not None and low < high else ""
    return f"{found['ratio']:.2f}{half}x" + (" (noise)" if is_noise(found) else "")


def is_noise(found: RatioEntry) -> bool:
    """Whether the interval of a speed-up includes 1."""
    low, high = found["low"], found["high"]
    return low is not None and high is not None and low <= 1 <= high and low < high


def lengths(row: BenchRow, vanilla: BenchRow) -> Lengths | None:
    """The output lengths at which a method is worth it."""
    ttft, tpot = row["ttft_ms"]["p50"], row["tpot_ms"]["p50"]
    return worth_it(vanilla["ttft_ms"]["p50"], vanilla["tpot_ms"]["p50"], ttft, tpot)


def verdict(row: BenchRow, vanilla: BenchRow) -> str:
    """One sentence on one method: its speed-ups, and the output lengths at which it is worth it."""
    ups, found = row["speed_ups"], lengths(row, vanilla)
    whole = [f"{ratio(one['speed_up'])} at {_tokens(one['new_tokens'])}" for one in row["requests"]]
    request = f", whole request {', '.join(whole)}" if whole else ""
    asked = [one["new_tokens"] for one in row["requests"]]
    if found is not None and all(map(is_noise, [ups["ttft"], *(one["speed_up"] for one in row["requests"])])):
        end = "no gain beyond the noise of these rounds; more --repeats can tell"
    elif found is None:
        end = "not worth it here"
    elif asked and not any(_inside(new, found) for new in asked):
        end = f"not worth it at {_listed(asked)}, only {found.words()}"
    elif asked and all(_inside(new, found) for new in asked) and found != Lengths():
        end = f"worth it ({found.words()})"
    else:
        end = f"worth it {found.words()}"
    return f"{row['label']}: prefill {ratio(ups['prefill'])}, TTFT {ratio(ups['ttft'])}{request}: {end}."


def _tokens(new: int) -> str:
    return f"{new} token{'s' * (new > 1)}"


def _listed(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last} tokens" if most else _tokens(numbers[0])


def _inside(new: int, found: Lengths) -> bool:
    return found.first <= new and (found.last is None or new <= found.last)


def vanilla_of(row: BenchRow, rows: Sequence[BenchRow]) -> BenchRow:
    """Vanilla of the same point, captured if the row is."""
    label = "vanilla" + (CAPTURED if row["captured"] else "")
    return next(one for one in rows if one["label"] == label and shape(one) == shape(row))


def shape(row: BenchRow) -> tuple[int, int, int]:
    """The point that a row belongs to: images, text tokens, batch."""
    return row["images"], row["text_tokens"], row["batch"]


def points_of(rows: Sequence[BenchRow]) -> dict[tuple[int, int, int], list[BenchRow]]:
    """The rows of each point, in the order of the file."""
    found: dict[tuple[int, int, int], list[BenchRow]] = {}
    for row in rows:
        found.setdefault(shape(row), []).append(row)
    return found


def where(point: tuple[int, int, int]) -> str:
    """ "batch 4, 1 image, 60 text tokens"."""
    images, text, batch = point
    return f"batch {batch}, {images} image{'s' * (images > 1)}, {text} text tokens"


def bounds(row: BenchRow, device: str) -> str:
    """What bounds a request, for each output length: "at 1 token the projections (54 %), at 128 the weights (80 %)"."""
    parts = []
    for one in row["requests"]:
        name, share = bound(breakdown(row, one["new_tokens"], device))
        parts.append(f"at {_tokens(one['new_tokens'])} {THE.get(name, 'the ')}{name} ({100 * share:.0f} %)")
    return ", ".join(parts)


THE: Mapping[str, str] = {"attention": "", "selection": "", "overhead": "", "launches": ""}


def answers(rows: Sequence[BenchRow], device: str) -> list[str]:
    """The lines on one point: a verdict for each method, and what bounds vanilla's request and the fastest method's."""
    methods = [row for row in rows if row["method"] != "vanilla"]
    lines = [verdict(row, vanilla_of(row, rows)) for row in methods]
    for row in rows:
        if row["method"] == "vanilla" and row["requests"]:
            lines.append(f"What takes most of {row['label']}'s time: {bounds(row, device)}.")
    return lines
