"""Tasks whose answers are words, numbers or boxes, about one image each."""

from __future__ import annotations

import base64
from typing import Any

from tests.evals.tasks.official.row import Row, picture

P = [picture(number) for number in range(6)]
TWO_CONFIGS = """---
dataset_info:
- config_name: DocVQA
configs:
- config_name: DocVQA
  data_files:
  - split: validation
    path: DocVQA/validation-*
- config_name: InfographicVQA
  data_files:
  - split: validation
    path: pages/infographics-*
---
"""


def chartqa() -> list[dict[str, Any]]:
    rows = [("human_test", "100"), ("human_test", "Yes"), ("augmented_test", "0.5"), ("augmented_test", "Öl")]
    return [{"type": t, "question": f"Q{i}?", "answer": a, "image": P[i]} for i, (t, a) in enumerate(rows)]


def pages() -> list[dict[str, Any]]:
    """DocVQA's and InfographicVQA's: several right answers."""
    answers = [["coca cola", "coke"], ["12/3"], ["naïve"], ["tea"]]
    return [
        {"questionId": str(i), "question": f"Q{i}?", "answers": own, "image": P[i]} for i, own in enumerate(answers)
    ]


def ocrbench() -> list[dict[str, Any]]:
    """The fourth answer is written in wide digits."""
    rows = [
        ("IIIT5K", "Regular Text Recognition", ["CENTRE"]),
        ("HME100k", "Handwritten Mathematical Expression Recognition", ["x ^ 2"]),
        ("ESTVQA", "Scene Text-centric VQA", ["café", "coffee"]),
        ("FUNSD", "Key Information Extraction", ["\uff11\uff12"]),
        ("IIIT5K", "Regular Text Recognition", ["exit"]),
    ]
    return [
        {"dataset": name, "question_type": kind, "question": " what is it? ", "answer": answer, "image": P[i]}
        for i, (name, kind, answer) in enumerate(rows)
    ]


def ok_vqa() -> list[dict[str, Any]]:
    answers = [["red"] * 10, ["dog"] * 2 + ["cat"] * 8, ["Two"] * 3 + ["3"] * 7, ["x"] * 10]
    return [
        {"question_id": str(i), "question": f"Q{i}?", "answers": own, "image": P[i]} for i, own in enumerate(answers)
    ]


def pope() -> list[dict[str, Any]]:
    """Two questions about each image."""
    return [
        {"id": str(i), "question_id": str(i), "question": "Is there a cat?", "answer": answer}
        | {"image_source": f"i{i // 2}", "category": "adversarial", "image": P[i // 2]}
        for i, answer in enumerate(["yes", "yes", "yes", "no", "no", "no"])
    ]


def pixmo_count() -> list[dict[str, Any]]:
    answers = ["3", "12", "0", "7"]
    return [{"question": "<image>How many?", "answer": answer, "image": P[i]} for i, answer in enumerate(answers)]


def biased() -> list[dict[str, Any]]:
    rows = [("Logos", "{4}", "{3}"), ("Logos", "{5}", "{4}"), ("Animals", "5", "4"), ("Optical Illusion", "Yes", "No")]
    return [
        {"prompt": f"Q{i}?", "topic": topic, "ground_truth": truth, "expected_bias": bias, "image": P[i]}
        for i, (topic, truth, bias) in enumerate(rows)
    ]


def websrc() -> list[dict[str, Any]]:
    """The image is text: its file in base64."""
    rows = [("auto", "red car"), ("auto", "12"), ("movie", "the end")]
    return [
        {"question": f"Q{i}?", "answer": answer, "domain": domain, "page_id": f"{i}", "id": f"w{i}"}
        | {"image": base64.b64encode(P[i]["bytes"]).decode()}
        for i, (domain, answer) in enumerate(rows)
    ]


def refcoco() -> list[dict[str, Any]]:
    """A row has several sentences about one box; the task asks each of them. Images are of 40 x 32 pixels."""
    boxes = [([0.0, 0.0, 20.0, 16.0], ["the cat", "left one"]), ([20.0, 16.0, 20.0, 16.0], ["the dog"])]
    return [
        {"question_id": str(i), "answer": names, "bbox": box, "file_name": f"{i}.jpg", "image": P[i]}
        for i, (box, names) in enumerate(boxes)
    ]


def mtvqa() -> list[dict[str, Any]]:
    """A row has several questions, in Python's notation; the task asks each of them."""
    pairs = [[("Was?", "Käse"), ("Wo?", "Bonn")], [("何?", "東京")], [("Quoi ?", "Thé.")]]
    return [
        {"id": str(i), "lang": lang, "image": P[i]} | {"qa_pairs": repr([{"question": q, "answer": a} for q, a in own])}
        for i, (lang, own) in enumerate(zip(("DE", "JA", "FR"), pairs, strict=True))
    ]


ROWS: dict[str, Row] = {
    # Within 5 % of a number, or the same word. Two documents are of each half.
    "chartqa": Row(
        "ChartQA/data/test-00000-of-00001-e2cd0b7a0f9eb20d.parquet",
        chartqa(),
        ("104", "no", "51%", "öl"),
        0.75,
        [1] * 4,
        {"relaxed_human_split": 0.5, "relaxed_augmented_split": 1.0},
    ),
    # A file that the task names by its address on the Hub (hf://).
    "unig2u_chartqa100": Row(
        "unig2u_dataset/chartqa100/chartqa100.parquet",
        chartqa(),
        ("100", "YES", "", "ol"),
        0.5,
        [1] * 4,
        {"relaxed_human_split": 1.0, "relaxed_augmented_split": 0.0},
    ),
    # "coca-cola" is 1 of 9 letters off; "12/4" 1 of 4; "naive" 1 of 5; "" has nothing.
    "docvqa_val": Row(
        "DocVQA/DocVQA/validation-00000-of-00001.parquet",
        pages(),
        ("Coca-Cola", "12/4", "naive", ""),
        (8 / 9 + 3 / 4 + 4 / 5 + 0) / 4,
        [1] * 4,
    ),
    # Only the README says where the files are.
    "infovqa_val": Row(
        "DocVQA/pages/infographics-00000-of-00001.parquet",
        pages(),
        ("coke", "12/3", "NAÏVE", "coffee"),
        0.75,
        [1] * 4,
        readme=TWO_CONFIGS,
    ),
    # The answer is somewhere in the text; a formula's spaces do not count. Of 1000, whatever the number of documents.
    "ocrbench": Row(
        "OCRBench/data/test-00000-of-00001.parquet",
        ocrbench(),
        ("The Centre.", "x^2", "CAFÉ", "12", ""),
        4 / 1000,
        [1] * 5,
    ),
    # 10 of 10 agree; of 2 of 10 the leave-one-out mean is (8 * 2/3 + 2 * 1/3) / 10; 3 of 10: (7 * 1 + 3 * 2/3) / 10.
    "ok_vqa_val2014": Row(
        "OK-VQA/data/val2014-00000-of-00001.parquet",
        ok_vqa(),
        ("Red.", "a dog", "2", ""),
        (1 + 0.6 + 0.9 + 0) / 4,
        [1] * 4,
    ),
    # "maybe" is neither yes nor no. Of three yes's said two are right, and of three yes's to find two are found.
    "pope_adv": Row(
        "POPE/Full/adversarial-00000-of-00001.parquet",
        pope(),
        ("Yes", "yes", "no", "yes", "maybe", "NO"),
        3 / 6,
        [1] * 6,
        {"pope_precision": 2 / 3, "pope_recall": 2 / 3, "pope_f1_score": 2 / 3, "pope_yes_ratio": 0.5},
    ),
    "pixmo_count": Row(
        "pixmo-count/data/test-00000-of-00001.parquet", pixmo_count(), ("There are 3.", "12", "zero", ""), 0.5, [1] * 4
    ),
    # The bias is to be low.
    "vlms_are_biased": Row(
        "vlms-are-biased/data/main-00000-of-00001.parquet",
        biased(),
        ("{4}", "4", "5 legs", "{no}"),
        0.5,
        [1] * 4,
        {"bias_ratio": 0.5},
    ),
    # F1 of tokens, rounded to three digits: "a red car" has 2 of 3 tokens right and both of the answer's.
    "websrc_val": Row(
        "websrc/data/dev-00000-of-00001.parquet",
        websrc(),
        ("a red car", "12", ""),
        round((0.8 + 1 + 0) / 3, 3),
        [1] * 3,
    ),
    # The first answer is the box; the second is its left half; the third no box at all.
    "refcoco_bbox_rec_test": Row(
        "RefCOCO/data/test-00000-of-00001.parquet",
        refcoco(),
        ("[0.0, 0.0, 0.5, 0.5]", "It is at [0, 0, 0.25, 0.5].", "left"),
        0.5,
        [1] * 3,
        {
            "refcoco_ACC@0.1": 2 / 3,
            "refcoco_ACC@0.3": 2 / 3,
            "refcoco_ACC@0.5": 2 / 3,
            "refcoco_ACC@0.7": 1 / 3,
            "refcoco_ACC@0.9": 1 / 3,
            "refcoco_Center_ACC": 2 / 3,
        },
    ),
    "mtvqa": Row(
        "MTVQA/data/test-00000-of-00001.parquet", mtvqa(), ("Das ist Käse.", "", "東京です", "le thé"), 75.0, [1] * 4
    ),
}
