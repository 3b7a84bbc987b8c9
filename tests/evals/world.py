"""A matrix whose models, tasks and clock are made up, so that the rules of a run are tested without any of them."""

import io
import json
import re
from dataclasses import dataclass, field
from types import SimpleNamespace

from rich.console import Console

from evals.matrix.resolve import resolve
from evals.matrix.schema import load_matrix
from evals.run import runner
from evals.run.engine import Engine
from evals.run.processes import ALONE
from evals.run.progress import Progress
from hidrop.geometry import Geometry
from hidrop.methods import build

GEOMETRY = Geometry(layers=4, hidden=32, intermediate=64, heads=4, kv_heads=4, head_dim=8, vocab=99, visual_tokens=16)

MATRIX = """
name: tiny
protocol: lmms-eval
dtype: float32
batch_size: 2
models:
  plain: {source: plain}
  tuned: {source: tuned, reference: plain}
methods:
  vanilla: {}
  fastv: {layer: 1, keep: 4}
  own: {name: checkpoint}
tasks:
  gqa: {data: mini}
  pope: {data: mini}
runs:
  - {models: [plain], methods: [vanilla, fastv]}
  - {models: [tuned], methods: [own]}
profile: {repeats: 1}
"""
SAMPLES = 5


# Records of a journal with everything that others rely on.
ANSWER = {"answer": "x", "batch": 0, "prompt_tokens": 26, "visual_tokens": 16, "milliseconds": 500.0, "error": None}
SCORE = {"reading": "x", "score": 1.0, "target": "yes", "image_key": "a", "category": None, "group": None}
RESULT = {"metric": "accuracy", "value": 100.0, "extra": {}, "n_failed": 0, "dtype": "float32", "seconds": 1.0}


# What a profile says of a method.
MS = {"median": 2.0, "p95": 3.0, "min": 1.0}
TIMING = {
    "batch": 1, "text_tokens": 10, "new_tokens": 4, "repeats": 1, "ttft_ms": MS, "prefill_ms": MS,
    "prefill_source": "features", "selection_ms": MS, "decode_ms": MS, "entering": [16] * 4, "flops": 1,
    "paper_macs": 1, "kv_bytes": 1, "peak_bytes": 1,
}  # fmt: skip


def result_of(n, **values):
    prompt = {"text": 10, "visual": 16, "entering": None, "count": n}
    return {**RESULT, "n": n, "prompts": [prompt], **values}


# By task, and whether the method is vanilla: right answers of SAMPLES, and the task's value. All of POPE's targets are
# yes, so 3 of 5 give a recall of 0.6 and an F1 of 0.75.
RIGHT = {("gqa", True): (4, 80.0), ("gqa", False): (3, 60.0), ("pope", True): (5, 100.0), ("pope", False): (3, 75.0)}


@dataclass
class World:
    """A fake of everything heavy. Vanilla's answers are right more often than others'."""

    weights: dict[str, str] = field(default_factory=dict)
    ends: dict[str, tuple[int, ...]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)
    timed: list[str] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)
    stop_after: int | None = None
    holds: int = 8  # samples that memory holds, for `batch_size: auto`
    batches: dict[str, int] = field(default_factory=dict)  # by the key of a cell that was asked

    def engine(self) -> Engine:
        return Engine(
            load=self.load,
            weights_digest=lambda source: self.weights.get(source, f"weights of {source}"),
            answer_ends=lambda source: self.ends.get(source, (2,)),
            data_digest=lambda cell: f"data of {cell.task}",
            language_model=lambda *parts: parts,
            ask=self.ask,
            evaluate=self.evaluate,
            profile=self.profile,
            release=lambda: None,
            batch_sizes=self.sizes,
        )

    def sizes(self, loaded, cells, processes):
        self.happens(f"size {loaded.name}")
        return {cell.task: self.holds for cell in cells}

    def load(self, cell, device):
        self.happens(f"load {cell.model}")
        return SimpleNamespace(model=SimpleNamespace(dtype="torch.float32"), name=cell.model)

    def ask(self, lm, cell):
        self.happens(f"ask {cell.key}")
        self.answer(lm, cell)

    def answer(self, lm, cell):
        """Two samples a batch, as the matrix says."""
        _, _, sized, record, done, mine = lm
        self.batches[cell.key] = sized.batch_size
        for doc_id in range(SAMPLES):
            if doc_id in done or not mine(doc_id // 2):
                continue
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append((cell.key, doc_id))
            record([{**ANSWER, "doc_id": doc_id, "answer": f"{cell.label} {doc_id}", "batch": doc_id // 2}])

    def evaluate(self, lm, cell):
        reducer = lm[1]
        self.happens(f"evaluate {cell.key}")
        self.answer(lm, cell)
        right, value = RIGHT[cell.task, reducer.name == "vanilla"]
        samples = [
            {**SCORE, "answer": "x", "doc_id": i, "image_key": str(i), "score": float(i < right)}
            | {"reading": "yes" if i < right else "no"}
            for i in range(SAMPLES)
        ]
        found = SimpleNamespace(metric="exact_match", value=value, extra={}, n=SAMPLES, n_failed=0, samples=samples)
        return SimpleNamespace(**vars(found), unscored=None, files={})

    def profile(self, loaded, reducers, settings):
        self.happens(f"profile {loaded.name}")
        self.timed += reducers
        return {label: SimpleNamespace(rows=self.rows(label)) for label in reducers}

    @staticmethod
    def rows(label):
        return lambda model, method: [{"model": model, "method": method, "label": label, **TIMING}]

    def happens(self, what):
        self.calls.append(what)
        if what in self.broken:
            raise self.broken[what]


def going(tmp_path):
    """go(world, ...): run MATRIX, and the document of it. `go.log` holds what a user sees."""
    path = tmp_path / "tiny.yaml"
    path.write_text(MATRIX)

    def run(world, out="out", only=None, processes=ALONE, **changes):
        matrix = load_matrix(path, limit=changes.get("limit"))
        cells = matrix.cells(only=only)
        tuned = build("pdrop", {"layers": (1, 2, 3)})
        rows, problems = resolve(matrix, matrix.cells(), peek=lambda s: (GEOMETRY, tuned if s == "tuned" else None))
        assert problems == []
        progress = Progress(Console(file=run.log, quiet=not processes.main), len(cells))
        others = [cell for cell in matrix.cells() if cell not in cells and (cell.model, cell.label) in rows]
        return runner.run(
            matrix,
            cells,
            rows,
            tmp_path / out,
            device="cpu",
            engine=world.engine(),
            progress=progress,
            others=others,
            processes=processes,
            force=changes.get("force", False),
            keep_cells=changes.get("keep_cells", False),
            pause=changes.get("pause", lambda: None),
            kind=changes.get("kind"),
        )

    run.log = io.StringIO()
    return run


def without_date(document):
    """A document without its own date, those of its cells' sessions, and the times of scoring."""
    cells = [{**cell, "provenance": without_dates(cell["provenance"])} for cell in document["cells"]]
    cells = [{**cell, "scoring_seconds": 0} for cell in cells]
    return {key: value for key, value in {**document, "cells": cells}.items() if key != "date"}


def without_dates(sessions):
    """The different sessions, as two can begin in one second or in two."""
    told = {json.dumps({key: value for key, value in one.items() if key != "date"}) for one in sessions}
    return sorted(told)


def samples_of(folder):
    """The journals by name, without their sessions, and without the checksums, which cover the sessions."""
    return {path.name: undated(path.read_bytes()) for path in (folder / "samples").glob("*.jsonl")}


def undated(journal):
    """A journal's bytes without what may differ between an undisturbed and an interrupted run."""
    lines = [line for line in journal.splitlines(keepends=True) if b'"kind":"provenance"' not in line]
    lines = [re.sub(rb',"scoring_seconds":[0-9.e-]+', b"", line) for line in lines]
    return re.sub(rb',"sum":"[0-9a-f]{16}","link":"[0-9a-f]{16}"}', b"}", b"".join(lines))
