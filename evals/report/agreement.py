"""Compare a run's answers with published ones: how often they agree, and both scores under LLaVA's rule.

The published side is LLaVA's answers file: one JSON object per line with `question_id`, `prompt` and `text`. A run is
the journal of one cell. Answers are matched by question id and question text, never by order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evals.store.cell_files import existing, readable
from evals.store.folders import read_document
from evals.store.journal import Lines
from evals.store.result_document import cell_key
from evals.tasks.base import LLAVA, Answer
from evals.tasks.checks import missing
from evals.tasks.data import HUB, MINI, TaskSpec, data_digest, prepare
from evals.tasks.registry import get_task
from hidrop.errors import UserError


@dataclass(frozen=True)
class Run:
    """The answers of one cell by doc_id; None for a sample that failed."""

    path: Path
    task: str
    data: str
    answers: dict[int, str | None]


@dataclass(frozen=True)
class Flip:
    """A sample on which the two sides have different scores or different parsed answers."""

    doc_id: int
    question: str
    target: str
    published: str
    ours: str
    published_score: float
    our_score: float


@dataclass(frozen=True)
class Agreement:
    """The comparison over the `matched` samples. Scores are 0-100.

    same_text counts equal texts, same_reading equal answers after parsing by LLaVA's rule. `gained` counts the samples
    that score higher in the run, `lost` those that score lower.
    """

    task: str
    metric: str
    matched: int
    only_published: int
    only_ours: int
    same_text: int
    same_reading: int
    gained: int
    lost: int
    published_value: float
    our_value: float
    published_extra: dict[str, float]
    our_extra: dict[str, float]
    flips: tuple[Flip, ...]

    def text(self, flips: int) -> str:
        """The comparison as text, with the first `flips` samples that differ."""
        share = f"{100 * self.same_reading / self.matched:.1f} % have the same parsed answer"
        rows = [(self.metric, self.published_value, self.our_value)]
        rows += [
            (name, self.published_extra[name], self.our_extra[name])
            for name in sorted(self.published_extra.keys() & self.our_extra.keys())
            if any(fnmatchcase(name, pattern) for pattern in get_task(self.task).details)
        ]
        wide = max(len(name) for name, *_ in rows)
        lines = [
            f"{self.task}: {self.matched} samples in both ({self.only_published} only published, "
            f"{self.only_ours} only in the run), scored by LLaVA's rule",
            f"  {'':{wide}}  published     run",
            *(f"  {name:{wide}}  {published:9.2f}  {ours:6.2f}" for name, published, ours in rows),
        ]
        lines.append(f"  {share}, {100 * self.same_text / self.matched:.1f} % the same text")
        lines.append(f"  {len(self.flips)} differ: {self.gained} score higher in the run, {self.lost} lower")
        for flip in self.flips[:flips]:
            said = f"published {flip.published!r}, run {flip.ours!r} (correct: {flip.target})"
            lines.append(f"    doc {flip.doc_id}: {flip.question}  {said}")
        if len(self.flips) > flips:
            lines.append(f"    ... and {len(self.flips) - flips} more (--flips {len(self.flips)} shows them)")
        return "\n".join(lines)


def agree(
    run: Run, docs: Mapping[int, Mapping[str, Any]], published: Mapping[int, str], unmatched: int = 0
) -> Agreement:
    """Compare the documents that both sides answer. `unmatched`: number of published answers without a document.

    Raises UserError if the two sides have no document in common.
    """
    both = sorted(run.answers.keys() & published.keys())
    if not both:
        raise UserError(
            f"{run.path}: the run answers no question of the published file. Give a run of the same task, or one with "
            "a higher --limit"
        )
    task = get_task(run.task)
    theirs = task.score([Answer(docs[d], published[d]) for d in both], LLAVA)
    answers = [Answer(docs[d], run.answers[d] or "", failed=run.answers[d] is None) for d in both]
    ours = task.score(answers, LLAVA)
    flips, same_text, same_reading = [], 0, 0
    for i, (doc_id, answer) in enumerate(zip(both, answers, strict=True)):
        same = theirs.readings[i] == ours.readings[i] and not answer.failed
        same_text += answer.text.strip() == published[doc_id].strip() and not answer.failed
        same_reading += same
        if not same or theirs.samples[i] != ours.samples[i]:
            said = (published[doc_id], answer.text, theirs.samples[i], ours.samples[i])
            flips.append(Flip(doc_id, docs[doc_id]["question"], _target(task.target(docs[doc_id])), *said))
    return Agreement(
        task=run.task,
        metric=theirs.metric,
        matched=len(both),
        only_published=len(published.keys() - run.answers.keys()) + unmatched,
        only_ours=len(run.answers.keys() - published.keys()),
        same_text=same_text,
        same_reading=same_reading,
        gained=sum(flip.our_score > flip.published_score for flip in flips),
        lost=sum(flip.our_score < flip.published_score for flip in flips),
        published_value=theirs.value,
        our_value=ours.value,
        published_extra=theirs.extra,
        our_extra=ours.extra,
        flips=tuple(flips),
    )


def _target(target: Any) -> str:
    """The correct answer; if several people answered, the most frequent answer."""
    return Counter(target).most_common(1)[0][0] if isinstance(target, list) else str(target)


# ---- the run -------------------------------------------------------------------------------------------------------


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
    return Run(path, identity["task"], identity["data"], answers)


def read_docs(run: Run, data: str | None) -> dict[int, Mapping[str, Any]]:
    """The run's documents by doc_id, without images. Raises UserError if the run read other data than `data`."""
    from evals.tasks.build import build, quiet

    spec = TaskSpec(run.task, data or MINI, LLAVA)
    prepare(spec)
    if problems := missing(spec):
        raise UserError("\n".join(problems))
    if data_digest(spec) != run.data:
        wrong = f"the run did not read '{data}'" if data else "the run did not read the embedded data"
        raise UserError(f"{run.path}: {wrong}. Give the data that it read with --data (a folder, or {HUB})")
    with quiet():
        docs = build(spec).eval_docs_no_media
        return dict(enumerate(docs))


# ---- the published answers -----------------------------------------------------------------------------------------


def match(
    answers: Path, questions: Path | None, task: str, docs: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, str], int]:
    """The published texts by doc_id, and the number of published answers without a document.

    `questions` is the benchmark's question file (question_id, image, text, optionally category). With it, documents are
    found by image; without it, by question id. Raises UserError if a file is not in LLaVA's format, if a question
    matches several documents, or if nothing matches.
    """
    lines = [_fields(line, answers, ("question_id", "prompt", "text")) for line in _objects(answers)]
    asked: dict[str, dict[str, Any]] = {}
    if questions is not None:
        rows = [_fields(line, questions, ("question_id", "image", "text")) for line in _objects(questions)]
        for row in rows:
            known = asked.setdefault(str(row["question_id"]), row)
            if any(known.get(name) != row.get(name) for name in ("image", "category")):
                raise UserError(f"{questions}: question {row['question_id']} appears twice with different images")
    index = _index(task, docs, by_image=questions is not None)
    found: dict[int, str] = {}
    lost = 0
    for number, line in enumerate(lines, start=1):
        by_id = (str(line["question_id"]), None)
        key, category = by_id if questions is None else _key(line, asked, answers, number)
        candidates = [d for d in index.get(key, ()) if _says(line["prompt"], docs[d])]
        candidates = [d for d in candidates if category is None or docs[d].get("category") in (None, category)]
        if len(candidates) > 1:
            way = "" if questions else ". Give the benchmark's question file with --questions: it names the images"
            question = f"question {line['question_id']}"
            raise UserError(f"{answers}: line {number}: {question} matches several documents{way}")
        if not candidates:
            lost += 1
        elif candidates[0] in found:
            raise UserError(f"{answers}: line {number}: a second answer to question {line['question_id']}")
        else:
            found[candidates[0]] = str(line["text"])
    if not found:
        column = "image" if questions else " or ".join(get_task(task).id_columns)
        sample = lines[0]["question_id"] if lines else "none, the file is empty"
        raise UserError(
            f"{answers}: none of its {len(lines)} answers matches a question of {task} by {column} "
            f"and question text (first question_id: {sample}). Check --task and --questions"
        )
    return found, lost


def _index(task: str, docs: Mapping[int, Mapping[str, Any]], by_image: bool) -> dict[str, list[int]]:
    index: dict[str, list[int]] = {}
    for doc_id, doc in docs.items():
        columns = get_task(task).image_columns if by_image else get_task(task).id_columns
        for key in {
            Path(str(doc[column])).stem if by_image else str(doc[column]) for column in columns if column in doc
        }:
            index.setdefault(key, []).append(doc_id)
    return index


def _key(line: dict[str, Any], asked: Mapping[str, dict[str, Any]], path: Path, number: int) -> tuple[str, str | None]:
    question = asked.get(str(line["question_id"]))
    if question is None:
        raise UserError(
            f"{path}: line {number}: question {line['question_id']} is not in the file given as --questions"
        )
    return Path(str(question["image"])).stem, question.get("category")


def _says(prompt: str, doc: Mapping[str, Any]) -> bool:
    """Whether the prompt contains the document's question, as whole lines."""
    said, asked = (
        ["", *(line.strip().lower() for line in text.strip().splitlines()), ""]
        for text in (prompt, str(doc["question"]))
    )
    return "\n".join(asked) in "\n".join(said)


def _fields(line: dict[str, Any], path: Path, names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        if name not in line:
            raise UserError(f"{path}: a line has no '{name}'. LLaVA's format is {{{', '.join(names)}}}. Line: {line}")
    for name in ("prompt", "text"):
        if not isinstance(line.get(name, ""), str):
            raise UserError(f"{path}: '{name}' of question {line['question_id']} is not a string. Line: {line}")
    return line


def _objects(path: Path) -> Iterable[dict[str, Any]]:
    """The JSON objects of a file with one per line. Raises UserError for anything else in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    lines = text.split("\n")  # not splitlines: an answer may contain other line separators
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            raise UserError(f"{path}: line {number} is not JSON") from None
        if not isinstance(value, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        yield value
