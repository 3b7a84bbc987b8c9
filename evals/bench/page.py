"""The HTML page of a file of bench: the answer, figures, and all numbers of each point."""

from __future__ import annotations

from pathlib import Path

from evals.bench import figures
from evals.bench.answer import EXPLAINED as ANSWERS
from evals.bench.answer import answers, points_of, where
from evals.bench.document import BenchDocument, BenchRow
from evals.bench.text import part
from evals.report.embedded import policy
from evals.report.page import ASSETS
from evals.report.provenance import facts
from evals.report.units import MISSING, millis, ratio
from hidrop.atomic_file import write_atomically
from hidrop.visible import visible_values

NOTES = (
    ("Worth it", " ".join(ANSWERS.split())),
    ("TTFT, TPOT, ITL, E2EL", "time to first token, with vision tower and projector; time per output token, the mean "
     "of a run's inter-token latencies, measured right after the prompt; end-to-end latency, TTFT + (n - 1) x TPOT"),
    ("Layerwise limit", "the prefill speed-up if each layer took the time of transformers' own decoder layer at its "
     "number of tokens, and embedding, mask, norm and LM head their time in transformers' own forward, measured in the "
     "same rounds"),
    ("Physical limit", "the time of the prefill's operations and bytes at the measured copy and matmul rates"),
    ("Where the time goes", "prefill and decoding at the measured ceilings, split into reading weights, moving the KV "
     "cache, and the operations of projections and attention; what they take beyond that is overhead, mostly of small "
     "kernels and matrices; launches: what a method takes longer than by CUDA graphs"),
    ("Cost of a request", "seconds of the device for one request in a full batch, one batch after the other, and "
     "joules where the GPU's counter could be read, scaled to the request's output tokens"),
    ("Largest batch", "an estimate of what fits into the memory that was free, from the measured peak"),
    ("~", "a value above its bound, so noise"),
)  # fmt: skip


def write(document: BenchDocument, path: Path) -> Path:
    """Write the page of a document to `path`, with its figures inside."""
    write_atomically(path, html(document))
    return path


def html(document: BenchDocument) -> str:
    from jinja2 import Environment, FileSystemLoader

    from evals.report import figure_style

    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    document = visible_values(document)
    points = []
    for point, rows in points_of(document["rows"]).items():
        tables = [("Times and limits", *times_table(rows)), ("Cost of a request", *cost_table(rows))]
        points.append((where(point), answers(rows), tables))
    return environment.get_template("bench.html.jinja").render(
        document=document,
        points=points,
        figures=[
            (name, figures.TITLES[name], figure_style.svg(figure, name)) for name, figure in figures.drawn(document)
        ],
        notes=[*NOTES, ("Hardware", facts(document["hardware"])), ("Versions", facts(document["versions"]))],
        policy=policy(style=style),
        style=style,
    )


def times_table(rows: list[BenchRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows: what was measured, and the part of each limit that was reached."""
    headers: tuple[str, ...] = (
        "method", "tokens", "prefill ms", "p95", "p99", "prefill speed-up", "of layerwise", "of physical", "selection",
        "TTFT ms", "p95", "TTFT speed-up", "tower ms", "TPOT ms", "ITL p95", "TPOT speed-up", "KV MiB", "peak MiB",
        "largest batch",
    )  # fmt: skip
    found: list[tuple[str, ...]] = []
    for row in rows:
        prefill, ttft, vision, layerwise = (
            row["prefill_ms"],
            row["ttft_ms"],
            row["vision_ms"],
            row["of_ideal"]["layerwise"],
        )
        ups = {name: ratio(row["speed_ups"][name], interval=True) for name in ("prefill", "ttft", "tpot")}
        found.append(
            (
                row["label"],
                f"{row['average_tokens']:.1f}",
                millis(prefill["p50"]),
                millis(prefill["p95"]),
                millis(prefill.get("p99")),
                ups["prefill"],
                part(layerwise),
                part(row["of_physical_limit"]),
                MISSING if row["captured"] else f"{100 * row['selection_share']:.1f} %",
                millis(ttft["p50"]),
                millis(ttft["p95"]),
                ups["ttft"],
                millis(None if vision is None else vision["p50"]),
                millis(row["tpot_ms"]["p50"]),
                millis(row["itl_ms"]["p95"]),
                ups["tpot"],
                f"{row['kv_bytes'] / 2**20:.1f}",
                f"{row['peak_bytes'] / 2**20:.0f}",
                MISSING if row["largest_batch"] is None else str(row["largest_batch"]),
            )
        )
    return headers, found


def cost_table(rows: list[BenchRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows: each method's request at each output length."""
    headers: tuple[str, ...] = (
        "method", "output tokens", "E2EL ms", "p95", "speed-up", "requests/s", "output tokens/s", "device seconds each",
        "joules each",
    )  # fmt: skip
    found: list[tuple[str, ...]] = []
    for row in rows:
        for one in row["requests"]:
            energy = one["joules"]
            found.append(
                (
                    row["label"],
                    str(one["new_tokens"]),
                    millis(one["e2el_ms"]["p50"]),
                    millis(one["e2el_ms"]["p95"]),
                    ratio(one["speed_up"], interval=True),
                    f"{one['requests_per_second']:.3g}",
                    f"{one['output_tokens_per_second']:.3g}",
                    f"{1 / one['requests_per_second']:.3g}",
                    MISSING if energy is None else f"{energy:.3g}",
                )
            )
    return headers, found
