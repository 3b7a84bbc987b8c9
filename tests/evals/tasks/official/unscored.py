"""Tasks without a value here: a server scores them, or a judge's model."""

from __future__ import annotations

from typing import Any

from tests.evals.tasks.official.many_images import mmmu, multidocvqa
from tests.evals.tasks.official.row import Row, picture

P = [picture(number) for number in range(6)]


def asked(*questions: str, first: int = 0, **columns: Any) -> list[dict[str, Any]]:
    """Questions about one image each. A column that is a list has a value for each question."""
    return [
        {"question_id": first + i, "question": question, "image": P[i]}
        | {name: value[i] if isinstance(value, list) else value for name, value in columns.items()}
        for i, question in enumerate(questions)
    ]


def docvqa() -> list[dict[str, Any]]:
    return [{"questionId": str(7 + i), "question": f"Q{i}?", "answers": None, "image": P[i]} for i in range(3)]


TO_SUBMIT: dict[str, Row] = {
    "docvqa_test": Row("DocVQA/DocVQA/test-00000-of-00001.parquet", docvqa(), ("tea", "", "Käse"), None, [1] * 3),
    "textvqa_test": Row(
        "textvqa/data/test-00000-of-00001.parquet",
        asked("what is it?", "who?", first=30, answers=None, ocr_tokens=[["a"], []], image_id=["x", "y"]),
        ("The Nokia.", "two"),
        None,
        [1] * 2,
    ),
    "infovqa_test": Row(
        "DocVQA/InfographicVQA/test-00000-of-00001.parquet", docvqa(), ("tea", "two", "ω"), None, [1] * 3
    ),
    "mmmu_test": Row(
        "MMMU/data/test-00000-of-00001.parquet",
        mmmu("test"),
        ("B", "(A)", "It is 12", "A"),
        None,
        [1, 3, 1, 1],
    ),
    "multidocvqa_test": Row(
        "MP-DocVQA/data/test-00000-of-00001.parquet",
        multidocvqa(),
        ("Paris", "", "Müller"),
        None,
        [2, 1, 3],
    ),
}
# What the server's file holds, from the answers above, by each task's own rules.
SUBMITTED: dict[str, Any] = {
    "docvqa_test": [
        {"questionId": 7, "answer": "tea"},
        {"questionId": 8, "answer": ""},
        {"questionId": 9, "answer": "Käse"},
    ],
    "textvqa_test": [{"question_id": 30, "answer": "nokia"}, {"question_id": 31, "answer": "2"}],
    "infovqa_test": [
        {"questionId": 7, "answer": "tea"},
        {"questionId": 8, "answer": "two"},
        {"questionId": 9, "answer": "ω"},
    ],
    "mmmu_test": {"test_Art_1": "B", "test_Art_2": "A", "test_Math_1": "12.0", "test_Math_2": "A"},
    "multidocvqa_test": [
        {"questionId": 0, "answer": "Paris", "answer_page": None},
        {"questionId": 1, "answer": "", "answer_page": None},
        {"questionId": 2, "answer": "Müller", "answer_page": None},
    ],
}
TO_JUDGE: dict[str, Row] = {
    "mmvet": Row(
        "MMVet/data/test-00000-of-00001.parquet",
        asked("What is it?", "Why?", answer=["a cat", "because"], capability="rec", image_source="i"),
        ("A cat.", "No idea"),
        None,
        [1] * 2,
    ),
    "llava_in_the_wild": Row(
        "llava-bench-in-the-wild/data/train-00000-of-00001.parquet",
        asked("What?", "Wo?", category="conv", caption="c", gpt_answer=["x", "y"], image_id=["1.jpg", "2.jpg"]),
        ("It is tea.", ""),
        None,
        [1] * 2,
    ),
}
