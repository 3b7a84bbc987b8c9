"""Small result documents, made from real plans so that their numbers belong together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.cli import main
from hidrop.geometry import PRESETS, Geometry
from hidrop.plan import Cut, Schedule

LITTLE = """
name: little
protocol: lmms-eval
dtype: float32
batch_size: 8
limit: 16
models:
  plain: {source: "mini:vanilla"}
  tuned: {source: "mini:hidrop", reference: plain}
methods:
  vanilla: {}
  fastv: {layer: 2, keep: 4}
  random: {keep: 9, seed: [0, 1]}
  downsample: {side: 3}
  trained: {name: checkpoint}
tasks:
  gqa: {data: mini}
  pope: {data: mini}
runs:
  - {models: [plain], methods: [vanilla, fastv, random, downsample]}
  - {models: [tuned], methods: [trained]}
profile: null
"""


@pytest.fixture(scope="session")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a small real run, embedded models on embedded data, without its report."""
    folder = tmp_path_factory.mktemp("little")
    (folder / "little.yaml").write_text(LITTLE)
    assert main(["run", "--matrix", str(folder / "little.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder / "out"


SMALL = Geometry(layers=4, hidden=32, intermediate=64, heads=4, kv_heads=4, head_dim=8, vocab=100, visual_tokens=16)
WHOLE = Schedule()
FREE = Schedule(cuts=(Cut(1, 4),))
TRAINED = Schedule(inject=2, cuts=(Cut(2, 4),), exit=4)


def make_cell(
    model: str,
    label: str,
    schedule: Schedule,
    task: str,
    value: float | None,
    *,
    geometry: Geometry = SMALL,
    base: float = 80.0,
    **fields: Any,
) -> dict[str, Any]:
    """One cell of a document, as `evals.store.document.cell_entry` makes it."""
    plan = schedule.plan(geometry)
    return {
        **make_row(model, label, schedule, geometry),
        "task": task,
        "metric": "exact_match",
        "value": value,
        "extra": {},
        "n": 500,
        "n_failed": 0,
        "warnings": [],
        "percent_of_vanilla": None if value is None else 100 * value / base,
        "flops": plan.flops(12),
        "paper_macs": plan.paper_macs(),
        "kv_bytes": plan.kv_bytes(12, 4),
        "text_tokens": 12.0,
        "seconds": 1.5,
        "id": "0123456789abcdef",
        "base": None,
        **fields,
    }


def make_row(model: str, label: str, schedule: Schedule, geometry: Geometry) -> dict[str, Any]:
    """What is known of a row before it runs, as `evals.store.document.row_entry` makes it."""
    plan = schedule.plan(geometry)
    return {
        "model": model,
        "method": label.split("-")[0],
        "label": label,
        "group": label,
        "trained": False,
        "adaptive": False,
        "average_tokens": plan.average_tokens,
        "share": plan.share,
        "kept": plan.kept,
        "budget": None,
        "entering": list(plan.entering),
        "image_tokens": geometry.visual_tokens,
    }


def make_failure(
    model: str, label: str, task: str | None, error: str, schedule: Schedule | None = None, **fields: Any
) -> dict[str, Any]:
    """A failed cell of a small model, or (without a task) a failed timing."""
    row = make_row(model, label, schedule or FREE, SMALL)
    return {**row, "task": task, "error": error, "traceback": "runs/mini/failures/a.txt", **fields}


def make_profile(cell: dict[str, Any], milliseconds: float, batch: int = 1) -> dict[str, Any]:
    """The timing of a cell's row."""

    def spread(median: float) -> dict[str, float]:
        return {"median": median, "p95": 1.1 * median, "min": 0.9 * median}

    return {
        "model": cell["model"],
        "method": cell["method"],
        "label": cell["label"],
        "batch": batch,
        "text_tokens": 12,
        "new_tokens": 4,
        "repeats": 10,
        "prefill_ms": spread(milliseconds),
        "decode_ms": spread(milliseconds / 10),
        "ttft_ms": spread(2 * milliseconds),
        "prefill_source": "features",
        "selection_ms": spread(milliseconds / 50),
        "entering": cell["entering"],
        "peak_bytes": 3 * 1024**2,
        "kv_bytes": cell["kv_bytes"],
        "flops": cell["flops"],
        "paper_macs": cell["paper_macs"],
    }


def make_document(**fields: Any) -> dict[str, Any]:
    """Two tasks, vanilla, a training-free method and one that the second model was trained with."""
    cells = [
        make_cell("mini", "vanilla", WHOLE, "gqa", 80.0),
        make_cell("mini", "vanilla", WHOLE, "pope", 80.0, metric="f1"),
        make_cell("mini", "fastv-7", FREE, "gqa", 60.0, budget="7"),
        make_cell("mini", "fastv-7", FREE, "pope", 70.0, budget="7", metric="f1"),
        make_cell("mini", "random-7", FREE, "gqa", 62.0, budget="7"),
        make_cell("mini", "random-7", FREE, "pope", 64.0, budget="7", metric="f1", n_failed=2),
        make_cell("mini-hidrop", "hidrop", TRAINED, "gqa", 78.04, trained=True),
    ]
    rows = {(cell["model"], cell["label"]): cell for cell in reversed(cells)}
    return {
        "schema": 1,
        "matrix": "mini",
        "out": "runs/mini",
        "protocol": "llava",
        "limit": None,
        "budget_reading": "average",
        "dtype": "float32",
        "attention": "sdpa",
        "batch_size": 8,
        "sources": {"mini": "mini:vanilla", "mini-hidrop": "mini:hidrop"},
        "data": {"gqa": "mini", "pope": "mini"},
        "hardware": {"device": "cpu", "cpu": "Some CPU", "cores": 2, "threads": 1, "memory_bytes": 8 * 1024**3},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "lmms_eval": None},
        "commit": None,
        "date": "2026-01-02T03:04:05+00:00",
        "cells": cells,
        "profiles": [make_profile(cell, 10.0 * cell["share"]) for cell in reversed(rows.values())],
        "failed": [make_failure("mini-hidrop", "hidrop", "pope", "RuntimeError: no | luck", TRAINED, trained=True)],
        **fields,
    }


@pytest.fixture
def document() -> dict[str, Any]:
    return make_document()


@pytest.fixture
def cell() -> Callable[..., dict[str, Any]]:
    return make_cell


@pytest.fixture
def failure() -> Callable[..., dict[str, Any]]:
    return make_failure


@pytest.fixture
def document_of() -> Callable[..., dict[str, Any]]:
    """document_of(cells=[...]): a document of these cells alone."""

    def made(**fields: Any) -> dict[str, Any]:
        return make_document(**{"cells": [], "profiles": [], "failed": [], **fields})

    return made


@pytest.fixture
def timing() -> Callable[..., dict[str, Any]]:
    return make_profile


@pytest.fixture
def paper() -> dict[str, Any]:
    """The paper's matrix on LLaVA-1.5-7B, with made-up scores."""
    geometry = PRESETS["llava-1.5-7b"]
    hidrop = Schedule(9, (Cut(10, 215), Cut(14, 10), Cut(16, 5), Cut(18, 1)), 25)
    cells = [
        make_cell("llava-1.5-7b", "vanilla", WHOLE, "gqa", 61.0, geometry=geometry, base=61.0),
        make_cell("llava-1.5-7b", "fastv", Schedule(cuts=(Cut(2, 30),)), "gqa", 47.0, geometry=geometry, budget="64"),
        make_cell("hidrop-64", "hidrop", hidrop, "gqa", 60.0, geometry=geometry, trained=True),
    ]
    return make_document(matrix="paper", cells=cells, profiles=[], failed=[])


@pytest.fixture
def paper_full(paper: dict[str, Any]) -> dict[str, Any]:
    """The same rows on the tasks of the matrix paper-full: 80 and 98 % of vanilla in each of them."""
    from evals.matrix.schema import load_matrix

    factors = {"vanilla": 1.0, "fastv": 0.8, "hidrop": 0.98}
    wholes = {task: 1500.0 if task == "mme" else 60.0 for task in load_matrix("paper-full").tasks}
    cells = [
        {**cell, "task": task, "value": factor * whole, "percent_of_vanilla": 100 * factor}
        for task, whole in wholes.items()
        for cell, factor in zip(paper["cells"], factors.values(), strict=True)
    ]
    return {**paper, "matrix": "paper-full", "cells": cells}


@pytest.fixture
def journal(tmp_path: Path, data_folder: Path) -> Callable[..., Path]:
    """Write the journal of a cell with the given answers (None: the sample failed); returns the results folder.

    data: the folder of the data that the cell has read.
    """
    from evals.store.cell_files import readable
    from evals.store.journal import Journal, identity_hash
    from evals.tasks.data import TaskSpec, data_digest
    from evals.tasks.protocol import protocol_version
    from tests.evals.world import ANSWER

    def write(
        task: str,
        answers: Sequence[str | None],
        cell: str = "tiny/vanilla",
        out: str = "out",
        protocol: str = "llava",
        version: str | None = None,
        data: Path = data_folder,
    ) -> Path:
        asked = [protocol, version or protocol_version(protocol, task)]
        identity: dict[str, Any] = {"task": task, "data": data_digest(TaskSpec(task, str(data))), "method": cell}
        identity["protocol"] = asked
        path = tmp_path / out / "samples" / f"{readable(f'{cell}/{task}')}.{identity_hash(identity)[:12]}.jsonl"
        with Journal(path, identity) as log:
            for doc_id, answer in enumerate(answers):
                error = None if answer is not None else "broken image"
                log.append({"kind": "answer", **ANSWER, "doc_id": doc_id, "answer": answer or "", "error": error})
        return tmp_path / out

    return write


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., Path]:
    """Write objects as a file with one JSON object per line."""

    def write(rows: Iterable[dict[str, Any]], name: str = "answers.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
