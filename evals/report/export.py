"""Export the samples and cells of a results folder as parquet files, optionally as a data set with a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from evals.report.model_index import model_card
from evals.report.text import markdown
from evals.store import sample_table
from evals.store.cell_files import slug
from evals.store.folders import read_document
from evals.store.result_document import ResultDocument
from hidrop.atomic_file import make_folder, replacing, write_atomically
from hidrop.errors import UserError

CELLS, CARD = "cells.parquet", "README.md"
CARDS = "model-index"  # the folder of the models' cards


def export(folder: Path, target: Path, *, hub: bool) -> list[Path]:
    """Write samples.parquet (samples of all finished cells) and cells.parquet.

    With `hub` also a README.md, with which the folder is a data set of the Hugging Face Hub, and for each model a card
    with its evaluation results. A field whose type differs between tasks (the target: a word, or ten answers) is
    written as JSON. Without journals, as in committed results, an earlier table of samples is kept as it is. Raises
    UserError if there is none.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    document = read_document(folder)
    samples, earlier = target / sample_table.NAME, None
    rows = sample_table.rows_of(folder, document)
    if not rows and (earlier := sample_table.file_of(folder)) is None:
        raise UserError(f"{folder}: no finished journals in samples/. Run the matrix first; finished cells are skipped")
    make_folder(target)
    if earlier is None:
        sample_table.write(rows, samples)
    elif earlier.resolve() != samples.resolve():
        write_atomically(samples, earlier.read_bytes())
    paths = [samples, target / CELLS]
    flat = [{name: _flat(value) for name, value in cell.items()} for cell in document["cells"]]
    names = dict.fromkeys(name for cell in flat for name in cell)
    with replacing(paths[1]) as file:
        parquet.write_table(pyarrow.table({name: [cell.get(name) for cell in flat] for name in names}), file)
    if hub:
        paths.append(target / CARD)
        write_atomically(paths[-1], _card(document))
        make_folder(target / CARDS)
        for model in dict.fromkeys(cell["model"] for cell in document["cells"]):
            paths.append(target / CARDS / f"{slug(model)}.md")
            write_atomically(paths[-1], model_card(document, model))
    return paths


def _flat(value: Any) -> str | int | float | None:
    return value if isinstance(value, (str, int, float, type(None))) else json.dumps(value)


def _card(document: ResultDocument) -> str:
    """The card of the data set: front matter by which `datasets.load_dataset` finds the files, and the tables."""
    configs = [
        {"config_name": "samples", "default": True, "data_files": [{"split": "test", "path": sample_table.NAME}]},
        {"config_name": "cells", "data_files": [{"split": "test", "path": CELLS}]},
    ]
    front = {
        "pretty_name": f"hidrop: {document['matrix']}",
        "tags": ["hidrop", "visual-token-reduction"],
        "task_categories": ["visual-question-answering"],
        "configs": configs,
    }
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

Answers and scores of visual-token reduction methods for each sample, measured by hidrop.

```python
from datasets import load_dataset

samples = load_dataset(FOLDER, "samples", split="test")    # a row for each sample of each cell
cells = load_dataset(FOLDER, "cells", split="test")        # a row for each model, method and task
```

`cell` of a sample is `id` of its cell. `target`, `group` and lists are JSON. Images and questions are not here:
`doc_id` is the position in the task's data.

{markdown(document)}"""
