"""Finds the document that each answer of a published file is about (`evals.report.answer_formats` reads the file).

Answers are matched by question id (or by image, with the benchmark's question file) and question text. Capital letters
do not matter, and neither does a misspelled word ("imange" in published files): `evals.report.agreement` reports
prompts that differ.

The data of some tasks has no ids (ScienceQA). Their answers are matched by the whole prompt: hint, question and
options. Several documents can have the same prompt and differ in their image only. The right answer, if the file has
it, tells some of them apart. The others are matched by order if the questions that occur only once show that file and
data have the same order (`SAME_ORDER`). Otherwise they are ambiguous: they are left out and counted.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

from evals.report.answer_formats import Line, read_lines, read_questions, with_prompts
from evals.tasks.base import Task
from evals.tasks.registry import get_task
from hidrop.errors import UserError
from hidrop.prompts import LETTER_ANSWER, PLACEHOLDER

# Two words with this similarity (difflib's ratio) or more are spellings of the same word.
SPELLING = 0.8
# So many documents in rising order are no coincidence: in a random order the chance is 1 in 40,320.
SAME_ORDER = 8
# The last line of MMBench in Chinese, in LLaVA's script.
CHINESE_LETTER_ANSWER = "请直接回答选项字母。"


@dataclass(frozen=True)
class Published:
    """One published answer: the prompt that was asked, and the model's text.

    whole, parsed: as in `Line`. official: whether the prompt is lmms-eval's, and not LLaVA's.
    """

    prompt: str
    text: str
    whole: bool = True
    parsed: str | None = None
    official: bool = False


@dataclass(frozen=True)
class Matched:
    """The published answers by doc_id, and the numbers of those that have no document.

    lost: the data does not have their question. ambiguous: several documents have it. text_only: questions without an
    image, in a file of a task about images. further: rounds after the first one, of LLaVA's script with --all-rounds:
    the data has the passes of a question as documents of their own.
    """

    answers: dict[int, Published]
    lost: int = 0
    ambiguous: int = 0
    text_only: int = 0
    further: int = 0


Docs = Mapping[int, Mapping[str, Any]]


def read_answers(answers: Path, questions: Path | None, task: str, docs: Docs) -> Matched:
    """The published answers by doc_id.

    `questions` is the benchmark's question file. With one of (question_id, image, text, optionally category) documents
    are found by image; for a file without prompts, it gives the prompts. Raises UserError if a file has another form,
    if a question matches several documents although it has an id, or if nothing matches.
    """
    asked, every = get_task(task), read_lines(answers)
    lines = [line for line in every if not line.further]
    if lines and all(line.doc_id is not None for line in lines):
        found = _by_place(lines, answers, asked, docs)
    elif asked.id_columns:
        lines = with_prompts(lines, answers, None)
        found = _by_id(lines, answers, questions, asked, docs)
    else:
        found = _by_prompt(with_prompts(lines, answers, questions), answers, asked, docs)
    if not found.answers:
        column = "image" if questions and asked.id_columns else " or ".join(asked.id_columns)
        way = f"by {column} and question text" if column else "by question and options"
        sample = lines[0].id if lines else "none, the file is empty"
        told = f", {found.ambiguous} match several" if found.ambiguous else ""
        raise UserError(
            f"{answers}: none of its {len(lines)} answers matches a question of {task} {way} "
            f"(first question_id: {sample}{told}). Check --task and --questions"
        )
    return replace(found, further=len(every) - len(lines))


def bare(prompt: str) -> str:
    """A prompt without the image's place, and without the last line that asks for a letter.

    LLaVA's answers file of MMBench leaves that line out.
    """
    text = prompt.replace(PLACEHOLDER, "").strip()
    for line in (LETTER_ANSWER, CHINESE_LETTER_ANSWER):
        text = text.removesuffix(line).rstrip()
    return text


def _published(line: Line) -> Published:
    return Published(line.prompt or "", line.text, line.whole, line.parsed, official=line.doc_id is not None)


# ---- by id ---------------------------------------------------------------------------------------------------------


def _by_id(lines: Sequence[Line], answers: Path, questions: Path | None, task: Task, docs: Docs) -> Matched:
    images = None if questions is None else read_questions(questions)
    index = _index(task, docs, by_image=images is not None)
    found: dict[int, Published] = {}
    lost = 0
    for line in lines:
        prompt = line.prompt or ""
        key, category = (line.id, None) if images is None else _image(line, images, answers)
        candidates = [d for d in index.get(key, ()) if category is None or docs[d].get("category") in (None, category)]
        candidates = _asked(prompt, candidates, docs)
        if len(candidates) > 1:
            way = "" if questions else ". Give the benchmark's question file with --questions: it names the images"
            raise UserError(f"{answers}: {line.place}: question {line.id} matches several documents{way}")
        lost += not _put(found, candidates, line, answers)
    return Matched(found, lost)


def _put(found: dict[int, Published], candidates: Sequence[int], line: Line, answers: Path) -> bool:
    """Whether an answer has a document, its first candidate. Raises UserError for a second answer to it."""
    if not candidates:
        return False
    if candidates[0] in found:
        raise UserError(f"{answers}: {line.place}: a second answer to question {line.id}")
    found[candidates[0]] = _published(line)
    return True


def _by_place(lines: Sequence[Line], answers: Path, task: Task, docs: Docs) -> Matched:
    """Samples of lmms-eval: by the id where they have one, and else by their place in the data.

    Their prompt has to contain the question: the data may be of another version, or in another order.
    """
    index = _index(task, docs, by_image=False)
    found: dict[int, Published] = {}
    lost = 0
    for line in lines:
        candidates = [d for d in index.get(line.id, ()) if _contains(line.prompt, task, docs[d])]
        place = line.doc_id
        if place is not None and (place in candidates or not candidates):
            candidates = [place] if place in docs and _contains(line.prompt, task, docs[place]) else []
        if len(candidates) > 1:
            raise UserError(f"{answers}: {line.place}: question {line.id} matches several documents")
        lost += not _put(found, candidates, line, answers)
    return Matched(found, lost)


def _contains(prompt: str | None, task: Task, doc: Mapping[str, Any]) -> bool:
    """Whether a prompt contains a document's question, as the data or as LLaVA has it. An unknown prompt may."""
    if prompt is None or _key(str(doc.get("question", ""))) in _key(prompt):
        return True
    return _key(task.question(doc).splitlines()[0]) in _key(prompt)


def _index(task: Task, docs: Docs, by_image: bool) -> dict[str, list[int]]:
    index: dict[str, list[int]] = {}
    for doc_id, doc in docs.items():
        columns = task.image_columns if by_image else task.id_columns
        for key in {
            Path(str(doc[column])).stem if by_image else str(doc[column]) for column in columns if column in doc
        }:
            index.setdefault(key, []).append(doc_id)
    return index


def _image(line: Line, asked: Mapping[str, dict[str, Any]], path: Path) -> tuple[str, str | None]:
    question = asked.get(line.id)
    if question is None:
        raise UserError(f"{path}: {line.place}: question {line.id} is not in the file given as --questions")
    return Path(str(question["image"])).stem, question.get("category")


def _asked(prompt: str, candidates: Sequence[int], docs: Docs) -> list[int]:
    """The candidates whose question the prompt contains as whole lines; if none, those that it only misspells."""
    for near in (False, True):
        if found := [d for d in candidates if _says(prompt, str(docs[d]["question"]), near)]:
            return found
    return []


def _says(prompt: str, question: str, near: bool) -> bool:
    """Whether the prompt contains the question as whole lines, capital letters aside."""
    said, asked = ([line.strip().lower() for line in text.strip().splitlines()] for text in (prompt, question))
    starts = range(len(said) - len(asked) + 1)
    return any(_same(said[start : start + len(asked)], asked, near) for start in starts)


def _same(said: Sequence[str], asked: Sequence[str], near: bool) -> bool:
    if not near:
        return said == asked
    words, wanted = (" ".join(lines).split() for lines in (said, asked))
    return len(words) == len(wanted) and all(map(_spells, words, wanted))


def _spells(word: str, wanted: str) -> bool:
    bare = word.strip(".,?!")
    return word == wanted or (bare.isalpha() and SequenceMatcher(None, word, wanted).ratio() >= SPELLING)


# ---- by prompt -----------------------------------------------------------------------------------------------------


@dataclass
class _Pairs:
    """Places in the file's order and their documents: certain ones, and guesses that the order has to confirm."""

    certain: list[tuple[int, int]] = field(default_factory=list)
    guesses: list[list[tuple[int, int]]] = field(default_factory=list)


def _by_prompt(lines: Sequence[Line], answers: Path, task: Task, docs: Docs) -> Matched:
    lines = sorted(lines, key=lambda line: int(line.id)) if all(line.id.isdecimal() for line in lines) else lines
    _no_second(lines, answers)
    # A benchmark of images has questions without one in its answers files.
    some_pictured = any(line.pictured for line in lines)
    kept = [line for line in lines if line.pictured is not False or not some_pictured]
    text_only, lost, ambiguous, pairs = len(lines) - len(kept), 0, 0, _Pairs()
    for places, candidates in _groups(kept, task, docs):
        if not candidates:
            lost += len(places)
        elif len(places) != len(candidates):
            ambiguous += len(places)
        elif len(places) == 1:
            pairs.certain.append((places[0], candidates[0]))
        else:
            pairs.guesses.append(list(zip(places, candidates, strict=True)))
    found = list(pairs.certain)
    for guess in pairs.guesses:
        # With one text for all of them, every pairing is the same.
        if len({kept[place].text.strip() for place, _ in guess}) == 1 or _confirmed(guess, pairs.certain):
            found += guess
        else:
            ambiguous += len(guess)
    return Matched({doc: _published(kept[place]) for place, doc in found}, lost, ambiguous, text_only)


def _no_second(lines: Iterable[Line], answers: Path) -> None:
    seen = set[str]()
    for line in lines:
        if line.id in seen:
            raise UserError(f"{answers}: {line.place}: a second answer to question {line.id}")
        seen.add(line.id)


def _groups(lines: Sequence[Line], task: Task, docs: Docs) -> Iterable[tuple[list[int], list[int]]]:
    """The places of answers to the same prompt, and the documents with it.

    Where the file has the right answers, the documents of a group have the same one.
    """
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for doc_id in sorted(docs):
        by_prompt[_key(task.question(docs[doc_id]))].append(doc_id)
    places: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for place, line in enumerate(lines):
        places[_key(line.prompt or ""), line.right].append(place)
    for (prompt, right), group in places.items():
        candidates = by_prompt.get(prompt, [])
        yield group, [d for d in candidates if right is None or str(task.target(docs[d])) == right]


def _key(prompt: str) -> str:
    """A prompt for comparing: without capital letters and with one space where there is space."""
    return " ".join(bare(prompt).lower().split())


def _confirmed(guess: Sequence[tuple[int, int]], certain: Sequence[tuple[int, int]]) -> bool:
    """Whether the certain pairs have the same order in file and data, and the guessed ones fit in between."""
    order = sorted(certain)
    if len(order) < SAME_ORDER or any(after <= before for (_, before), (_, after) in pairwise(order)):
        return False
    for place, doc in guess:
        at = bisect(order, (place, doc))
        if (at and order[at - 1][1] > doc) or (at < len(order) and order[at][1] < doc):
            return False
    return True
