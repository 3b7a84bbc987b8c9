"""Tasks whose documents have several images: in a list, or in columns with numbers."""

from __future__ import annotations

from typing import Any

from tests.evals.tasks.official.row import Row, picture

P = [picture(number) for number in range(12)]
SEED = """---
configs:
- config_name: seedbench
  data_files:
  - split: lite
    path: seedbench/lite-*
---
"""


def numbered(first: int, count: int, columns: int) -> dict[str, Any]:
    """`columns` columns image_1, image_2, ..., of which the first `count` hold an image."""
    return {f"image_{n}": P[first + n] if n <= count else None for n in range(1, columns + 1)}


def mmmu(split: str) -> list[dict[str, Any]]:
    """Options are text in Python's notation; `<image 2>` in a question, or in an option, is the column image_2."""
    rows = [
        ("Art_1", "multiple-choice", "Which? <image 1>", ["red", "blue", "green"], "B", 1),
        ("Art_2", "multiple-choice", "Which of <image 1> and <image 2>?", ["<image 3>", "none"], "A", 3),
        ("Math_1", "open", "How many in <image 1>?", [], "12", 1),
        ("Math_2", "multiple-choice", "<image 1> Why?", ["a", "b"], "A", 1),
    ]
    return [
        {"id": f"{split}_{name}", "question": question, "options": repr(options), "answer": answer}
        | {"question_type": kind, "subfield": "x", **numbered(i, count, 7)}
        for i, (name, kind, question, options, answer, count) in enumerate(rows)
    ]


def mmmu_pro() -> list[dict[str, Any]]:
    letters = "ABCDEFGHIJ"
    rows = [("Math", "J", 1), ("Art", "A", 2), ("Art", "C", 1)]
    return [
        {"id": f"test_{subject}_{i}", "question": "<image 1> Which?" + " <image 2>" * (count - 1), "answer": answer}
        | {"options": repr([f"option {letter}" for letter in letters]), "subject": subject, **numbered(i, count, 7)}
        for i, (subject, answer, count) in enumerate(rows)
    ]


def muirbench() -> list[dict[str, Any]]:
    rows = [("Counting", "A", 1), ("Counting", "B", 3), ("Ordering", "D", 2), ("Ordering", "A", 2)]
    return [
        {"idx": str(i), "task": task, "image_relation": "Temporal", "image_type": "Photo", "answer": answer}
        | {"question": "<image> Which?", "options": ["one", "two", "three", "None"], "image_list": P[i : i + count]}
        for i, (task, answer, count) in enumerate(rows)
    ]


def blink() -> list[dict[str, Any]]:
    rows = [("(A)", 1), ("(B)", 2), ("(C)", 4), ("(A)", 1)]
    return [
        {"idx": f"val_Counting_{i}", "sub_task": "Counting", "question": "How many?", "answer": answer}
        | {"choices": ["0", "1", "2"], "prompt": "How many?\n(A) 0\n(B) 1\n(C) 2", **numbered(i, count, 4)}
        for i, (answer, count) in enumerate(rows)
    ]


def multidocvqa() -> list[dict[str, Any]]:
    """Pages in 20 columns; the answers are text in Python's notation."""
    rows = [(["Paris", "paris, france"], 2), (["1984"], 1), (["Müller"], 3)]
    return [
        {"questionId": str(i), "question": f"Q{i}?", "answers": repr(answers), "answer_page_idx": "0"}
        | numbered(i, count, 20)
        for i, (answers, count) in enumerate(rows)
    ]


def seedbench(*kinds: str) -> list[dict[str, Any]]:
    """A video is several images."""
    return [
        {"question_id": str(i), "question": f"Q{i}?", "answer": "ABCD"[i], "data_type": kind, "data_id": f"{i}"}
        | {f"choice_{letter}": f"choice {letter}" for letter in "abcd"}
        | {"image": P[2 * i : 2 * i + (2 if kind == "video" else 1)]}
        for i, kind in enumerate(kinds)
    ]


def zerobench() -> list[dict[str, Any]]:
    """The column of images has a name of its own; one document has none."""
    rows = [("12", 2), ("seven", 1), ("3.50", 0), ("Ω", 1)]
    return [
        {"question_id": str(i), "question_text": f"Q{i}?", "question_answer": answer, "question_images": [f"{i}.png"]}
        | {"question_images_decoded": P[i : i + count]}
        for i, (answer, count) in enumerate(rows)
    ]


ROWS: dict[str, Row] = {
    # Three of four; the task rounds to five digits. No answer is a guess.
    "mmmu_val": Row(
        "MMMU/data/validation-00000-of-00001.parquet",
        mmmu("validation"),
        ("The answer is B.", "(B)", "It is 12", "A"),
        0.75,
        [1, 3, 1, 1],
    ),
    "mmmu_pro_standard": Row(
        "MMMU_Pro/standard (10 options)/test-00000-of-00001.parquet", mmmu_pro(), ("J", "(A)", "B"), 0.66667, [1, 2, 1]
    ),
    "muirbench": Row(
        "MUIRBENCH/data/test-00000-of-00001.parquet", muirbench(), ("A. one", "b", "two", ""), 0.5, [1, 3, 2, 2]
    ),
    "blink_counting": Row(
        "BLINK/Counting/val-00000-of-00001.parquet",
        blink(),
        ("(A)", "I think the answer is B", "D", ""),
        0.5,
        [1, 2, 4, 1],
    ),
    # 12.0 is 12, and 3.5 is 3.50.
    "zerobench": Row(
        "zerobench/data/zerobench-00000-of-00001.parquet", zerobench(), ("12.0", "7", "3.5", "ω."), 0.75, [2, 1, 0, 1]
    ),
    # "muller" is 1 of 6 letters off; "1985" 1 of 4. Only the first is a right answer itself.
    "multidocvqa_val": Row(
        "MP-DocVQA/data/val-00000-of-00001.parquet",
        multidocvqa(),
        ("PARIS", "1985", "Muller"),
        (1 + 3 / 4 + 5 / 6) / 3,
        [2, 1, 3],
        {"accuracy": 1 / 3},
    ),
    # The first letter counts: A and D are right, one of them about images. "The" is T.
    "seedbench_lite": Row(
        "LMMs-Eval-Lite/seedbench/lite-00000-of-00001.parquet",
        seedbench("image", "image", "image", "video"),
        ("A", "c.", "The answer is C", "d"),
        1 / 3,
        [1, 1, 1, 2],
        {"seed_video": 1.0, "seed_all": 0.5},
        readme=SEED,
    ),
}
