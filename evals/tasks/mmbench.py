"""MMBench dev, English and Chinese: questions with up to four options, each in several rotations (CircularEval)."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

from evals.tasks.base import LLAVA, RIGHT, Answer, Doc, Sample, Source, Statistic, Task, mean_of_sums, no_text
from evals.tasks.multiple_choice import LETTERS, with_options
from hidrop.prompts import LETTER_ANSWER

# The rotations of a question carry its index plus a multiple of this.
ROTATION = 1_000_000
COLUMNS = ("index", "question", "hint", "answer", *LETTERS, "category", "L2-category", "image", "source", "split")
METRIC = "metric_list:\n  - {{metric: gpt_eval_score, aggregation: !function {}, higher_is_better: true}}\n"
CHINESE_LETTER_ANSWER = "请直接回答选项字母。"


class MMBench(Task):
    """4,329 rotations (4,377 in LLaVA's version). A question counts as right when all its rotations are."""

    name = "mmbench_en_dev"
    title = "MMBench"
    source = Source(
        repository="lmms-lab-encoder/MMBench",
        split="dev",
        folder="mmbench",
        files="en/dev-*.parquet",
        columns=COLUMNS,
        rows=4329,
        megabytes=97,
    )
    versions: ClassVar[Mapping[str, Source]] = {
        # The one that LLaVA's evaluation reads and published numbers belong to: 1,176 questions.
        "20230712": Source(
            repository="lmms-lab/MMBench_EN",
            split="dev",
            folder="mmbench_20230712",
            files="data/dev-*.parquet",
            columns=tuple(name.replace("L2", "l2") for name in COLUMNS),
            rows=4377,
            title="dev 20230712 (lmms-lab/MMBench_EN)",
            renamed=(("l2-category", "L2-category"),),
        )
    }
    max_new_tokens = 1024
    metric = "circular_accuracy"
    official = "gpt_eval_score"
    scale = 1.0
    details = ("rotation_accuracy", "l2_*")
    id_columns = key_columns = ("index",)
    group_column = "index"
    units = "questions with all their rotations"
    # What LLaVA's questions end with.
    letter_answer = LETTER_ANSWER
    # The official metric asks an OpenAI model; this aggregation reads the letters by rules and needs no network.
    static = "lmms_eval.tasks.mmbench.en_utils.mmbench_aggregate_dev_results_static"
    export_yaml = METRIC.format(static)

    def question(self, doc: Doc) -> str:
        hint = [] if absent(doc.get("hint")) else [str(doc["hint"])]
        return with_options([*hint, str(doc["question"])], options(doc), self.letter_answer)

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "question", "answer"):
            return found
        index, right = doc["index"], doc["answer"]
        if not isinstance(index, int | float) or index % 1:  # NaN, too
            return "index", f"{str(index)[:20]!r} is not a whole number"
        # An option called "None" counts as missing in the question, but official rows have it.
        if right not in tuple(LETTERS) or doc[right] is None or doc[right] != doc[right]:
            return "answer", f"{right[:20]!r} is not the letter of one of its options"
        return None

    def group(self, doc: Doc) -> int:
        """The question that a document is a rotation of."""
        return int(doc["index"]) % ROTATION

    def unit_count(self, samples: int, extra: Mapping[str, float | None]) -> int | None:
        questions = extra.get("questions")
        return None if questions is None else int(questions)

    def group_problem(self, docs: Sequence[Doc]) -> tuple[str, str] | None:
        """lmms-eval leaves out a question without its first rotation, and a gap shows that a row is missing.

        That the last rotations are missing only shows in the number of rows: how many a question should have is not in
        the file, as an option called "None" cannot be told from a missing one.
        """
        turns = {int(doc["index"]) // ROTATION for doc in docs}
        lacking = sorted(set(range(min(max(turns) + 1, len(LETTERS)))) - turns)
        if not lacking:
            return None
        question, rows = (
            self.group(docs[0]),
            " and ".join(str(self.group(docs[0]) + turn * ROTATION) for turn in lacking),
        )
        return "index", f"question {question} lacks its rotation with index {rows}"

    def category(self, doc: Doc) -> str | None:
        return doc.get("L2-category") or doc.get("category")

    def reading(self, answer: Answer, protocol: str) -> str:
        """The letter of the option that an answer names, "" if it is unclear."""
        if protocol == LLAVA:
            return option_letter(answer.text, options(answer.doc))
        return _static_letter(answer.text, answer.doc)

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        return float(reading == answer.doc["answer"])

    def value(
        self, answers: Sequence[Answer], readings: Sequence[str], scores: Sequence[float], protocol: str
    ) -> tuple[float, dict[str, float]]:
        questions: dict[int, float] = {}
        level2: dict[str, dict[int, float]] = {}
        for score, answer in zip(scores, answers, strict=True):
            question = self.group(answer.doc)
            questions[question] = min(questions.get(question, 1.0), score)
            level2.setdefault(str(answer.doc["L2-category"]), {})[question] = questions[question]
        extra = {"rotation_accuracy": 100 * fmean(scores), "questions": float(len(questions))}
        extra |= {f"l2_{name}": 100 * fmean(of.values()) for name, of in sorted(level2.items())}
        return 100 * fmean(questions.values()), extra

    def statistic(self, protocol: str, samples: Sequence[Sample]) -> Statistic:
        """The unit is a question, and the value the share of questions that are right."""
        return Statistic(
            lambda sample: sample["group"],
            lambda rows: (float(all(row["score"] >= RIGHT for row in rows)), 1.0),
            mean_of_sums,
        )

    def metrics(self, official: Sequence[dict[str, Any]], protocol: str) -> list[dict[str, Any]]:
        """Under LLaVA's protocol none: they take seconds, and the value is not lmms-eval's there."""
        if protocol == LLAVA:
            return []
        return [
            {**metric, "aggregation": functools.partial(_aggregate, self.static)}
            if metric["metric"] == self.official
            else metric
            for metric in super().metrics(official, protocol)
        ]


class MMBenchCN(MMBench):
    """The same questions in Chinese. LLaVA's evaluation reads the file mmbench_dev_cn_20231003.tsv.

    Whether the Hub's file has the same rows was not checked.

    lmms-eval scores it with an OpenAI model only; its rules for English are applied here. Its prompt has the sentence
    before the options in English, and prints a hint that is the text "nan".
    """

    name = "mmbench_cn_dev"
    title = "MMBench-CN"
    source = Source(
        repository="lmms-lab-encoder/MMBench",
        split="dev",
        folder="mmbench_cn",
        files="cn/dev-*.parquet",
        columns=COLUMNS,
        rows=4329,
        megabytes=97,
    )
    versions: ClassVar[Mapping[str, Source]] = {}
    letter_answer = CHINESE_LETTER_ANSWER
    static = "evals.tasks.mmbench.static_score"
    export_yaml = METRIC.format(static)


def absent(value: Any) -> bool:
    """Whether a hint or an option is missing: None, NaN, or the word that a CSV file has for it."""
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in ("", "nan", "none"))


def options(doc: Doc) -> dict[str, str]:
    """The options by letter, up to the first missing one of A to D."""
    found: dict[str, str] = {}
    for letter in LETTERS:
        if absent(doc.get(letter)):
            break
        found[letter] = str(doc[letter])
    return found


def option_letter(text: str, choices: Mapping[str, str]) -> str:
    """The option that an answer names: its one letter, else the one option whose text it contains; "" if unclear.

    A bare "A" in a sentence of more than three words is an article, not a letter.
    """
    words = text.split()
    named = {word.strip("().,:;*'\"") for word in words} & set(choices)
    if len(words) > 3 and "A" in words:
        named.discard("A")
    if len(named) == 1:
        return named.pop()
    said = text.lower().strip(" .")
    held = [letter for letter, option in choices.items() if option.lower() == said]
    held = held or [letter for letter, option in choices.items() if option.lower() in said]
    return held[0] if len(held) == 1 else ""


def _static_letter(text: str, doc: Doc) -> str:
    """The option that lmms-eval's static evaluation reads, by its own functions."""
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    judge, item = MMBench_Evaluator(), {**{c: doc.get(c) for c in LETTERS}, "prediction": text.strip()}
    return judge.prefetch_answer(item) or extract_mcq_answer(item["prediction"], sorted(judge.build_choices(item)))


def static_score(results: list[dict[str, Any]], args: Any) -> float:
    """The official score (0-100) by rules, for the languages in which lmms-eval has no such aggregation."""
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    return 100 * float(MMBench_Evaluator().eval_result(results, eval_method="static")[0])


def _aggregate(static: str, results: list[dict[str, Any]], args: Any) -> float:
    """The official score by the aggregation `static`, without what it prints."""
    module, name = static.rsplit(".", 1)
    with contextlib.redirect_stdout(io.StringIO()):
        return float(getattr(importlib.import_module(module), name)(results, args))
