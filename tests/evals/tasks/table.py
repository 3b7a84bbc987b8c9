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
    scores as such. asked: LLaVA's question to the first document, None for a task without one. value: the value if all
    answers are right, None for a task that is not scored here. counts: whether the value depends on the answer to a
    document. films: the official names, below the task's folder, of the videos that documents are about, in the order
    of their first document.
    """

    documents: list[dict[str, Any]]
    file: str
    asked: str | None
    wrong: Callable[[Doc], str]
    right: Callable[[Doc], str] = lambda doc: str(doc["answer"])
    value: float | None = 100.0
    counts: Callable[[Doc], bool] = lambda doc: True
    films: tuple[str, ...] = ()


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 32)) -> dict[str, Any]:
    """An image as a parquet file holds it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


PICTURES = [png((40 * i, 200 - 30 * i, 90)) for i in range(4)]
SHORT = "Answer the question using a single word or phrase."
PEOPLE = "When the provided information is insufficient, respond with 'Unanswerable'."
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


def mmbench_cn() -> list[dict[str, Any]]:
    """The same questions in Chinese, with a hint only in the first."""
    hints = {"look closely": "仔细看", "nan": None}
    return [{**doc, "question": "哪一个", "hint": hints[doc["hint"]]} for doc in mmbench()]


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


def mme() -> list[dict[str, Any]]:
    """Both questions about each of three images of perception, in two sub-tasks, and about one of cognition."""
    asked = [("count", "0001", "Are there two cats?"), ("code_reasoning", "0002", "Is it python?")]
    asked += [("count", "0003", "Is there a cup?"), ("color", "0004", "Is it red?")]
    return [
        {
            "question_id": f"{category}/{image}.png",
            "question": f"{'Not: ' if answer == 'No' else ''}{text}{space} Please answer yes or no.",
            "answer": answer,
            "category": category,
            "image": PICTURES[number],
        }
        for number, (category, image, text) in enumerate(asked)
        for answer, space in (("Yes", " "), ("No", ""))
    ]


def seedbench() -> list[dict[str, Any]]:
    """Three questions about images; the official column holds lists."""
    options = ["red", "2", "None", "a cat"]
    return [
        {
            "question_id": str(100 + number),
            "question": "What is it?",
            **{f"choice_{letter}": text for letter, text in zip("abcd", options, strict=True)},
            "answer": answer,
            "data_type": "image",
            "image": [PICTURES[number]],
        }
        for number, answer in enumerate("BDA")
    ]


def mmstar() -> list[dict[str, Any]]:
    """Three questions in two of the 18 sub-categories."""
    kinds = [("math", "geometry"), ("math", "geometry"), ("coarse perception", "image emotion")]
    return [
        {
            "index": number,
            "question": "Which one?\nOptions: A: red, B: blue, C: green, D: grey",
            "answer": "BAC"[number],
            "category": category,
            "l2_category": level2,
            "image": PICTURES[number],
        }
        for number, (category, level2) in enumerate(kinds)
    ]


def vqav2() -> list[dict[str, Any]]:
    """Nine of ten people say "frisbee"; of the second question two say "on table" and eight "floor"."""
    said = [["frisbee"] * 8 + ["a frisbee", "disc"], ["on table"] * 2 + ["floor"] * 8]
    return [
        {
            "question_id": 262148000 + number,
            "image_id": 262148,
            "question": "Where is he looking?",
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": place}
                for place, text in enumerate(texts, start=1)
            ],
            "image": PICTURES[0],
        }
        for number, texts in enumerate(said)
    ]


def vizwiz() -> list[dict[str, Any]]:
    """All people say "unanswerable"; of the second question three of ten say "coca cola"."""
    said = [["unanswerable"] * 10, ["coca cola"] * 3 + ["soda"] * 7]
    return [
        {
            "question_id": f"VizWiz_val_{number:08d}",
            "question": "what is THIS thing?",
            "answers": texts,
            "category": "other",
            "image": PICTURES[number],
        }
        for number, texts in enumerate(said)
    ]


def scienceqa() -> list[dict[str, Any]]:
    """Questions with three, two and five options; the second one has no hint."""
    asked = [
        ("Look at the map.\nIt shows a lake.", "Which lake?", ["Erie", "Huron", "Como"], 1),
        ("", "Do the magnets attract?", ["attract", "repel"], 0),
        ("Pea plants.", "What is the ratio?", ["0:4", "1:3", "2:2", "3:1", "4:0"], 4),
    ]
    return [
        {"image": PICTURES[i], "question": question, "choices": choices, "answer": right, "hint": hint}
        | {"subject": "natural science", "solution": "Look closely."}
        for i, (hint, question, choices, right) in enumerate(asked)
    ]


def videomme() -> list[dict[str, Any]]:
    """Two questions about the first of three videos, one about each of the others."""
    return [
        {
            "video_id": f"00{clip}",
            "duration": duration,
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "url": f"https://www.youtube.com/watch?v=clip{clip}",
            "videoID": f"clip{clip}",
            "question_id": f"00{clip}-{number}",
            "task_type": "Action Recognition",
            "question": f"What happens in part {number}?",
            "options": ["A. It moves.", "B. It stops.", "C. It turns.", "D. It falls."],
            "answer": answer,
        }
        for number, (clip, duration, answer) in enumerate(
            [(1, "short", "A"), (1, "short", "C"), (2, "medium", "B"), (3, "long", "D")]
        )
    ]


def mvbench() -> list[dict[str, Any]]:
    """Four questions about three videos."""
    options = ["Down and to the right.", "Up and to the left.", "The object is stationary."]
    return [
        {
            "video": f"video_1000{clip}.mp4",
            "question": f"What direction is the {colour} sphere moving?",
            "candidates": options,
            "answer": options[number % 3],
        }
        for number, (clip, colour) in enumerate([(0, "red"), (1, "red"), (0, "blue"), (2, "red")])
    ]


def letter(doc: Doc, more: int = 0) -> str:
    """The letter of MVBench's right option, or of one that comes `more` after it."""
    options = doc["candidates"]
    return f"({'ABC'[(list(options).index(doc['answer']) + more) % len(options)]})"


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
    "mmbench_cn_dev": Case(
        mmbench_cn(),
        "cn/dev-00000-of-00001.parquet",
        "仔细看\n哪一个\nA. red\nB. blue\nC. green\n请直接回答选项字母。",
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
    "mme": Case(
        mme(),
        "data/test-00000-of-00001-0123456789abcdef.parquet",
        f"Are there two cats?\n{SHORT}",
        wrong=lambda doc: "No" if doc["answer"] == "Yes" else "Yes",
        value=400.0,  # two sub-tasks of perception
        counts=lambda doc: doc["category"] != "code_reasoning",
    ),
    "seedbench": Case(
        seedbench(),
        "data/test-00000-of-00001.parquet",
        f"What is it?\nA. red\nB. 2\nC. None\nD. a cat\n{LETTER}",
        wrong=lambda doc: "C",
    ),
    "mmstar": Case(mmstar(), "mmstar.parquet", None, wrong=lambda doc: "D"),
    "vqav2_val": Case(
        vqav2(),
        "data/validation-00000-of-00001.parquet",
        f"Where is he looking?\n{SHORT}",
        wrong=lambda doc: "banana",
        right=lambda doc: doc["answers"][0]["answer"],
        value=80.0,  # nine of ten agree: 1.0; two of ten: 0.6
    ),
    "vqav2_test": Case(
        [{**doc, "answers": None} for doc in vqav2()],
        "data/test-00000-of-00001.parquet",
        f"Where is he looking?\n{SHORT}",
        wrong=lambda doc: "banana",
        right=lambda doc: "Frisbee.",
        value=None,
    ),
    "vizwiz_vqa_val": Case(
        vizwiz(),
        "data/val-00000-of-00001-0123456789abcdef.parquet",
        f"What is this thing?\n{PEOPLE}\n{SHORT}",
        wrong=lambda doc: "banana",
        right=lambda doc: doc["answers"][0],
        value=95.0,  # all agree: 1.0; three of ten: 0.9
    ),
    "vizwiz_vqa_test": Case(
        [{**doc, "question_id": doc["question_id"].replace("val", "test"), "answers": None} for doc in vizwiz()],
        "data/test-00000-of-00001-0123456789abcdef.parquet",
        f"What is this thing?\n{PEOPLE}\n{SHORT}",
        wrong=lambda doc: "banana",
        right=lambda doc: "Unanswerable",
        value=None,
    ),
    "scienceqa_img": Case(
        scienceqa(),
        "ScienceQA-IMG/test-00000-of-00001.parquet",
        f"Context: Look at the map.\nIt shows a lake.\nWhich lake?\nA. Erie\nB. Huron\nC. Como\n{LETTER}",
        right=lambda doc: "ABCDE"[doc["answer"]],
        wrong=lambda doc: "ABCDE"[doc["answer"] - 1],
    ),
    "videomme": Case(
        videomme(),
        "videomme/test-00000-of-00001.parquet",
        None,
        wrong=lambda doc: "B" if doc["answer"] == "A" else "A",
        films=tuple(f"data/clip{clip}.mp4" for clip in (1, 2, 3)),
    ),
    "mvbench_moving_direction": Case(
        mvbench(),
        "json/moving_direction.json",
        None,
        right=letter,
        wrong=lambda doc: letter(doc, 1),
        films=tuple(f"clevrer/video_validation/video_1000{clip}.mp4" for clip in (0, 1, 2)),
    ),
}
