"""Compare a run's answers with published ones: how often they agree, and both scores under LLaVA's rule.

The published side is a file in one of the forms of `evals.report.answer_formats`. A run is the journal of one cell.
The prompts of both sides are compared as well: answers to other prompts differ for that reason alone.
`evals.report.verdict` says in words whether the scores agree. A task that only a server can score has no scores and no
verdict: only the shares of equal answers are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from evals.report.agreement_run import Documents, Run
from evals.report.answers_file import Matched, Published, bare
from evals.report.verdict import Verdict, verdict_of
from evals.tasks.base import LLAVA, RIGHT, Answer, Doc, Scores, Task
from evals.tasks.protocol import protocol_version
from evals.tasks.registry import get_task
from hidrop.errors import UserError


@dataclass(frozen=True)
class Flip:
    """A sample on which the two sides have different scores or different parsed answers.

    target, published_score, our_score: None for a task that is not scored here.
    """

    doc_id: int
    question: str
    target: str | None
    published: str
    ours: str
    published_score: float | None
    our_score: float | None

    def line(self) -> str:
        """What to print."""
        said = f"published {self.published!r}, run {self.ours!r}"
        correct = "" if self.target is None else f" (correct: {self.target})"
        return f"    doc {self.doc_id}: {self.question}  {said}{correct}"


@dataclass(frozen=True)
class Prompts:
    """How the prompts of both sides compare, in numbers of samples.

    capitals: prompts that differ in capital letters only. other: prompts that differ in more. example: the first that
    differs (doc_id, published, run). unknown: why they were not compared, None if they were. If the published file has
    no hints, only the question and its options are compared.
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
    """The comparison over the `matched` samples. Scores are on the task's own scale, 0 to `Task.top`.

    same_text counts equal texts, same_reading equal answers after parsing by LLaVA's rule. `gained` counts the samples
    that score higher in the run, `lost` those that score lower. ambiguous, text_only: published answers that are left
    out, see `Matched`. scored_otherwise: published answers that the published file itself scores differently from
    LLaVA's rule (ScienceQA's results have parsed answers).

    further: published answers of further rounds, see `Matched`. incomplete: groups of documents that are scored
    together (the passes of a question of MMBench), of which both sides have some only.

    A task that only a server can score (`Task.unscored`, which is then the metric) has None for everything that needs
    scores: both values, gained, lost and the verdict.
    """

    task: str
    metric: str
    matched: int
    only_published: int
    only_ours: int
    same_text: int
    same_reading: int
    gained: int | None
    lost: int | None
    published_value: float | None
    our_value: float | None
    published_extra: dict[str, float]
    our_extra: dict[str, float]
    flips: tuple[Flip, ...]
    verdict: Verdict | None
    prompts: Prompts = field(default_factory=Prompts)
    ambiguous: int = 0
    text_only: int = 0
    scored_otherwise: int = 0
    further: int = 0
    incomplete: int = 0

    @property
    def word(self) -> str:
        """The verdict in one word: agrees, differs, undecided, or unscored."""
        return self.verdict.word if self.verdict else "unscored"

    def text(self, flips: int) -> str:
        """The comparison as text, with the first `flips` samples that differ."""
        share = f"{100 * self.same_reading / self.matched:.1f} % have the same parsed answer"
        rule = "scored by LLaVA's rule" if self.verdict else f"not scored here ({self.metric})"
        lines = [
            f"{self.task}: {self.matched} samples in both ({self.only_published} only published, "
            f"{self.only_ours} only in the run), {rule}",
            *self._scores(),
            f"  {share}, {100 * self.same_text / self.matched:.1f} % the same text",
        ]
        lines += self.verdict.lines() if self.verdict else ()
        told = (
            (self.ambiguous, "are left out: several documents have the same question and options"),
            (self.text_only, "are left out: their questions have no image"),
            (self.scored_otherwise, "are scored differently in the published file itself"),
            (self.further, "are left out: further rounds, whose passes the data has as documents of their own"),
        )
        lines += [f"  {count} published answers {what}" for count, what in told if count]
        if self.incomplete:
            units = get_task(self.task).units
            lines.append(f"  {self.incomplete} {units} are incomplete: the score is of what both sides have")
        lines += self.prompts.lines()
        higher = f": {self.gained} score higher in the run, {self.lost} lower" if self.verdict else ""
        lines.append(f"  {len(self.flips)} differ{higher}")
        lines += [flip.line() for flip in self.flips[:flips]]
        if len(self.flips) > flips:
            lines.append(f"    ... and {len(self.flips) - flips} more (--flips {len(self.flips)} shows them)")
        return "\n".join(lines)

    def _scores(self) -> Iterable[str]:
        """The table of both sides' scores; nothing if there are none."""
        if self.published_value is None or self.our_value is None:
            return
        rows = [(self.metric, self.published_value, self.our_value)]
        rows += [
            (name, self.published_extra[name], self.our_extra[name])
            for name in sorted(self.published_extra.keys() & self.our_extra.keys())
            if any(fnmatchcase(name, pattern) for pattern in get_task(self.task).details)
        ]
        wide = max(len(name) for name, *_ in rows)
        yield f"  {'':{wide}}  published     run"
        for name, published, ours in rows:
            yield f"  {name:{wide}}  {published:9.2f}  {ours:6.2f}"


@dataclass(frozen=True)
class Side:
    """One side's answers as the task reads them. `scores`: None for a task that is not scored here."""

    readings: Sequence[str]
    scores: Scores | None

    @classmethod
    def of(cls, task: Task, answers: Sequence[Answer]) -> Side:
        """The parsed answers, and their scores if the right answers are known."""
        if task.unscored is not None:
            return cls([task.reading(answer, LLAVA) for answer in answers], None)
        scores = task.score(answers, LLAVA)
        return cls(scores.readings, scores)

    def score(self, i: int) -> float | None:
        """The score of the sample in place `i`."""
        return None if self.scores is None else self.scores.samples[i]


def agree(run: Run, documents: Documents, published: Matched) -> Agreement:
    """Compare the documents that both sides answer.

    Raises UserError if the two sides have no document in common.
    """
    said, docs = published.answers, documents.docs
    both = sorted(run.answers.keys() & said.keys())
    if not both:
        raise UserError(
            f"{run.path}: the run answers no question of the published file. Give a run of the same task, or one with "
            "a higher --limit"
        )
    task = get_task(run.task)
    theirs = Side.of(task, [Answer(docs[d], said[d].text) for d in both])
    answers = [Answer(docs[d], run.answers[d] or "", failed=run.answers[d] is None) for d in both]
    ours = Side.of(task, answers)
    flips, same_text, same_reading = [], 0, 0
    for i, (doc_id, answer) in enumerate(zip(both, answers, strict=True)):
        same = theirs.readings[i] == ours.readings[i] and not answer.failed
        same_text += answer.text.strip() == said[doc_id].text.strip() and not answer.failed
        same_reading += same
        if not same or theirs.score(i) != ours.score(i):
            target = None if task.unscored is not None else _target(task.target(docs[doc_id]))
            sides = (said[doc_id].text, answer.text, theirs.score(i), ours.score(i))
            flips.append(Flip(doc_id, docs[doc_id]["question"], target, *sides))
    found = Agreement(
        task=run.task,
        metric=task.unscored or "",
        matched=len(both),
        only_published=len(said.keys() - run.answers.keys()) + published.lost,
        only_ours=len(run.answers.keys() - said.keys()),
        same_text=same_text,
        same_reading=same_reading,
        gained=None,
        lost=None,
        published_value=None,
        our_value=None,
        published_extra={},
        our_extra={},
        flips=tuple(flips),
        verdict=None,
        prompts=_prompts(run, {d: (said[d], docs[d]) for d in both}),
        ambiguous=published.ambiguous,
        text_only=published.text_only,
        further=published.further,
        incomplete=_incomplete(task, both, docs),
    )
    if theirs.scores is None or ours.scores is None:
        return found
    images = documents.image_keys(both)
    mine, published_samples = (_samples(task, both, docs, images, scores) for scores in (ours.scores, theirs.scores))
    changes = [new - old for new, old in zip(ours.scores.samples, theirs.scores.samples, strict=True)]
    return replace(
        found,
        metric=theirs.scores.metric,
        gained=sum(change > 0 for change in changes),
        lost=sum(change < 0 for change in changes),
        published_value=theirs.scores.value,
        our_value=ours.scores.value,
        published_extra=theirs.scores.extra,
        our_extra=ours.scores.extra,
        verdict=verdict_of(run.task, mine, published_samples, same=100 * same_reading / len(both)),
        scored_otherwise=sum(
            said[d].parsed is not None and (said[d].parsed == task.target(docs[d])) != (score >= RIGHT)
            for d, score in zip(both, theirs.scores.samples, strict=True)
        ),
    )


def _incomplete(task: Task, both: Sequence[int], docs: Mapping[int, Doc]) -> int:
    """The number of groups of documents of which `both` has some and not all."""
    whole, here = (Counter(task.group(docs[d]) for d in ids) for ids in (docs, both))
    return sum(count < whole[group] for group, count in here.items() if group is not None)


def _samples(
    task: Task, doc_ids: Sequence[int], docs: Mapping[int, Doc], images: Mapping[int, str], scores: Scores
) -> list[dict[str, Any]]:
    """One side's scored samples, as `evals.tasks.evaluation` records them."""
    return [
        {
            "doc_id": doc_id,
            "reading": reading,
            "target": task.target(docs[doc_id]),
            "score": score,
            "image_key": images[doc_id],
            "category": task.category(docs[doc_id]),
            "group": task.group(docs[doc_id]),
        }
        for doc_id, reading, score in zip(doc_ids, scores.readings, scores.samples, strict=True)
    ]


def _prompts(run: Run, asked: Mapping[int, tuple[Published, Doc]]) -> Prompts:
    """Compare the published prompts with the run's own questions."""
    official = any(published.official for published, _ in asked.values())
    if official or run.protocol[:1] != (LLAVA,):
        name, theirs = run.protocol[0] if run.protocol else "an unknown one", "lmms-eval" if official else "LLaVA"
        return Prompts(unknown=f"the published ones are {theirs}'s, and the run's protocol is {name}")
    version = protocol_version(LLAVA, run.task)
    if run.protocol != (LLAVA, version):
        told = f"the run has version {run.protocol[-1]} of protocol {LLAVA}, and the current one is {version}"
        return Prompts(unknown=f"{told}. Run the cell again")
    kinds, example = Counter[str](), None
    for doc_id, (published, doc) in asked.items():
        theirs, ours = bare(published.prompt), bare(get_task(run.task).question(doc))
        if not published.whole and ours.lower().endswith(f"\n{theirs.lower()}"):
            ours = ours[-len(theirs) :]
        kind = "same" if theirs == ours else "capitals" if theirs.lower() == ours.lower() else "other"
        kinds[kind] += 1
        if kind != "same" and example is None:
            example = (doc_id, theirs, ours)
    return Prompts(kinds["same"], kinds["capitals"], kinds["other"], example)


def _target(target: Any) -> str:
    """The correct answer; if several people answered, the most frequent answer."""
    return Counter(target).most_common(1)[0][0] if isinstance(target, list) else str(target)
