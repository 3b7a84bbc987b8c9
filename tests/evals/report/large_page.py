"""The page of 12 benchmarks with 40 rows each on LLaVA-1.5's 576 tokens, with made-up answers: how large is it?

python -m tests.evals.report.large_page report.html
"""

from __future__ import annotations

import base64
import random
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from evals.report import page, page_samples
from evals.report.page_pictures import Picture, ShownSample, View
from evals.store.kept_tokens import pack
from hidrop.geometry import PRESETS
from hidrop.plan import Cut, Schedule
from tests.evals.report.conftest import make_cell, make_document, make_profile

TASKS = (
    "gqa", "mmbench_en_dev", "mmbench_cn_dev", "textvqa_val", "pope", "mme", "seedbench", "mmstar", "vqav2_val",
    "vizwiz_vqa_val", "scienceqa_img", "mmmu_val",
)  # fmt: skip
METHODS = (
    "hidrop", "fastv", "pdrop", "sparsevlm", "divprune", "visionzip", "dart", "feather", "fastervlm", "vispruner",
    "holov", "prumerge", "cdpruner",
)  # fmt: skip
BUDGETS = (192, 128, 64)
ROWS = 1 + len(METHODS) * len(BUDGETS)
SAMPLES, IMAGE = 60, 7_000  # answers in a journal; characters of an image of 192 pixels, as data URL
FURTHER = 3_000  # answers of each journal that have no place on the page, only in the lists of flips
GEOMETRY = PRESETS["llava-1.5-7b"]


def document() -> dict[str, Any]:
    """40 rows, with statistics, provenance and timings."""
    draw = random.Random(0)
    rows = [("vanilla", Schedule())]
    for budget in BUDGETS:
        cuts = (Cut(2, budget), Cut(8, budget // 2), Cut(16, budget // 4))
        rows += [(f"{name}-{budget}", Schedule(cuts=cuts[: 1 + 2 * (name in METHODS[:4])])) for name in METHODS]
    cells = []
    for task in TASKS:
        for label, schedule in rows:
            value = 80.0 if label == "vanilla" else draw.uniform(60, 80)
            stats: dict[str, Any] = {"interval": [value - 2, value + 2]}
            if label != "vanilla":
                against = {"difference": value - 80, "interval": [value - 82, value - 78], "p": 0.01, "p_holm": 0.04}
                stats["against"] = {**against, "gained": 12, "lost": 40, "loyalty": 84.2}
            session = {"hardware": {"device": "cuda", "cpu": "Some CPU", "gpu": "Some GPU", "cores": 16, "threads": 16,
                       "memory_bytes": 2**36}, "versions": {"python": "3.11", "torch": "2.13"}, "commit": "0" * 12,
                       "date": "2026-01-02T03:04:05+00:00"}  # fmt: skip
            more = {
                "stats": stats,
                "provenance": [session],
                "id": f"{len(cells):064x}",
            }
            cell = make_cell("llava", label, schedule, task, value, geometry=GEOMETRY, **more)
            cells.append({**cell, "base": f"llava/vanilla/{task}"})
    profiles = [make_profile(cell, 100 * cell["share"] + draw.random()) for cell in cells[: len(rows)]]
    return make_document(
        cells=cells, profiles=profiles, failed=[], matrix="large", data=dict.fromkeys(TASKS, "made up")
    )


def answers(folder: Path, cell: Any) -> list[dict[str, Any]]:
    """A journal's answers: each cut kept other tokens of each image."""
    draw = random.Random(f"{cell['label']}/{cell['task']}")
    cuts = [
        (layer, count) for layer, count in enumerate(cell["entering"]) if layer and count != cell["entering"][layer - 1]
    ]
    found = []
    for doc in range(SAMPLES):
        text = draw.choice(["yes", "no", "a red bus", "the man on the left", "two", "B"])
        kept = [[layer, pack(sorted(draw.sample(range(576), count)), 576)] for layer, count in cuts]
        row = {"doc_id": doc, "answer": text, "reading": text, "score": float(draw.random() < 0.7), "error": None}
        row |= {"target": "a red bus", "category": f"category {doc % 7}", "visual_tokens": 576, "kept": kept}
        found.append({**row, "panels": [[[1, 24, 24, 0]]], "whole": False})
    right = 0.9 if cell["label"] == "vanilla" else 0.8
    further = range(SAMPLES, SAMPLES + FURTHER)
    return [*found, *({"doc_id": doc, "reading": "", "score": float(draw.random() < right)} for doc in further)]


def identity(folder: Path, cell: Any) -> dict[str, Any]:
    shared = {name: "0" * 64 for name in ("data", "source", "official", "weights")}
    entering = cell["entering"]
    return {
        "id": cell["id"],
        "method": cell["method"],
        "entering": entering,
        "fields": {"layer": 2, "keep": 64},
        **shared,
    }


def asked(*arguments: Any) -> dict[int, ShownSample]:
    """A question and an image for each sample."""
    task, draw = arguments[1], random.Random(arguments[1])
    question = "What is the man on the left of the picture next to the red bus holding in his hand? " * 2
    found = {}
    for doc in range(SAMPLES):
        url = f"data:image/webp;base64,{base64.b64encode(draw.randbytes(IMAGE * 3 // 4)).decode()}"
        found[doc] = ShownSample(f"{task} {doc}: {question}", {(False, None): View((Picture(url),), (1,))})
    return found


def html() -> str:
    """The page's text."""
    made: dict[str, Any] = {"samples_of": answers, "_identity": identity, "_asked": asked}
    with mock.patch.multiple(page_samples, **made):
        return page.html(document(), Path("large"))  # type: ignore[arg-type]


if __name__ == "__main__":
    text = html()
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
    print(f"{sys.argv[1]}: {len(TASKS)} benchmarks, {ROWS} rows, {len(text.encode()) / 1e6:.2f} MB")
