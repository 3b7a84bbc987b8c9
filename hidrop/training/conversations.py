"""LLaVA's JSON conversations: read once, checked, kept packed, and turned into ids with labels on the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hidrop.errors import UserError
from hidrop.prompts import PLACEHOLDER, SYSTEM
from hidrop.regular_files import Unreadable, read_bytes
from hidrop.runtime.layout import IGNORED

Prompt = Literal["plain", "v1"]


@dataclass(frozen=True)
class Turns:
    """One sample: image paths, and (question, answer) pairs. An image's placeholder is in its question."""

    images: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


class Conversations:
    """The usable samples of a file, in one block of bytes that worker processes share, instead of a million objects.

    `skipped`: the numbers of the other records of the file, from 1, by their problem. `lengths`: words of each sample,
    negative without an image.
    Raises UserError for a file that is not a list of conversations, or has no usable one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: dict[str, list[int]] = {}
        blocks, lengths = [], []
        for number, record in enumerate(_records(path), 1):
            try:
                turns = turns_of(record)
            except ValueError as error:
                self.skipped.setdefault(str(error), []).append(number)
                continue
            blocks.append(json.dumps([turns.images, turns.pairs], ensure_ascii=False).encode())
            words = sum(len(text.split()) for pair in turns.pairs for text in pair)
            lengths.append(words if turns.images else -words)
        if not blocks:
            raise UserError(f"{path}: no usable conversation in it ({self.problems() or 'it is empty'})")
        self.lengths = np.asarray(lengths)
        self._ends = np.cumsum([len(block) for block in blocks])
        self._bytes = np.frombuffer(b"".join(blocks), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Turns:
        start = self._ends[index - 1] if index else 0
        images, pairs = json.loads(self._bytes[start : self._ends[index]].tobytes())
        return Turns(tuple(images), tuple((question, answer) for question, answer in pairs))

    def __iter__(self) -> Iterator[Turns]:
        return (self[index] for index in range(len(self)))

    def problems(self) -> str:
        """What was skipped and why, in words, with the number of the first record of each kind."""
        kinds = sorted(self.skipped.items(), key=lambda kind: -len(kind[1]))
        return ", ".join(f"{len(numbers)} x {reason} (first: record {numbers[0]})" for reason, numbers in kinds)


def _records(path: Path) -> Iterator[Any]:
    try:
        records = json.loads(read_bytes(path))
    except Unreadable as reason:
        raise UserError(f"{path}: cannot be read: {reason}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(records, list):
        raise UserError(f"{path}: not a list of conversations, as LLaVA's JSON files are")
    yield from records


def turns_of(record: Any) -> Turns:
    """A record of LLaVA's file as turns. Image placeholders move to the start of their question, as in LLaVA.

    Raises ValueError for a record that is not a conversation. Its messages are few, so that they can be counted.
    """
    said = record.get("conversations") if isinstance(record, dict) else None
    if not isinstance(said, list) or not all(isinstance(s, dict) and isinstance(s.get("value"), str) for s in said):
        raise ValueError("no conversation")
    if said and said[0].get("from") == "gpt":
        said = said[1:]  # LLaVA starts with the first question
    who = [one.get("from") for one in said]
    if len(said) < 2 or len(said) % 2 or who != ["human", "gpt"] * (len(said) // 2):
        raise ValueError("turns that are not question and answer in turn")
    image = record.get("image")
    images = tuple(image) if isinstance(image, list) else (image,) if image is not None else ()
    if not all(isinstance(one, str) for one in images):
        raise ValueError("an image that is not a path")
    pairs = tuple((_in_front(q["value"]), a["value"]) for q, a in zip(said[::2], said[1::2], strict=True))
    if sum(text.count(PLACEHOLDER) for pair in pairs for text in pair) != len(images):
        raise ValueError(f"another number of {PLACEHOLDER} than of images")
    if any(PLACEHOLDER in answer for _, answer in pairs):
        raise ValueError(f"{PLACEHOLDER} in an answer")
    try:
        "".join([*images, *(text for pair in pairs for text in pair)]).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, a character that was cut in two") from None
    if any("\0" in path for path in images):
        raise ValueError("an image that is not a path")
    return Turns(images, pairs)


def _in_front(question: str) -> str:
    count = question.count(PLACEHOLDER)
    if not count:
        return question
    return f"{PLACEHOLDER}\n" * count + question.replace(PLACEHOLDER, "").strip()


def text_of(turns: Turns, prompt: Prompt, end: str) -> tuple[str, list[tuple[int, int]]]:
    """The whole text of a sample, and its spans that are learned. `end`: the text of the end-of-sequence token."""
    if prompt == "plain":
        (_, caption), *_ = turns.pairs
        before = PLACEHOLDER * len(turns.images)
        text = f"{before}{caption}\n"
        return text, [(len(before), len(text))]
    text, spans = f"{SYSTEM} ", []
    for question, answer in turns.pairs:
        text += f"USER: {question} ASSISTANT:"
        start = len(text)
        text += f" {answer}{end}"
        spans.append((start, len(text)))
    return text, spans


def encode(
    turns: Turns, tokenizer: Any, image_token_id: int, tokens: Sequence[int], prompt: Prompt, longest: int
) -> tuple[list[int], list[int]]:
    """(ids, labels) of a sample, cut after `longest` tokens. `tokens`: the number of visual tokens of each image.

    Ids are those of LLaVA's own evaluation prompt (see `hidrop.prompts.piecewise`): each piece between images is
    tokenized by itself. Every token of an answer has a label, including the space before it and its end. Raises
    ValueError if the cut goes through an image.
    """
    text, spans = text_of(turns, prompt, tokenizer.eos_token)
    ids: list[int] = []
    labels: list[int] = []
    start = 0
    for number, piece in enumerate(text.split(PLACEHOLDER)):
        if number:
            ids += [image_token_id] * tokens[number - 1]
            labels += [IGNORED] * tokens[number - 1]
        made = tokenizer(piece, return_offsets_mapping=True)
        for place, (token, (first, last)) in enumerate(zip(made.input_ids, made.offset_mapping, strict=True)):
            if number and place == 0 and token == tokenizer.bos_token_id:
                continue  # kept once, at the very start
            learnt = last > first and any(a <= start + first and start + last <= b for a, b in spans)
            ids.append(token)
            labels.append(token if learnt else IGNORED)
        start += len(piece) + len(PLACEHOLDER)
    if ids[longest:].count(image_token_id):
        raise ValueError("an image that the longest length cuts off")
    return ids[:longest], labels[:longest]
