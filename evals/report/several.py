"""Several runs as one document, for a page that shows them together.

A model is named with its run: "mini-vanilla@compositions". Every number stays as its own run found it, so a
difference is from that run's vanilla, and p-values are corrected within that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evals.report.caption import caption
from evals.report.columns import task_name
from evals.report.rows import tasks_of
from evals.store.result_document import CellEntry, ResultDocument, cell_key, protocol_of
from hidrop.errors import UserError


@dataclass(frozen=True)
class Run:
    """`name`: the end of the folder's path that tells it from the other runs, without blanks and slashes.

    Both have a meaning in the keys of cells.
    """

    name: str
    folder: Path
    document: ResultDocument

    def model(self, name: str) -> str:
        return f"{name}@{self.name}"

    def key(self, key: str) -> str:
        """The key of a row or a cell, which begins with its model, with the run in the model's name."""
        model, rest = key.split("/", 1)
        return f"{self.model(model)}/{rest}"


def runs_of(folders: Sequence[Path], documents: Sequence[ResultDocument]) -> list[Run]:
    """The runs with names. Raises UserError for a folder that is given twice, and if the runs are not comparable."""
    paths = [folder.resolve() for folder in folders]
    twice = next((folder for folder, path in zip(folders, paths, strict=True) if paths.count(path) > 1), None)
    if twice:
        raise UserError(f"{twice}: given twice. Name each results folder once")
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    names = ["_".join(":".join(path.parts[-length:]).replace("/", "").split()) for path in paths]
    runs = [Run(*parts) for parts in zip(names, folders, documents, strict=True)]
    for other in runs[1:]:
        if problem := _difference(runs[0].document, other.document):
            raise UserError(
                f"{runs[0].folder}, {other.folder}: {problem}. Such scores are not comparable: make a page of each"
            )
    if not shared_tasks(runs):
        raise UserError(f"{', '.join(map(str, folders))}: no task is in all of them. Make a page of each")
    return runs


def _difference(one: ResultDocument, other: ResultDocument) -> str | None:
    """Why the scores of two documents cannot be in one table, in words. None if they can."""
    if one["budget_reading"] != other["budget_reading"]:
        return f"budgets have different meanings ({one['budget_reading']} / {other['budget_reading']})"
    metrics = [{cell["task"]: cell["metric"] for cell in document["cells"]} for document in (one, other)]
    for task in tasks_of(one):
        if task not in tasks_of(other):
            continue
        protocols = protocol_of(one, task), protocol_of(other, task)
        if protocols[0] != protocols[1]:
            return f"{task_name(task)} was asked under different protocols ({' / '.join(protocols)})"
        found = [own[task] for own in metrics if task in own]
        if len(set(found)) > 1:
            return f"{task_name(task)} has different metrics ({' / '.join(found)})"
    return None


def shared_tasks(runs: Sequence[Run]) -> list[str]:
    """The tasks that every run has. A mean over other tasks would not be comparable."""
    return [task for task in tasks_of(runs[0].document) if all(task in tasks_of(run.document) for run in runs)]


def merged(runs: Sequence[Run]) -> ResultDocument:
    """One document with the rows of all runs in the tasks that all have.

    Of the other fields it has those that tables and figures read.
    """
    first, tasks = runs[0].document, shared_tasks(runs)
    fields: dict[str, Any] = {
        **first,
        "matrix": " + ".join(run.name for run in runs),
        "date": max(run.document["date"] for run in runs),
        "sources": {run.model(model): path for run in runs for model, path in run.document["sources"].items()},
        "protocols": {task: protocol_of(run.document, task) for run in runs for task in tasks},
    }
    for part in ("cells", "profiles", "failed"):
        fields[part] = [
            _renamed(run, entry)
            for run in runs
            for entry in cast(Any, run.document)[part]
            if entry.get("task") in (None, *tasks)
        ]
    for part in ("data", "data_versions", "groups", "own_tasks"):
        each: list[dict[str, Any]] = [cast(Any, run.document).get(part, {}) for run in reversed(runs)]
        fields[part] = {name: value for own in each for name, value in own.items()}
    fields["groups"] = {name: own for name, own in fields["groups"].items() if set(own) <= set(tasks)}
    fields["correlations"] = [
        {**entry, "rows": [run.key(name) for name in entry["rows"]]}
        for run in runs
        for entry in run.document.get("correlations", ())
        if entry["task"] in tasks
    ]
    named = [_names(run.document.get("reference", [])) for run in runs]
    fields["reference"] = list(dict.fromkeys(name for names in named for name in names))
    fields.pop("command", None)
    return cast(ResultDocument, fields)


def places_of(runs: Sequence[Run]) -> dict[str, tuple[Path, CellEntry]]:
    """By the key of a cell in `merged`: the folder that has its journal, and the cell as its run names it."""
    return {cell_key(_renamed(run, cell)): (run.folder, cell) for run in runs for cell in run.document["cells"]}


def captions(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What is said about the runs together, then each run's caption."""
    machines = [run.document["hardware"] for run in runs]
    shared = shared_tasks(runs)
    alike = all(machine == machines[0] for machine in machines)
    limits = [f"{run.name}: {run.document['limit'] or 'all'}" for run in runs]
    texts = ["each difference is from the vanilla of the same run"]
    texts += [] if alike else ["times are of different machines and cannot be compared between runs"]
    texts += [f"samples of each task: {', '.join(limits)}"] if len({run.document["limit"] for run in runs}) > 1 else []
    left = {f"{task_name(task)} of {run.name}" for run in runs for task in set(tasks_of(run.document)) - set(shared)}
    texts += (
        [f"only tasks that all runs have are shown and averaged, without {', '.join(sorted(left))}"] if left else []
    )
    own = [(f"{run.name}: {topic}", text) for run in runs for topic, text in caption(run.document)]
    return [("Several runs", "; ".join(texts)), *own]


def facts(runs: Sequence[Run], names: Sequence[str]) -> dict[str, Any]:
    """By run: the fields of its document that say how it was made."""
    return {run.name: {name: run.document.get(name) for name in names} for run in runs}


def _renamed(run: Run, entry: Mapping[str, Any]) -> Any:
    """An entry of a document with its run in the model's name, and in the key of the cell it is compared with."""
    renamed = {**entry, "model": run.model(entry["model"])}
    if base := entry.get("base"):
        renamed["base"] = run.key(base)
    return renamed


def _names(reference: str | list[str]) -> list[str]:
    return [reference] if isinstance(reference, str) else list(reference)
