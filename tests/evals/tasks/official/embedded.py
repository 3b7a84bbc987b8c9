"""Tasks of lmms-eval on questions of the embedded benchmark, which the embedded model can answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.evals.tasks.official.row import Row

# What a user would write next to a task of her own.
YAML = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: questions/*.json
test_split: test
task: mine
output_type: generate_until
doc_to_visual: !function scoring.no_image
doc_to_text: !function scoring.text
doc_to_target: "answer"
process_results: !function scoring.process_results
metric_list:
  - metric: length
    aggregation: !function scoring.longest
    higher_is_better: false
  - metric: said
    aggregation: mean
    higher_is_better: true
generation_kwargs: {max_new_tokens: 4}
"""
SCORING = """
def no_image(doc):
    return []


def text(doc):
    return doc["question"] + " Answer in a word."


def process_results(doc, results):
    return {"length": len(results[0]) + doc["more"], "said": float(bool(results[0]))}


def longest(items):
    return max(items)
"""
OWN = [{"question": "What is it?", "answer": "a", "more": 1}, {"question": "Où?", "answer": "b", "more": 20}]


def rows_of(table: str, first: int, count: int) -> list[dict[str, Any]]:
    """Rows of one of the embedded benchmark's files."""
    import pyarrow.parquet as parquet

    from hidrop.mini import ensure

    return parquet.read_table(Path(ensure()) / table).slice(first, count).to_pylist()


def rows() -> dict[str, Row]:
    """Without answers and values, as a model answers."""
    gqa, pope = rows_of("gqa/testdev.parquet", 0, 10), rows_of("pope/test.parquet", 0, 8)
    short = [
        {"questionId": one["id"], "question": one["question"], "answers": [one["answer"]], "image": one["image"]}
        for one in gqa
    ]
    places = ["north", "south", "east", "west"]
    choices = [
        {"question_id": one["id"], "question": one["question"], "answer": "B", "data_type": "image", "data_id": "x"}
        | dict(zip((f"choice_{letter}" for letter in "abcd"), places[at:] + places[:at], strict=True))
        | {"image": [one["image"]]}
        for at, one in enumerate(gqa[:4])
    ]
    text = [
        {"dataset": "IIIT5K", "question_type": "Scene Text-centric VQA", "question": one["question"]}
        | {"answer": [one["answer"]], "image": one["image"]}
        for one in gqa
    ]
    science = [
        {"question": one["question"], "choices": ["yes", "no"], "answer": at % 2, "hint": ""}
        | {"image": None if at % 3 == 1 else one["image"]}
        for at, one in enumerate(gqa[:6])
    ]
    pairs = [
        {"idx": str(at), "task": "Counting", "image_relation": "x", "image_type": "x", "question": one["question"]}
        | {"options": ["yes", "no"], "answer": "A", "image_list": [one["image"], gqa[at + 1]["image"]]}
        for at, one in enumerate(gqa[:3])
    ]
    free = [
        {"question_id": one["id"], "question": one["question"], "answer": one["answer"], "capability": "rec"}
        | {"image": one["image"]}
        for one in gqa[:2]
    ]
    files = {
        "docvqa_val": ("DocVQA/DocVQA/validation-00000-of-00001.parquet", short),
        "pope_adv": ("POPE/Full/adversarial-00000-of-00001.parquet", pope),
        "ocrbench": ("OCRBench/data/test-00000-of-00001.parquet", text),
        "scienceqa": ("ScienceQA/ScienceQA-FULL/test-00000-of-00001.parquet", science),
        "muirbench": ("MUIRBENCH/data/test-00000-of-00001.parquet", pairs),
        "seedbench_ppl": ("SEED-Bench/data/test-00000-of-00001.parquet", choices),
        "docvqa_test": ("DocVQA/DocVQA/test-00000-of-00001.parquet", short[:3]),
        "mmvet": ("MMVet/data/test-00000-of-00001.parquet", free),
    }
    return {name: Row(file, documents, (), None, ()) for name, (file, documents) in files.items()}


def put_own(folder: Path) -> Path:
    """The files of a user's own task; returns the YAML file."""
    Row("questions/a.json", OWN[:1], (), None, ()).put(folder)
    Row("questions/b.json", OWN[1:], (), None, ()).put(folder)
    (folder / "scoring.py").write_text(SCORING)
    (folder / "mine.yaml").write_text(YAML)
    return folder / "mine.yaml"
