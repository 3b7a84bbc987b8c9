"""GQA, testdev balanced: compositional questions about real scenes, answered with a word."""

from __future__ import annotations

import string

from evals.tasks.base import LLAVA, Answer, Doc, JoinedImages, Source, Task, no_text
from hidrop.prompts import SHORT_ANSWER


class GQA(Task):
    """12,578 questions about 398 images. The questions and the images are in files of their own."""

    name = "gqa"
    title = "GQA"
    source = Source(
        repository="lmms-lab-encoder/GQA",
        split="testdev",
        folder="gqa",
        files="testdev_balanced_instructions/*.parquet",
        columns=("question", "answer"),
        rows=12578,
        images=JoinedImages("testdev_balanced_images/*.parquet", id="id", key="imageId"),
        megabytes=68,
    )
    id_columns = key_columns = ("id",)
    export_yaml = "process_docs: null\n"  # the official function downloads images, which the exported file holds

    def question(self, doc: Doc) -> str:
        return f"{doc['question']}\n{SHORT_ANSWER}"

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        return no_text(doc, "question", "answer")

    def reading(self, answer: Answer, protocol: str) -> str:
        """Lower case; LLaVA also drops trailing dots, lmms-eval all punctuation."""
        if protocol == LLAVA:
            return answer.text.rstrip(".").lower()
        return _bare(answer.text)

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        target = self.target(answer.doc)
        return float(reading == (target if protocol == LLAVA else _bare(target)))


def _bare(text: str) -> str:
    return text.lower().translate(str.maketrans("", "", string.punctuation))
