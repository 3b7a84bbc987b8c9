"""Runs a sweep point by point, writes the file after each, and goes on with a file that was not finished."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from evals.bench import SCHEMA, files, text
from evals.bench.answer import points_of, where
from evals.bench.inference import Asked, PointResult, bench_point
from evals.bench.latency import times
from evals.bench.sweep import Sweep
from evals.model.out_of_memory import is_out_of_memory
from evals.profiling.memory import resident_bytes
from evals.run.batch_sizes import SHARE, free_bytes
from hidrop.method_source import method_digest
from hidrop.own_code import code_digest
from hidrop.provenance import now, provenance
from hidrop.runtime.cuda_graphs import Recorder

if TYPE_CHECKING:
    from evals.bench.document import BenchDocument
    from evals.profiling.point import Point


def header(loaded: Any, sweep: Sweep, asked: Mapping[str, Asked], **facts: Any) -> BenchDocument:
    """The document before the first point. `facts`: model, source, device, dtype, attention, memory_kept, compiled."""
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
        "code": code_digest(),
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
    points, document = sweep.points(), copy.deepcopy(start)
    found = files.unfinished(start, out)
    if found is None:
        path = files.new_path(start, out, sweep.title)
    else:
        path, document = found[0], cast("BenchDocument", found[1])
        done = len(document["points"])
        say(f"{path}: goes on with an unfinished run, {done} of {len(points)} points are measured\n")
        for rows in points_of(document["rows"]).values():
            say(text.short_text(rows) + "\n")
    measured = {(one["images"], one["text_tokens"], one["batch"]) for one in document["points"]}
    room = room_for_batches(loaded)
    for point in points:
        if (point.images, point.text_tokens, point.batch) in measured:
            continue
        begun = time.perf_counter()
        try:
            result = bench_point(loaded, asked, point, sweep.new, recorder, room)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            result = None
        if result is None:  # outside of the block, whose error holds the tensors of the failed run
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            add(document, point, None, time.perf_counter() - begun)
            files.write(path, document)
            say(f"{where((point.images, point.text_tokens, point.batch))}: out of memory\n".capitalize())
            continue
        add(document, point, result, time.perf_counter() - begun)
        files.write(path, document)
        whole = len(points) == 1
        told = text.point_text(result.rows, result.overhead) if whole else text.short_text(result.rows)
        say((text.ceilings(result.ceilings) + "\n\n" if whole else "") + told + "\n")
    return path, document


def add(document: BenchDocument, point: Point, result: PointResult | None, seconds: float) -> None:
    """Put a point into the document, in place. `result` None: it did not fit into the memory."""
    document["points"].append(
        {
            "batch": point.batch,
            "text_tokens": point.text_tokens,
            "images": point.images,
            "out_of_memory": result is None,
            "ceilings": asdict(result.ceilings) if result else None,  # type: ignore[typeddict-item]
            "vanilla_over_transformers": result.overhead if result else None,
            "beside_ms": {name: times(taken) for name, taken in result.beside.items()} if result else {},
            "date": now(),
            "seconds": round(seconds, 1),
        }
    )
    document["points_left"] -= 1
    if result:
        document["rows"] += json.loads(json.dumps(result.rows))
        for name, value in asdict(result.ceilings).items():
            best = document["ceilings"]
            best[name] = max(best[name], value)  # type: ignore[literal-required]


def room_for_batches(loaded: Any) -> int | None:
    """Bytes that batches may take: the same share of what is free as for `batch_size: auto`."""
    free = free_bytes(loaded)
    return None if free is None else int(SHARE * free)
