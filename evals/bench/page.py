"""HTML of files of bench: the page of one file, a page of several, and their part of a page of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evals.bench import figures, training_table
from evals.bench.answer import EXPLAINED as ANSWERS
from evals.bench.answer import answers, points_of, where
from evals.bench.document import BenchDocument, BenchRow, TrainingDocument
from evals.bench.text import part
from evals.report.embedded import rendered
from evals.report.measured_speed import MeasuredSpeed, TimedFile, TimedTable
from evals.report.provenance import facts
from evals.report.units import MISSING, millis, ratio
from hidrop.atomic_file import write_atomically
from hidrop.visible import visible, visible_values

TITLE = "Measured speed"
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


def write(document: BenchDocument | TrainingDocument, path: Path) -> Path:
    """Write the page of a document to `path`, with its figures inside."""
    write_atomically(path, html(document))
    return path


def write_several(speed: MeasuredSpeed, path: Path) -> Path:
    """Write a page of several files to `path`."""
    write_atomically(path, _several(speed))
    return path


def _several(speed: MeasuredSpeed) -> str:
    return rendered("speed.html.jinja", title=TITLE, speed=speed)


def html(document: BenchDocument | TrainingDocument) -> str:
    """The page of one file. That of bench-train has no answer in words and no figures."""
    shown: Any = visible_values(document)
    if _is_training(shown):
        return _several(MeasuredSpeed([_of_training(shown)], training_table.NOTES))
    file = _of_bench(shown)
    notes = [*NOTES, ("Hardware", file.machine), *file.facts]
    return rendered("bench.html.jinja", document=shown, file=file, notes=notes)


def _is_training(document: Mapping[str, Any]) -> bool:
    return document.get("kind") == "training"


def measured_speed(documents: Mapping[Path, BenchDocument | TrainingDocument]) -> MeasuredSpeed:
    """Files of bench and bench-train by their path, ready for a page. Figures are drawn here, which takes seconds."""
    files = []
    for number, (path, document) in enumerate(documents.items(), start=1):
        shown: Any = visible_values(document)
        name = visible(path.name)
        files.append(_of_training(shown, name) if _is_training(shown) else _of_bench(shown, name, f"timed-{number}-"))
    return MeasuredSpeed(files, [*NOTES, *(training_table.NOTES if any(map(_is_training, documents.values())) else ())])


def _of_bench(document: BenchDocument, name: str = "", prefix: str = "") -> TimedFile:
    """prefix: what the ids of its figures begin with, for a page with figures of other files."""
    from evals.report import figure_style

    points = points_of(document["rows"])
    lost = [one for one in document["points"] if one["out_of_memory"]]
    missing = f"{document['points_left']} points are missing" if document["points_left"] else ""
    compiled = ", compiled" if document["compiled"] else ""
    return TimedFile(
        name=name,
        title=f"{document['model']} in {document['dtype']}{compiled}, {document['date'][:10]}",
        machine=facts(document["hardware"]),
        facts=_facts(
            document,
            ("Weights", {"checkpoint": "a checkpoint", "random weights": "random"}.get(str(document["source"]), "")),
            ("Rounds", " / ".join(sorted({str(row["repeats"]) for row in document["rows"]}))),
            ("Attention", document["attention"]),
            ("Out of memory", "; ".join(where((one["images"], one["text_tokens"], one["batch"])) for one in lost)),
            ("Unfinished", missing),
        ),
        answers=[(where(point), answers(rows)) for point, rows in points.items()],
        tables=list(_tables(points)),
        figures=[
            (figures.TITLES[kind], figure_style.svg(figure, prefix + kind)) for kind, figure in figures.drawn(document)
        ],
    )


def _of_training(document: TrainingDocument, name: str = "") -> TimedFile:
    model = document["model"].removeprefix("train-")
    return TimedFile(
        name=name,
        title=f"Training steps of {model} in {document['dtype']}, {document['date'][:10]}",
        machine=facts(document["hardware"]),
        facts=_facts(document),
        answers=[],
        tables=[TimedTable("Steps", training_table.HEADINGS, training_table.sections(document))],
        figures=[],
    )


def _facts(document: BenchDocument | TrainingDocument, *more: tuple[str, str]) -> list[tuple[str, str]]:
    found = [("Versions", facts(document["versions"])), ("Commit", document["commit"] or ""), *more]
    return [(topic, text) for topic, text in found if text]


def _tables(points: Mapping[tuple[int, int, int], list[BenchRow]]) -> Iterable[TimedTable]:
    """The tables of a file, with a section for each point; without those that have no rows."""
    for title, of in (("Times and limits", times_table), ("Cost of a request", cost_table)):
        found = [(where(point), *of(rows)) for point, rows in points.items()]
        if any(lines for _, _, lines in found):
            yield TimedTable(title, found[0][1], [(point, lines) for point, _, lines in found])


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
