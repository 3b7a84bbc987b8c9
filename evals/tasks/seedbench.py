"""SEED-Bench's questions about images (SEED-I), each with four options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.tasks.base import LLAVA, Answer, Doc, Source, Task, empty, no_text
from evals.tasks.multiple_choice import LETTERS, with_options
from hidrop.prompts import LETTER_ANSWER

IMAGES, VIDEOS = "image", "video"  # the values of the column `data_type`


class SEEDImage(Task):
    """14,233 questions about images: the part of SEED-Bench that papers call SEED-I.

    The files also have about 3,757 questions about videos, which are not asked. LLaVA's number for "SEED" is another
    one: it counts its 5,009 questions about videos, each with the middle frame.
    """

    name = "seedbench"
    title = "SEED-I"
    source = Source(
        repository="lmms-lab-encoder/SEED-Bench",
        split="test",
        folder="seedbench",
        files="data/test-*.parquet",
        columns=("question_id", "question", *(f"choice_{c.lower()}" for c in LETTERS), "answer", "data_type", "image"),
        rows=14233,
        listed=True,
        megabytes=25_000,
    )
    official = "seed_image"
    image_columns = ("question_id",)
    order_column = "data_type"
    not_asked = "they are about videos"

    def question(self, doc: Doc) -> str:
        options = {letter: str(doc[f"choice_{letter.lower()}"]) for letter in LETTERS}
        return with_options([doc["question"]], options, LETTER_ANSWER)

    def order(self, doc: Doc) -> int | None:
        return None if doc["data_type"] == VIDEOS else 0

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if doc["data_type"] == VIDEOS:
            return None
        if doc["data_type"] != IMAGES:
            return "data_type", f"{str(doc['data_type'])[:20]!r} is neither {IMAGES} nor {VIDEOS}"
        if found := no_text(doc, "question", "answer"):
            return found
        if doc["answer"] not in tuple(LETTERS):
            return "answer", f"{doc['answer'][:20]!r} is not one of the letters A to D"
        right = f"choice_{doc['answer'].lower()}"
        return (right, "the right option is empty") if empty(doc[right]) else None

    def reading(self, answer: Answer, protocol: str) -> str:
        """LLaVA compares the whole answer with the letter, lmms-eval the first character in lower case."""
        text = answer.text.strip()
        return text if protocol == LLAVA else text[:1].lower()

    def metrics(self, official: Sequence[dict[str, Any]], protocol: str) -> list[dict[str, Any]]:
        """Without those of videos, which are not asked."""
        return [metric for metric in official if metric["metric"] == self.official]
