"""Export the samples and cells of a results folder as parquet files, optionally as a data set with a card."""

from __future__ import annotations

import json
from pathlib import Path

from evals.report.text import markdown
from evals.store.folders import read_document, samples_of
from evals.store.result_document import ResultDocument
from hidrop.atomic_file import make_folder, replacing, write_atomically
from hidrop.errors import UserError

# The fields of a sample's answer and of its score, in the order of the exported columns.
ANSWER = ("prompt_hash", "prompt_tokens", "visual_tokens", "new_tokens", "milliseconds", "error", "batch", "answer")
SCORE = ("reading", "target", "score", "image_key", "category", "group")


def export(folder: Path, target: Path, *, card: bool) -> list[Path]:
    """Write samples.parquet (samples of all finished cells) and cells.parquet; with `card` also a README.md.

    A field whose type differs between tasks (the target: a word, or ten answers) is written as JSON. Raises UserError
    if the folder has no finished journals, as in the committed results.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    document = read_document(folder)
    rows = []
    for cell in document["cells"]:
        for sample in samples_of(folder, cell) or ():
            names = {name: cell[name] for name in ("model", "method", "label", "task")}
            values = {name: sample.get(name) for name in ("doc_id", *ANSWER, *SCORE)}
            for name in ("target", "group"):
                values[name] = json.dumps(values[name], ensure_ascii=False)
            rows.append({**names, **values})
    if not rows:
        raise UserError(f"{folder}: no finished journals in samples/. Run the matrix first; finished cells are skipped")
    make_folder(target)
    paths = [target / "samples.parquet", target / "cells.parquet"]
    with replacing(paths[0]) as file:
        parquet.write_table(arrow.Table.from_pylist(rows), file)
    flat = [{k: v if isinstance(v, (str, int, float, type(None))) else json.dumps(v) for k, v in cell.items()}
            for cell in document["cells"]]  # fmt: skip
    with replacing(paths[1]) as file:
        parquet.write_table(arrow.Table.from_pylist(flat), file)
    if card:
        paths.append(target / "README.md")
        write_atomically(paths[2], _card(document))
    return paths


def _card(document: ResultDocument) -> str:
    return f"""---
pretty_name: "hidrop: {document["matrix"]}"
configs:
- config_name: samples
  data_files: samples.parquet
- config_name: cells
  data_files: cells.parquet
---

Answers and scores of visual-token reduction methods for each sample, measured by hidrop.

{markdown(document)}"""
