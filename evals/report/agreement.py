"""Compare a run's answers with published ones: how often they agree, and both scores under LLaVA's rule.

The published side is LLaVA's answers file (`evals.report.answers_file`). A run is the journal of one cell. The prompts
of both sides are compared as well: answers to other prompts differ for that reason alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evals.report.answers_file import Published, read_answers
from evals.store.cell_files import existing, readable
from evals.store.folders import read_document
from evals.store.journal import Lines
from evals.store.result_document import cell_key
from evals.tasks.base import LLAVA, Answer
from evals.tasks.checks import missing
from evals.tasks.data import HUB, MINI, TaskSpec, data_digest, prepare, version_problem
from evals.tasks.protocol import protocol_version
from evals.tasks.registry import get_task
from hidrop.errors import UserError
from hidrop.prompts import LETTER_ANSWER, PLACEHOLDER


@dataclass(frozen=True)
class Run:
    """The answers of one cell by doc_id; None for a sample that failed. `protocol`: its name and version."""

    path: Path
    task: str
    data: str
    answers: dict[int, str | None]
    protocol: tuple[str, ...] = ()


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
class Prompts:
    """How the prompts of both sides compare, in numbers of samples.

    capitals: prompts that differ in capital letters only. other: prompts that differ in more. example: the first that
    differs (doc_id, published, run). unknown: why they were not compared, None if they were.
    """

    same: int = 0
    capitals: int = 0
    other: int = 0
    example: tuple[int, str, str] | None = None
    unknown: str | None = None

    def lines(self) -> Iterable[str]:
        """What to print: nothing but the count if all prompts are equal."""
        if self.unknown:
            yield f"  prompts not compared: {self.unknown}"
            return
        counts = [(self.same, "equal"), (self.capitals, "differ in capital letters only"), (self.other, "differ")]
        yield f"  prompts: {', '.join(f'{count} {what}' for count, what in counts if count)}"
        if self.example:
            doc_id, theirs, ours = self.example
            yield f"    doc {doc_id}: published {theirs!r}, run {ours!r}"


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
    prompts: Prompts = field(default_factory=Prompts)

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
        lines += self.prompts.lines()
        lines.append(f"  {len(self.flips)} differ: {self.gained} score higher in the run, {self.lost} lower")
        for flip in self.flips[:flips]:
            said = f"published {flip.published!r}, run {flip.ours!r} (correct: {flip.target})"
            lines.append(f"    doc {flip.doc_id}: {flip.question}  {said}")
        if len(self.flips) > flips:
            lines.append(f"    ... and {len(self.flips) - flips} more (--flips {len(self.flips)} shows them)")
        return "\n".join(lines)


def agree(
    run: Run, docs: Mapping[int, Mapping[str, Any]], published: Mapping[int, Published], unmatched: int = 0
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
    theirs = task.score([Answer(docs[d], published[d].text) for d in both], LLAVA)
    answers = [Answer(docs[d], run.answers[d] or "", failed=run.answers[d] is None) for d in both]
    ours = task.score(answers, LLAVA)
    flips, same_text, same_reading = [], 0, 0
    for i, (doc_id, answer) in enumerate(zip(both, answers, strict=True)):
        same = theirs.readings[i] == ours.readings[i] and not answer.failed
        same_text += answer.text.strip() == published[doc_id].text.strip() and not answer.failed
        same_reading += same
        if not same or theirs.samples[i] != ours.samples[i]:
            said = (published[doc_id].text, answer.text, theirs.samples[i], ours.samples[i])
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
        prompts=_prompts(run, {d: (published[d].prompt, docs[d]) for d in both}),
    )


def _prompts(run: Run, asked: Mapping[int, tuple[str, Mapping[str, Any]]]) -> Prompts:
    """Compare the published prompts with the run's own questions."""
    if run.protocol[:1] != (LLAVA,):
        name = run.protocol[0] if run.protocol else "an unknown one"
        return Prompts(unknown=f"the published ones are LLaVA's, and the run's protocol is {name}")
    version = protocol_version(LLAVA, run.task)
    if run.protocol != (LLAVA, version):
        told = f"the run has version {run.protocol[-1]} of protocol {LLAVA}, and the current one is {version}"
        return Prompts(unknown=f"{told}. Run the cell again")
    kinds, example = Counter[str](), None
    for doc_id, (prompt, doc) in asked.items():
        theirs, ours = _bare(prompt), _bare(get_task(run.task).question(doc))
        kind = "same" if theirs == ours else "capitals" if theirs.lower() == ours.lower() else "other"
        kinds[kind] += 1
        if kind != "same" and example is None:
            example = (doc_id, theirs, ours)
    return Prompts(kinds["same"], kinds["capitals"], kinds["other"], example)


def _bare(prompt: str) -> str:
    """A prompt without the image's place, and without MMBench's last line, which LLaVA's answers file leaves out."""
    return prompt.replace(PLACEHOLDER, "").strip().removesuffix(LETTER_ANSWER).rstrip()


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
    return Run(path, identity["task"], identity["data"], answers, tuple(identity.get("protocol") or ()))


def read_docs(run: Run, data: str | None) -> dict[int, Mapping[str, Any]]:
    """The run's documents by doc_id, without images. Raises UserError if the run read other data than `data`."""
    from evals.tasks.build import build, quiet

    specs, unusable = _specs(run.task, data or MINI), list[str]()
    for spec in specs:
        if problems := _unusable(spec):
            unusable.append("\n".join(problems))
        elif data_digest(spec) == run.data:
            with quiet():
                return dict(enumerate(build(spec).eval_docs_no_media))
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


def match(
    answers: Path, questions: Path | None, task: str, docs: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, str], int]:
    """The published texts by doc_id, and the number of published answers without a document: see `read_answers`."""
    found, lost = read_answers(answers, questions, task, docs)
    return {doc_id: one.text for doc_id, one in found.items()}, lost
