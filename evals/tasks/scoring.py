"""Scores of the four tasks, sample by sample and over a task, under both protocols.

lmms-eval keeps no correctness of single samples for MMBench and POPE, and paired statistics need one number for
each sample; so they are computed here, and tests hold them against lmms-eval's aggregates. Values are 0 to 100,
scores of one sample 0 to 1.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from evals.tasks.protocol import options

# Circular copies of an MMBench question carry its index plus a multiple of this.
ROTATION = 1_000_000


@dataclass(frozen=True)
class Answer:
    """What a model said to a document. A failed sample (no answer could be made) counts as wrong everywhere."""

    doc: Mapping[str, Any]
    text: str
    failed: bool = False


@dataclass(frozen=True)
class Scores:
    """`value` (0-100) of `metric`, each sample's score (0-1) and reading in order, further metrics (0-100)."""

    metric: str
    value: float
    samples: tuple[float, ...]
    readings: tuple[str, ...]
    extra: dict[str, float] = field(default_factory=dict)


def score(task: str, protocol: str, answers: Sequence[Answer]) -> Scores:
    """Score the answers to one task. Raises ValueError when there are none."""
    if not answers:
        raise ValueError(f"{task}: no answers to score")
    return _SCORERS[task](answers, protocol == "llava")


# ---- GQA and TextVQA: the mean over samples ------------------------------------------------------------------------


def gqa_reading(text: str, llava: bool) -> str:
    """The answer as GQA compares it: lower case; LLaVA drops trailing dots, lmms-eval all punctuation."""
    if llava:
        return text.rstrip(".").lower()
    return text.lower().translate(str.maketrans("", "", string.punctuation))


def _gqa(answers: Sequence[Answer], llava: bool) -> Scores:
    readings = tuple(gqa_reading(a.text, llava) for a in answers)
    targets = (a.doc["answer"] if llava else gqa_reading(a.doc["answer"], llava) for a in answers)
    hits = [float(r == t and not a.failed) for r, t, a in zip(readings, targets, answers, strict=True)]
    return Scores("accuracy" if llava else "exact_match", 100 * fmean(hits), tuple(hits), readings)


@functools.cache
def _evalai() -> Callable[[str], str]:
    # The normalisation is a table of contractions and number words; lmms-eval ships the one everybody uses.
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    # Ten people often say the same, and every row of a matrix is measured against the same ten.
    return functools.lru_cache(1 << 16)(EvalAIAnswerProcessor())


def vqa_accuracy(text: str, references: Sequence[str]) -> float:
    """VQA's soft accuracy: the mean over all ways to leave one reference out of min(1, agreeing others / 3).

    Both sides go through EvalAI's normalisation (case, articles, number words, contractions, punctuation).
    """
    reading, said = _evalai()(text), [_evalai()(r) for r in references]
    agreeing = said.count(reading)
    return fmean(min(1.0, (agreeing - (other == reading)) / 3) for other in said)


def _textvqa(answers: Sequence[Answer], llava: bool) -> Scores:
    scores = tuple(0.0 if a.failed else vqa_accuracy(a.text, a.doc["answers"]) for a in answers)
    readings = tuple(_evalai()(a.text) for a in answers)
    return Scores("vqa_accuracy" if llava else "exact_match", 100 * fmean(scores), scores, readings)


# ---- POPE: F1 ------------------------------------------------------------------------------------------------------


def pope_reading(text: str, llava: bool) -> str:
    """ "yes" or "no". LLaVA: "no" if the first sentence has a word No, not or no, else "yes".

    lmms-eval: the answer itself in lower case, which is right only if it is nothing but "yes" or "no".
    """
    if not llava:
        return text.lower().strip()
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def pope_metrics(readings: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and the share of "yes" among the readings, all 0-100.

    A reading that is neither "yes" nor "no" is wrong for the accuracy and left out of the others, as in lmms-eval.
    """
    pairs = list(zip(readings, targets, strict=True))
    hit, alarm, miss = (pairs.count(pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "yes")))
    precision = hit / (hit + alarm) if hit + alarm else 0.0
    recall = hit / (hit + miss) if hit + miss else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    accuracy = fmean(r == t for r, t in pairs)
    yes = fmean(r == "yes" for r, _ in pairs)
    values = {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1, "yes_ratio": yes}
    return {name: 100 * value for name, value in values.items()}


def _pope(answers: Sequence[Answer], llava: bool) -> Scores:
    targets = [a.doc["answer"].lower().strip() for a in answers]
    # LLaVA's rule reads an empty answer as "yes"; a sample that failed must not profit from that.
    readings = [
        ("no" if target == "yes" else "yes") if a.failed and llava else pope_reading(a.text, llava)
        for a, target in zip(answers, targets, strict=True)
    ]
    overall, extra = pope_metrics(readings, targets), dict[str, float]()
    categories: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        categories.setdefault(str(answer.doc.get("category", "all")), []).append(place)
    for category, places in categories.items():
        of = pope_metrics([readings[p] for p in places], [targets[p] for p in places])
        extra |= {f"{name}_{category}": value for name, value in of.items()}
    value = fmean(extra[f"f1_{category}"] for category in categories) if llava else overall["f1"]
    hits = tuple(float(r == t) for r, t in zip(readings, targets, strict=True))
    return Scores("f1" if llava else "pope_f1_score", value, hits, tuple(readings), overall | extra)


# ---- MMBench: circular evaluation ----------------------------------------------------------------------------------


def option_letter(text: str, choices: Mapping[str, str]) -> str:
    """The option that an answer names: its one letter, or else the one option whose text it holds; "" if unclear.

    A bare "A" in a sentence of more than three words is an article and no letter.
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


def _static_letter(text: str, doc: Mapping[str, Any]) -> str:
    """The option that lmms-eval's static evaluation reads, by its own functions."""
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    judge, item = MMBench_Evaluator(), {**{c: doc.get(c) for c in "ABCD"}, "prediction": text.strip()}
    return judge.prefetch_answer(item) or extract_mcq_answer(item["prediction"], sorted(judge.build_choices(item)))


def _mmbench(answers: Sequence[Answer], llava: bool) -> Scores:
    read = [option_letter(a.text, options(a.doc)) if llava else _static_letter(a.text, a.doc) for a in answers]
    hits = tuple(float(r == a.doc["answer"] and not a.failed) for r, a in zip(read, answers, strict=True))
    questions: dict[int, float] = {}
    level2: dict[str, dict[int, float]] = {}
    for hit, answer in zip(hits, answers, strict=True):
        question = group(answer.doc)
        questions[question] = min(questions.get(question, 1.0), hit)
        level2.setdefault(str(answer.doc["L2-category"]), {})[question] = questions[question]
    extra = {"rotation_accuracy": 100 * fmean(hits), "questions": float(len(questions))}
    extra |= {f"l2_{name}": 100 * fmean(of.values()) for name, of in sorted(level2.items())}
    metric = "circular_accuracy" if llava else "gpt_eval_score"
    return Scores(metric, 100 * fmean(questions.values()), hits, tuple(read), extra)


def group(doc: Mapping[str, Any]) -> int:
    """The MMBench question that a document is a rotation of."""
    return int(doc["index"]) % ROTATION


_SCORERS: dict[str, Callable[[Sequence[Answer], bool], Scores]] = {
    "gqa": _gqa,
    "mmbench_en_dev": _mmbench,
    "textvqa_val": _textvqa,
    "pope": _pope,
}
