"""Is it worth it? The answer of a bench in words, for each method at each point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evals.bench.breakdown import bound, breakdown
from evals.bench.latency import WORTH, Lengths, worth_it
from evals.profiling.ratios import is_noise
from evals.profiling.record import CAPTURED
from evals.report.units import ratio

if TYPE_CHECKING:
    from evals.bench.document import BenchRow

EXPLAINED = (
    f"Worth it: the whole request is at least {WORTH:g} times as fast as vanilla's. Whole request:\n"
    "TTFT + (n - 1) x TPOT for n output tokens; TTFT includes vision tower and projector.\n"
    "±: half of the 95 % interval, paired over the rounds. (noise): the interval includes 1."
)
ONE_ROUND = "One round: without intervals nothing tells a speed-up from noise."


def lengths(row: BenchRow, vanilla: BenchRow, least: float = WORTH) -> Lengths | None:
    """The output lengths at which a request is at least `least` times as fast as vanilla's."""
    ttft, tpot = row["ttft_ms"]["p50"], row["tpot_ms"]["p50"]
    return worth_it(vanilla["ttft_ms"]["p50"], vanilla["tpot_ms"]["p50"], ttft, tpot, least)


def verdict(row: BenchRow, vanilla: BenchRow) -> str:
    """One sentence on one method: its speed-ups, and the output lengths at which it is worth it.

    At an asked length whose speed-up is noise, it is not worth it.
    """
    ups, found, faster = row["speed_ups"], lengths(row, vanilla), lengths(row, vanilla, 1.0)
    asked = {one["new_tokens"]: one["speed_up"] for one in row["requests"]}
    whole = ", ".join(f"{ratio(up)} at {_tokens(new)}" for new, up in asked.items())
    good = [new for new, up in asked.items() if found and found.includes(new) and not is_noise(up)]
    if all(map(is_noise, [ups["ttft"], *asked.values()])):
        end = "no difference beyond the noise of these rounds; more --repeats can tell"
    elif found is None or (asked and not good and any(found.includes(new) for new in asked)):
        end = "not worth it here"
    elif asked and not good:
        end = f"not worth it at {_listed([*asked])}, only {found.words()}"
    elif asked and len(good) == len(asked) and found != Lengths():
        end = f"worth it ({found.words()})"
    else:
        end = f"worth it {found.words()}"
    if faster not in (Lengths(), None, found) and not end.startswith("no difference"):
        end += f"; faster than vanilla {faster.words()}"
    request = f", whole request {whole}" if whole else ""
    return f"{row['label']}: prefill {ratio(ups['prefill'])}, TTFT {ratio(ups['ttft'])}{request}: {end}."


def savings(row: BenchRow, vanilla: BenchRow) -> str:
    """One sentence on one method's memory and throughput, next to vanilla's."""
    kv, whole = row["kv_bytes"], vanilla["kv_bytes"]
    found = [f"KV cache {kv / 2**20:.1f} of {whole / 2**20:.1f} MiB a request"]
    more = (row["peak_bytes"] - vanilla["peak_bytes"]) / 2**20
    found.append(f"peak {abs(more):.0f} MiB {'higher' if more > 0 else 'lower'}")
    if row["largest_batch"] is not None and vanilla["largest_batch"] is not None:
        found.append(f"about {row['largest_batch']} requests fit instead of {vanilla['largest_batch']}")
    if row["requests"]:
        ours, theirs = row["requests"][-1], vanilla["requests"][-1]
        rates = (f"{one['requests_per_second']:.3g}" for one in (ours, theirs))
        found.append(f"{' instead of '.join(rates)} requests/s with {_tokens(ours['new_tokens'])}")
        found.append(f"{ours['output_tokens_per_second']:.3g} output tokens/s")
    return f"{row['label']}: {', '.join(found)}."


def _tokens(new: int) -> str:
    return f"{new} token{'s' * (new > 1)}"


def _listed(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last} tokens" if most else _tokens(numbers[0])


def vanilla_of(row: BenchRow, rows: Sequence[BenchRow]) -> BenchRow:
    """Vanilla of the same point, captured if the row is."""
    label = "vanilla" + (CAPTURED if row["captured"] else "")
    return next(one for one in rows if one["label"] == label and shape(one) == shape(row))


def captured_of(row: BenchRow, rows: Sequence[BenchRow]) -> BenchRow | None:
    """The same method by CUDA graphs at the same point; None if it was not captured, or for a captured row."""
    label = row["label"] + CAPTURED
    return next((one for one in rows if one["label"] == label and shape(one) == shape(row)), None)


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


def bounds(row: BenchRow, rows: Sequence[BenchRow]) -> str:
    """What takes most of a request, for each output length: "at 1 token projections (54 %), at 128 tokens weights"."""
    parts = []
    for one in row["requests"]:
        name, share = bound(breakdown(row, one["new_tokens"], captured_of(row, rows)))
        parts.append(f"at {_tokens(one['new_tokens'])} {name} ({100 * share:.0f} %)")
    return ", ".join(parts)


def answers(rows: Sequence[BenchRow]) -> list[str]:
    """The lines on one point.

    For each method a verdict, and its memory and throughput; then what takes most of vanilla's request and of the
    fastest method's.
    """
    methods = [row for row in rows if row["method"] != "vanilla"]
    lines = [verdict(row, vanilla_of(row, rows)) for row in methods]
    lines += [savings(row, vanilla_of(row, rows)) for row in methods]
    told = [row for row in rows if row["method"] == "vanilla"]
    if methods:
        told.append(max(methods, key=_last_speed_up))
    lines += [f"What takes most of {row['label']}'s time: {bounds(row, rows)}." for row in told if row["requests"]]
    return lines + ([ONE_ROUND] if rows[0]["repeats"] == 1 else [])


def _last_speed_up(row: BenchRow) -> float:
    return row["requests"][-1]["speed_up"]["ratio"] if row["requests"] else row["speed_ups"]["ttft"]["ratio"]
