"""VQAv2: open questions about photos of COCO, with ten people's answers to each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from evals.tasks import vqav2_questions
from evals.tasks.base import LLAVA, Answer, Doc, JoinedImages, Source, no_text
from evals.tasks.soft_accuracy import SoftAccuracy, evalai, references_problem
from evals.tasks.submitted import Submitted
from hidrop.prompts import SHORT_ANSWER


class VQAv2Val(SoftAccuracy):
    """214,354 questions about 40,504 images of the validation split, scored by VQA's soft accuracy.

    Papers print test-dev, which only a server scores; LLaVA has no script for this split. Under its protocol the
    questions are in the wording of its test-dev file, and answers are normalised as in its file for that server.
    """

    name = "vqav2_val"
    title = "VQAv2 (val)"
    source = Source(
        repository="lmms-lab-encoder/VQAv2",
        split="validation",
        folder="vqav2",
        files="data/validation-*.parquet",
        columns=("question", "question_id", "answers", "image"),
        rows=214354,
        megabytes=34_000,  # estimated from the 143 shards of the test split, of half a gigabyte each
    )

    def question(self, doc: Doc) -> str:
        return _asked(doc)

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "question"):
            return found
        said = doc["answers"] or []
        if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
            return "answers", "not a list of answers, each with the field 'answer'"
        return references_problem([one.get("answer") for one in said])

    def target(self, doc: Doc) -> Any:
        return [one["answer"] for one in doc["answers"]]

    def normalised(self, text: str, protocol: str) -> str:
        """LLaVA's file for the server has EvalAI's normalisation, lmms-eval a part of it."""
        return evalai()(text) if protocol == LLAVA else _partly()(text)


class VQAv2Test(Submitted):
    """447,793 questions of the test split, which a server scores. The version `testdev` asks 107,394 of them.

    Papers print test-dev, which is this part. The server takes all questions also for test-dev: as in LLaVA's file,
    those that were not asked have the answer "".
    """

    name = "vqav2_test"
    title = "VQAv2"
    source = Source(
        repository="lmms-lab-encoder/VQAv2",
        split="test",
        folder="vqav2",
        files="data/test-*.parquet",
        columns=("question", "question_id", "image"),
        rows=447793,
        megabytes=71_500,  # 143 shards of half a gigabyte
    )
    versions: ClassVar[Mapping[str, Source]] = {
        "testdev": Source(
            repository="lmms-lab-encoder/VQAv2",
            split="test",
            folder="vqav2",
            files=vqav2_questions.FILES,
            columns=("question", "question_id", "image_id", "part"),
            rows=107394,
            images=JoinedImages("data/testdev-*.parquet", id="question_id", key="question_id"),
            title="test-dev (lmms-lab-encoder/VQAv2)",
            convert=vqav2_questions.as_parquet,
            elsewhere=f"unpack {vqav2_questions.ARCHIVE} into {{folder}}",
            megabytes=17_000,  # estimated as for the whole split
        )
    }
    order_column = "part"
    not_asked = "they are not in test-dev"
    server = "EvalAI challenge 830, https://eval.ai/web/challenges/challenge-page/830"

    def order(self, doc: Doc) -> int | None:
        return None if doc["part"] == vqav2_questions.REST else 0

    def question(self, doc: Doc) -> str:
        return _asked(doc)

    def entry(self, answer: Answer, protocol: str) -> dict[str, Any]:
        """LLaVA's file has normalised answers, lmms-eval's the answers as they are."""
        text = evalai()(answer.text) if protocol == LLAVA else answer.text
        return {"question_id": answer.doc["question_id"], "answer": text}


def _asked(doc: Doc) -> str:
    """LLaVA's wording, which is lmms-eval's too."""
    return f"{doc['question']}\n{SHORT_ANSWER}"


@functools.cache
def _partly() -> Callable[[str], str]:
    """The part of EvalAI's normalisation that lmms-eval applies in VQAv2: a comma between words is not removed."""
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    processor = EvalAIAnswerProcessor()

    def normalised(text: str) -> str:
        line = text.replace("\n", " ").replace("\t", " ").strip()
        return str(processor.process_digit_article(processor.process_punctuation(line)))

    return functools.lru_cache(1 << 16)(normalised)
