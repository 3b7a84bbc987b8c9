"""The run that is compared with published answers: the journal of one cell, and the documents that it read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evals.store.cell_files import existing, readable
from evals.store.folders import read_document
from evals.store.journal import Lines
from evals.store.result_document import cell_key
from evals.tasks.base import LLAVA
from evals.tasks.checks import missing
from evals.tasks.data import HUB, MINI, TaskSpec, data_digest, prepare, version_problem
from evals.tasks.registry import get_task
from hidrop.errors import UserError


@dataclass(frozen=True)
class Run:
    """The answers of one cell by doc_id; None for a sample that failed. `protocol`: its name and version."""

    path: Path
    task: str
    data: str
    answers: dict[int, str | None]
    protocol: tuple[str, ...] = ()


def find_run(place: Path, task: str | None, pattern: str | None) -> Path:
    """`place` if it is a file, else the one journal of a results folder that matches a task and a model/method pattern.

    Raises UserError if no journal or several journals match, and names them.
    """
    if place.is_file():
        return place
    folder = place / "samples"
    if not folder.is_dir():
        raise UserError(f"{place}: neither a journal nor a results folder (it has no samples/)")
    paths = sorted(folder.glob("*.jsonl"))
    wanted = f"{name_pattern(pattern or '*/*')}.{readable(task) if task else '*'}.*.jsonl"
    labelled = _by_label(place, f"{pattern or '*/*'}/{task or '*'}")
    found = [path for path in paths if path in labelled or fnmatchcase(path.name, wanted)]
    names = ", ".join(path.name for path in found or paths)
    if not found:
        raise UserError(
            f"{folder}: no run matches '{pattern or '*'}' with task '{task or '*'}'. Existing runs: {names}"
        )
    if len(found) > 1:
        raise UserError(
            f"{folder}: several runs match. Narrow with --task and --cell MODEL/METHOD, or give one as --run: {names}"
        )
    return found[0]


def _by_label(folder: Path, pattern: str) -> set[Path]:
    """The journals of the cells that a folder's result document has under matching labels. A file may have another."""
    try:
        cells = read_document(folder)["cells"]
    except UserError:  # no document yet, or a damaged one
        return set()
    ids = {cell["id"] for cell in cells if cell["id"] and fnmatchcase(cell_key(cell), pattern)}
    return {path for id in ids for path in existing(folder, id)}


def name_pattern(pattern: str) -> str:
    """Convert a pattern on model/method to a pattern on journal file names."""
    return "*".join(readable(part) for part in pattern.split("*"))


def read_run(path: Path) -> Run:
    """The answers in a journal, finished or not. Raises UserError if the file is not a journal."""
    lines = Lines.of(path)
    identity = lines.header["identity"]
    answers = {r["doc_id"]: None if r["error"] else r["answer"] for r in lines.records if r["kind"] == "answer"}
    return Run(path, identity["task"], identity["data"], answers, tuple(identity.get("protocol") or ()))


@dataclass(frozen=True)
class Documents:
    """The documents that a run read, by doc_id, without images. `built`: lmms-eval's task, with the images."""

    docs: dict[int, Mapping[str, Any]]
    spec: TaskSpec
    built: Any

    def image_keys(self, doc_ids: Sequence[int]) -> dict[int, str]:
        """A name for the image of each of these documents, equal for questions about the same image."""
        from evals.tasks.build import quiet
        from evals.tasks.evaluation import image_names

        with quiet():
            return dict(zip(doc_ids, image_names(self.built, self.spec, list(doc_ids)), strict=True))


def read_documents(run: Run, data: str | None) -> Documents:
    """The run's documents. Raises UserError if the run read other data than `data`."""
    from evals.tasks.build import build, quiet

    specs, unusable = _specs(run.task, data or MINI), list[str]()
    for spec in specs:
        if problems := _unusable(spec):
            unusable.append("\n".join(problems))
        elif data_digest(spec) == run.data:
            with quiet():
                built = build(spec)
                return Documents(dict(enumerate(built.eval_docs_no_media)), spec, built)
    if len(unusable) == len(specs):
        raise UserError(unusable[0])
    wrong = f"the run did not read '{data}'" if data else "the run did not read the embedded data"
    raise UserError(f"{run.path}: {wrong}. Give the data that it read with --data (a folder, or {HUB})")


def _specs(task: str, data: str) -> list[TaskSpec]:
    """The usual version of a task's data, then its other versions."""
    others = [version for version in get_task(task).versions if version_problem(task, data, version) is None]
    return [TaskSpec(task, data, LLAVA, version) for version in (None, *others)]


def _unusable(spec: TaskSpec) -> list[str]:
    """Why data cannot be read. The Hub's data is downloaded."""
    try:
        prepare(spec)
    except UserError as error:
        return [str(error)]
    return missing(spec, prepared=True)
