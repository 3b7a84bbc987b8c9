"""The results of each model in the form of Hugging Face's evaluation results: `model-index` in a model card.

The form is documented with `huggingface_hub.EvalResult`: a task, a dataset and metrics. A row of the table is a metric
of its task's dataset, with the method and its tokens as the metric's arguments, so that no number is taken for that of
the model without reduction.
"""

from __future__ import annotations

from typing import Any

import yaml

from evals.report.columns import task_name
from evals.report.units import share_text
from evals.store.result_document import CellEntry, ResultDocument, protocol_of
from evals.tasks.data import MINI
from evals.tasks.registry import get_task, known

IMAGES, VIDEOS = "visual-question-answering", "video-text-to-text"  # task identifiers of the Hub


def model_index(document: ResultDocument, model: str) -> list[dict[str, Any]]:
    """The model-index of one model of the document. Cells without a value are left out."""
    cells = [cell for cell in document["cells"] if cell["model"] == model and cell["value"] is not None]
    results = [
        {
            "task": _task(task),
            "dataset": _dataset(document, task),
            "metrics": [_metric(cell) for cell in cells if cell["task"] == task],
        }
        for task in dict.fromkeys(cell["task"] for cell in cells)
    ]
    return [{"name": model, "results": results}]


def model_card(document: ResultDocument, model: str) -> str:
    """A model card with the model-index of one model, and a sentence on what it is for."""
    front = yaml.safe_dump(
        {"model-index": model_index(document, model)}, sort_keys=False, allow_unicode=True, width=120
    )
    source = document["sources"].get(model, "not stated")
    return (
        f"---\n{front}---\n\n"
        f"Evaluation results of `{model}` ({source}) with each method that was measured, by hidrop (matrix "
        f"{document['matrix']}, {document['date'][:10]}). Copy `model-index` into the model's card.\n"
    )


def _task(task: str) -> dict[str, Any]:
    filmed = known(task) and get_task(task).filmed
    return {"type": VIDEOS if filmed else IMAGES, "name": task_name(task)}


def _dataset(document: ResultDocument, task: str) -> dict[str, Any]:
    """The data that was asked. The embedded benchmark and files of the user's own are in no repository."""
    asked: dict[str, Any] = {"protocol": protocol_of(document, task)}
    if document["limit"]:
        asked["limit"] = document["limit"]
    if document["data"].get(task, MINI) == MINI:
        return {"type": f"hidrop-mini-{task}", "name": f"{task_name(task)} (hidrop's embedded set)", "args": asked}
    if not known(task) or task in document.get("own_tasks", {}):
        return {"type": task, "name": task_name(task), "args": asked}
    source = get_task(task).source
    found: dict[str, Any] = {"type": source.repository, "name": task_name(task), "split": source.split}
    found |= {name: value for name, value in (("config", source.config), ("revision", source.revision)) if value}
    return {**found, "args": asked}


def _metric(cell: CellEntry) -> dict[str, Any]:
    about: dict[str, Any] = {
        "method": cell["method"],
        "row": cell["label"],
        "visual_tokens": round(cell["average_tokens"], 2),
        "share": round(cell["share"], 4),
        "samples": cell["n"],
    }
    if stats := cell.get("stats"):
        about["interval_95"] = [round(end, 2) for end in stats["interval"]]
    name = f"{cell['metric']}, {cell['label']} ({share_text(cell['share'])} of the visual tokens)"
    assert cell["value"] is not None
    return {"type": cell["metric"], "name": name, "value": round(cell["value"], 4), "args": about}
