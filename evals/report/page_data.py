"""How the samples of a page are written: 12 benchmarks with 40 rows each have 20,000 answers.

A task's rows are named once, and an answer is a list without names:

    [text, score, kind, reading, shape, kept, error]

text: its place in the sample's `texts`. kind: its place in KINDS. reading: equal for answers of a sample that were read
as the same, None if unknown. shape: its place in `shapes`, where its tokens are (see SHAPE). kept: (layer, tokens as
base64 bits) of each cut, or None. error: left out if there is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

# How an answer compares with vanilla's, the largest change first.
KINDS = ("lost", "gained", "changed", "same", "uncompared")
# Which of the sample's `views` the model saw, its grids, those on each picture of the view, and frames that share one.
SHAPE = ("view", "panels", "on", "span")
OLDER_SHAPE = ("whole", "one", "panels")  # of pages with one image for each sample


def pack(tasks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """`tasks` and `shapes` of the page's data, from samples whose answers are dictionaries by cell key."""
    shapes: list[list[Any]] = []
    packed = {}
    for task, samples in tasks.items():
        rows = list(dict.fromkeys(key for sample in samples for key in sample["answers"]))
        packed[task] = {"rows": rows, "samples": [pack_sample(sample, rows, shapes) for sample in samples]}
    return {"tasks": packed, "shapes": shapes}


def pack_sample(sample: dict[str, Any], rows: Sequence[str], shapes: list[list[Any]]) -> dict[str, Any]:
    """One sample. `shapes` gets those of its answers that it lacks."""
    texts = list(dict.fromkeys(answer["text"] for answer in sample["answers"].values()))
    answers: list[list[Any] | None] = []
    for row in rows:
        if (answer := sample["answers"].get(row)) is None:
            answers.append(None)
            continue
        shape = [answer[name] for name in SHAPE]
        if shape not in shapes:
            shapes.append(shape)
        entry = [texts.index(answer["text"]), answer["score"], KINDS.index(answer["kind"]), answer["reading"]]
        entry += [shapes.index(shape), answer["kept"], *([answer["error"]] if answer["error"] else [])]
        answers.append(entry)
    return {**sample, "texts": texts, "answers": answers}


def size(sample: dict[str, Any]) -> int:
    """About how many characters a sample takes on the page, without its images."""
    return len(json.dumps(pack_sample(sample, list(sample["answers"]), []), ensure_ascii=False, separators=(",", ":")))


def unpack(data: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The samples of each task as they were before `pack`. Those of an older page keep its form: see `convert_older`.

    Raises KeyError, TypeError, IndexError or ValueError for other data.
    """
    found = {}
    for task, own in data["tasks"].items():
        if isinstance(own, list):
            found[task] = own
            continue
        found[task] = [_unpacked(sample, own["rows"], data["shapes"]) for sample in own["samples"]]
    return found


def _unpacked(sample: dict[str, Any], rows: Sequence[str], shapes: Sequence[Sequence[Any]]) -> dict[str, Any]:
    answers = {}
    for row, entry in zip(rows, sample["answers"], strict=True):
        if entry is None:
            continue
        text, score, kind, reading, shape, kept, *error = entry
        names = OLDER_SHAPE if len(shapes[shape]) == len(OLDER_SHAPE) else SHAPE
        answers[row] = {
            "text": sample["texts"][text],
            "score": score,
            "kind": KINDS[kind],
            "reading": reading,
            "error": error[0] if error else None,
            **dict(zip(names, shapes[shape], strict=True)),
            "kept": kept,
        }
    return {**{name: value for name, value in sample.items() if name != "texts"}, "answers": answers}
