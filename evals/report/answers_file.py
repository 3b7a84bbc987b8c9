"""Reads a published answers file (LLaVA's format) and finds the document that each answer is about.

The file has one JSON object per line with `question_id`, `prompt` and `text`. Answers are matched by question id (or by
image, with the benchmark's question file) and question text, never by order. Capital letters do not matter, and neither
does a misspelled word ("imange" in published files): `evals.report.agreement` reports prompts that differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from evals.tasks.registry import get_task
from hidrop.errors import UserError
from hidrop.regular_files import Unreadable, read_text

# Two words with this similarity (difflib's ratio) or more are spellings of the same word.
SPELLING = 0.8


@dataclass(frozen=True)
class Published:
    """One published answer: the prompt that was asked, and the model's text."""

    prompt: str
    text: str


def read_answers(
    answers: Path, questions: Path | None, task: str, docs: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, Published], int]:
    """The published answers by doc_id, and the number of published answers without a document.

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
    found: dict[int, Published] = {}
    lost = 0
    for number, line in enumerate(lines, start=1):
        by_id = (str(line["question_id"]), None)
        key, category = by_id if questions is None else _key(line, asked, answers, number)
        candidates = [d for d in index.get(key, ()) if category is None or docs[d].get("category") in (None, category)]
        candidates = _asked(line["prompt"], candidates, docs)
        if len(candidates) > 1:
            way = "" if questions else ". Give the benchmark's question file with --questions: it names the images"
            question = f"question {line['question_id']}"
            raise UserError(f"{answers}: line {number}: {question} matches several documents{way}")
        if not candidates:
            lost += 1
        elif candidates[0] in found:
            raise UserError(f"{answers}: line {number}: a second answer to question {line['question_id']}")
        else:
            found[candidates[0]] = Published(line["prompt"], line["text"])
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


def _asked(prompt: str, candidates: Sequence[int], docs: Mapping[int, Mapping[str, Any]]) -> list[int]:
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
        text = read_text(path)
    except Unreadable as reason:
        raise UserError(f"{path}: cannot be read: {reason}") from None
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
