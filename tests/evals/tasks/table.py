"""One row for each task: a few documents with the official columns, and what follows from them by hand.

The tests in test_every_task.py run over this table, so a new task is tested by adding a row.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Doc = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """A task's documents, and how it treats them.

    file: an official file's name below the task's folder. right, wrong: answers to a document that every protocol
    scores as such. asked: LLaVA's question to the first document, None for a task without one. value: the value (0-100)
    if all answers are right.
    """

    documents: list[dict[str, Any]]
    file: str
    asked: str | None
    wrong: Callable[[Doc], str]
    right: Callable[[Doc], str] = lambda doc: str(doc["answer"])
    value: float = 100.0


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 32)) -> dict[str, Any]:
    """An image as a parquet file holds it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


PICTURES = [png((40 * i, 200 - 30 * i, 90)) for i in range(4)]
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def gqa() -> list[dict[str, Any]]:
    """Three questions about two images."""
    return [
        {"id": str(i), "imageId": f"n{i // 2}", "question": q, "answer": a, "image": PICTURES[i // 2]}
        for i, (q, a) in enumerate([("What colour is it?", "red"), ("Is it big?", "no"), ("How many?", "2")])
    ]


def mmbench() -> list[dict[str, Any]]:
    """Two questions with three and two options; as in the official file the rotations come after all questions."""
    texts = {7: ["red", "blue", "green"], 9: ["cat", "dog"]}
    found = []
    for turn in range(3):
        for index, options in texts.items():
            if turn >= len(options):
                continue
            turned = options[turn:] + options[:turn]
            found.append(
                {
                    "index": index + turn * 1_000_000,
                    "question": "Which one?",
                    "hint": "look closely" if index == 7 else "nan",
                    "answer": "ABCD"[turned.index(options[0])],
                    **{letter: (turned[n] if n < len(turned) else None) for n, letter in enumerate("ABCD")},
                    "category": "colour" if index == 7 else "animal",
                    "L2-category": "attribute" if index == 7 else "object",
                    "source": "test",
                    "split": "dev",
                    "image": PICTURES[index % 4],
                }
            )
    return found


def textvqa() -> list[dict[str, Any]]:
    """Nine of ten people say "nokia"; of the second question two say "12" and eight "13"."""
    answers = [["nokia"] * 8 + ["the nokia", "sony"], ["12"] * 2 + ["13"] * 8]
    return [
        {
            "question_id": i,
            "image_id": f"t{i}",
            "question": "What does IT say?",
            "answers": said,
            "ocr_tokens": ["NOKIA", "12"],
            "image": PICTURES[i],
        }
        for i, said in enumerate(answers)
    ]


def pope() -> list[dict[str, Any]]:
    """A yes and a no in each category, about two images."""
    return [
        {
            "question_id": str(i),
            "question": "Is there a cup in the image?",
            "answer": answer,
            "category": category,
            "image_source": f"COCO_{i % 2}",
            "image": PICTURES[i % 2],
        }
        for i, (category, answer) in enumerate(
            (c, a) for c in ("adversarial", "popular", "random") for a in ("yes", "no")
        )
    ]


CASES: dict[str, Case] = {
    "gqa": Case(
        gqa(),
        "testdev_balanced_instructions/testdev-00000-of-00001.parquet",
        f"What colour is it?\n{SHORT}",
        wrong=lambda doc: "purple",
    ),
    "mmbench_en_dev": Case(
        mmbench(),
        "en/dev-00000-of-00001.parquet",
        f"look closely\nWhich one?\nA. red\nB. blue\nC. green\n{LETTER}",
        wrong=lambda doc: "B" if doc["answer"] == "A" else "A",
    ),
    "textvqa_val": Case(
        textvqa(),
        "data/validation-00000-of-00001.parquet",
        f"What does it say?\nReference OCR token: NOKIA, 12\n{SHORT}",
        wrong=lambda doc: "banana",
        right=lambda doc: doc["answers"][0],
        value=80.0,  # nine of ten agree: 1.0; two of ten: 0.6
    ),
    "pope": Case(
        pope(),
        "data/test-00000-of-00001.parquet",
        f"Is there a cup in the image?\n{SHORT}",
        wrong=lambda doc: "no" if doc["answer"] == "yes" else "yes",
    ),
}
