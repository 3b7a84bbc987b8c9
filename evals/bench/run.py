"""Runs a sweep point by point, writes the file after each, and goes on with a file that was not finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evals.bench import SCHEMA, files, text
from evals.bench.answer import points_of
from evals.bench.inference import Asked, bench_point
from evals.bench.sweep import Sweep
from evals.profiling.memory import resident_bytes
from hidrop.method_source import method_digest
from hidrop.provenance import now, provenance
from hidrop.runtime.cuda_graphs import Recorder

if TYPE_CHECKING:
    from evals.bench.document import BenchDocument
    from evals.profiling.point import Point


def header(loaded: Any, sweep: Sweep, asked: Mapping[str, Asked], **facts: Any) -> BenchDocument:
    """The document before the first point. `facts`: model, device, dtype, attention, memory_kept and compiled."""
    methods = {
        label: {
            "method": one.reducer.name,
            "fields": asdict(one.reducer),
            "budget": one.budget,
            "source": method_digest(one.reducer),
        }
        for label, one in asked.items()
    }
    made = {
        "schema": SCHEMA,
        **facts,
        **provenance(facts["device"]),
        "weight_bytes": resident_bytes(loaded.model),
        "sizes": asdict(loaded.geometry),
        "ceilings": {"bytes_per_second": 0.0, "flops_per_second": 0.0},
        "settings": sweep.document(),
        "methods": methods,
        "points_left": len(sweep.points()),
        "points": [],
        "rows": [],
    }
    return cast("BenchDocument", json.loads(json.dumps(made)))


def run(
    loaded: Any,
    sweep: Sweep,
    asked: Mapping[str, Asked],
    start: BenchDocument,
    out: Path,
    say: Callable[[str], None],
    recorder: Recorder | None = None,
) -> tuple[Path, BenchDocument]:
    """Measure what `start`, or an unfinished file like it in `out`, lacks. Returns the file and its content.

    `say` gets each point's result as soon as it is measured: the tables of a single point, the answers of each of many.
    """
    points, document, device = sweep.points(), start, start["device"]
    found = files.unfinished(start, out)
    if found is None:
        path = files.new_path(start, out, sweep.title)
    else:
        path, document = found[0], cast("BenchDocument", found[1])
        done = len(document["points"])
        say(f"{path}: goes on with an unfinished run, {done} of {len(points)} points are measured\n")
        for rows in points_of(document["rows"]).values():
            say(text.short_text(rows, device) + "\n")
    measured = {(one["images"], one["text_tokens"], one["batch"]) for one in document["points"]}
    hardware = document["hardware"]
    capacity = hardware.get("gpu_memory_bytes") or hardware.get("memory_bytes")
    for point in points:
        if (point.images, point.text_tokens, point.batch) in measured:
            continue
        begun = time.perf_counter()
        result = bench_point(loaded, asked, point, sweep.new, recorder, capacity)
        add(document, point, result.ceilings, result.overhead, result.rows, time.perf_counter() - begun)
        files.write(path, document)
        whole = len(points) == 1
        told = text.point_text(result.rows, result.overhead, device) if whole else text.short_text(result.rows, device)
        say((text.ceilings(result.ceilings) + "\n\n" if whole else "") + told + "\n")
    return path, document


def add(document: BenchDocument, point: Point, ceilings: Any, overhead: float, rows: list[Any], seconds: float) -> None:
    """Put a measured point into the document, in place."""
    document["points"].append(
        {
            "batch": point.batch,
            "text_tokens": point.text_tokens,
            "images": point.images,
            "ceilings": asdict(ceilings),  # type: ignore[typeddict-item]
            "vanilla_over_transformers": overhead,
            "date": now(),
            "seconds": round(seconds, 1),
        }
    )
    document["rows"] += json.loads(json.dumps(rows))
    document["points_left"] -= 1
    best = document["ceilings"]
    best["bytes_per_second"] = max(best["bytes_per_second"], ceilings.bytes_per_second)
    best["flops_per_second"] = max(best["flops_per_second"], ceilings.flops_per_second)
