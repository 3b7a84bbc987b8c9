"""Writes the eleven tasks' fabricated rows as files: plainly, and as the repositories on the Hub have them."""

from __future__ import annotations

import json
from pathlib import Path

from evals.tasks import get_task
from evals.tasks.vqav2_questions import PART, WHOLE
from tests.evals.eleven import ELEVEN, SUBMITTED, pope_of_llava
from tests.evals.golden import Fabricated, Row
from tests.evals.tasks.layout import write
from tests.evals.tasks.table import CASES

ALL = {name: made() for name, made in (ELEVEN | SUBMITTED).items()}


def tasks_of(protocol: str) -> dict[str, Fabricated]:
    """What is asked under a protocol: LLaVA's POPE has fewer questions, and a part of VQAv2's test split is asked."""
    if protocol != "llava":
        return ALL
    test = ALL["vqav2_test"]
    return {**ALL, "pope": pope_of_llava(), "vqav2_test": Fabricated(test.rows, test.answers, {}, order=(1, 2))}


def put_plainly(folder: Path) -> None:
    """Every task in one file, with its images."""
    for name, made in ALL.items():
        source = get_task(name).source
        write(list(made.rows), folder / source.folder / source.plain)


def put_as_on_the_hub(folder: Path) -> None:
    """The repositories' files, in the versions that the matrix paper-full names."""
    for name, made in tasks_of("llava").items():
        rows, file = list(made.rows), folder / get_task(name).source.folder / CASES[name].file
        if name == "mmbench_en_dev":
            rows = [{("l2-category" if key == "L2-category" else key): row[key] for key in row} for row in rows]
            file = folder / "mmbench_20230712/data/dev-00000-of-00001.parquet"
        if name == "gqa":
            images = {row["imageId"]: {"id": row["imageId"], "image": row["image"]} for row in rows}
            write(list(images.values()), folder / "gqa/testdev_balanced_images/testdev-00000-of-00001.parquet")
            rows = [without(row, "image") for row in rows]
        if name == "pope":
            for kind in ("adversarial", "popular", "random"):
                asked = [row for row in rows if row["category"] == kind]
                lines = [json.dumps(question_of(row)) for row in asked]
                (folder / "pope/coco").mkdir(parents=True, exist_ok=True)
                (folder / f"pope/coco/coco_pope_{kind}.json").write_text("\n".join(lines))
        if name == "vqav2_test":
            for stated, part in ((WHOLE, rows), (PART, rows[1:])):
                listed = [without(row, "image", "answers") for row in part]
                (folder / "vqav2" / stated).write_text(json.dumps({"info": {}, "questions": listed}))
            rows, file = rows[1:], folder / "vqav2/data/testdev-00000-of-00001.parquet"
        write(rows, file)


def without(row: Row, *names: str) -> Row:
    return {key: value for key, value in row.items() if key not in names}


def question_of(row: Row) -> Row:
    """A line of POPE's own files."""
    image = f"{row['image_source']}.jpg"
    return {"question_id": int(row["question_id"]), "image": image, "text": row["question"], "label": row["answer"]}
