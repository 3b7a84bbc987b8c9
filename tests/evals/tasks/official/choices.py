"""Multiple-choice tasks whose documents have at most one image."""

from __future__ import annotations

import base64
from typing import Any

from tests.evals.tasks.official.row import Row, picture

P = [picture(number) for number in range(6)]
LITE = """---
configs:
- config_name: ai2d
  data_files:
  - split: lite
    path: ai2d/lite-*
- config_name: chartqa
  data_files:
  - split: lite
    path: chartqa/lite-*
---
# LMMs-Eval-Lite
"""


def ai2d() -> list[dict[str, Any]]:
    """Options as a list, the answer as the place of the right one in text."""
    rows = [("Which is the moon?", "0"), ("Which is the sun?", "2"), ("Où?", "1"), ("Who?", "3"), ("Why?", "0")]
    options = ["Mond", "sun", "a star", "none"]
    return [{"question": q, "options": options, "answer": a, "image": P[i]} for i, (q, a) in enumerate(rows)]


def realworldqa() -> list[dict[str, Any]]:
    rows = [("Left?\nA. yes\nB. no", "A"), ("How many?", "2"), ("Colour?", "Red"), ("Where?\nA. up\nB. down", "B")]
    return [{"question": q, "answer": a, "image_path": f"{i}.webp", "image": P[i]} for i, (q, a) in enumerate(rows)]


def vstar() -> list[dict[str, Any]]:
    text = "Which colour? (A) red (B) blue (C) green (D) grey\nAnswer."
    return [
        {"text": text, "label": label, "category": "direct_attributes", "question_id": str(i), "image": P[i]}
        for i, label in enumerate("ABCD")
    ]


def cv_bench() -> list[dict[str, Any]]:
    rows = [("(A)", "2D", "ADE20K"), ("(B)", "2D", "COCO"), ("(A)", "3D", "Omni3D")]
    return [
        {"idx": i, "type": kind, "task": "Count", "source": source, "answer": answer, "image": P[i]}
        | {"question": "How many?", "choices": ["1", "2"], "prompt": "How many? (A) 1 (B) 2"}
        for i, (answer, kind, source) in enumerate(rows)
    ]


def scienceqa() -> list[dict[str, Any]]:
    """Of all questions, every second has no image."""
    return [
        {"question": f"Q{i}?", "choices": ["x", "y", "z"], "answer": i % 3, "hint": "" if i else "Look.", "image": one}
        for i, one in enumerate([P[0], None, P[1], None])
    ]


def mmvp() -> list[dict[str, Any]]:
    """Pairs of images with one question and opposite answers. The columns have capitals and spaces."""
    answers = ["(a)", "(b)", "(b)", "(a)", "(a)", "(b)"]
    return [
        {"Index": i + 1, "Question": "Open?", "Options": "(a) Open (b) Closed", "Correct Answer": answer, "image": P[i]}
        for i, answer in enumerate(answers)
    ]


def mmstar_oc() -> list[dict[str, Any]]:
    """OpenCompass's copy of MMStar: images as text, and a metric for each category and for all."""
    rows = [
        ("coarse perception", "image emotion", "A"),
        ("coarse perception", "image emotion", "B"),
        ("coarse perception", "image emotion", "C"),
        ("math", "geometry", "D"),
    ]
    return [
        {"index": i, "question": f"Q{i}?", "answer": answer, "category": category, "l2_category": l2}
        | {letter: f"option {letter}" for letter in "ABCD"}
        | {"image": base64.b64encode(P[i]["bytes"]).decode()}
        for i, (category, l2, answer) in enumerate(rows)
    ]


ROWS: dict[str, Row] = {
    # A filter reads "B. .." as B; the rest must be the letter, capitals and punctuation aside.
    "ai2d": Row(
        "ai2d/data/test-00000-of-00001.parquet",
        ai2d(),
        ("A", "c.", "B. sun", "", "The answer is A"),
        0.6,
        [1] * 5,
    ),
    "ai2d_lite": Row(
        "LMMs-Eval-Lite/ai2d/lite-00000-of-00001.parquet",
        ai2d(),
        ("A.", "A", "b", "D. none", "Ä"),
        0.6,
        [1] * 5,
        readme=LITE,
    ),
    "realworldqa": Row(
        "RealWorldQA/data/test-00000-of-00001.parquet", realworldqa(), ("A", "2", "blue", ""), 0.5, [1] * 4
    ),
    "vstar_bench": Row(
        "vstar-bench/data/test-00000-of-00001.parquet", vstar(), ("A", "(B) blue", "grey", "d."), 75.0, [1] * 4
    ),
    "cv_bench": Row("CV-Bench/data/test-00000-of-00001.parquet", cv_bench(), ("(A)", "A", "a) 1"), 2 / 3, [1] * 3),
    # Two documents are text only.
    "scienceqa": Row(
        "ScienceQA/ScienceQA-FULL/test-00000-of-00001.parquet",
        scienceqa(),
        ("A. x", "b", "(C)", "A"),
        0.75,
        [1, 0, 1, 0],
    ),
    # All but the third are right, and so are two of three pairs.
    "mmvp": Row(
        "MMVP/data/train-00000-of-00001.parquet",
        mmvp(),
        ("A", "(b) Closed", "a", "The answer is A", "A. Open", "B"),
        5 / 6,
        [1] * 6,
        {"mmvp_pair_accuracy": 2 / 3},
    ),
    # Two of three about emotions, and the one of geometry: the mean over both, not over the four.
    "mmstar_oc": Row(
        "MMStar_opencompass/data/val-00000-of-00001.parquet",
        mmstar_oc(),
        ("A", "The answer is B", "", "(D)"),
        (2 / 3 + 1) / 2,
        [1] * 4,
        {"coarse perception": 2 / 3, "math": 1.0},
        metric="average",
    ),
}
