"""The test sets of the embedded benchmark, row by row, with the columns of the official sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from hidrop.mini.choices import TOLD_KINDS, choices, told
from hidrop.mini.questions import KINDS, LETTERS, Question, options
from hidrop.mini.scenes import COLORS, Scene, make_scene

# The rotations of an MMBench question have its index plus a multiple of this, as in the official file.
ROTATION = 1_000_000

# When a set is written, the entry `scene` is rendered to `image`. None: a row without an image.
Row = dict[str, Any]

# Kinds and their shares. Two thirds of the GQA answers are yes or no, balanced, and the other answers are spread
# evenly. A model that does not see the image then gains little over the best constant answer.
GQA_KINDS = {
    "verify_color": 0.24, "verify_place": 0.22, "verify_relation": 0.22, "color_at_place": 0.03,
    "digit_at_place": 0.03, "color_of_digit": 0.03, "digit_of_color": 0.03, "place_of_digit": 0.05,
    "digit_beside": 0.06, "color_beside": 0.06, "count_color": 0.03,
}  # fmt: skip
TEXT_KINDS = {"read_number": 0.4, "read_word": 0.4, "first_digit": 0.1, "last_digit": 0.1}
# kind -> (category, L2-category), in MMBench's taxonomy of abilities
MMBENCH_KINDS = {
    "color_of_digit": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "digit_of_color": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "place_of_digit": ("object_localization", "finegrained_perception (instance-level)"),
    "color_at_place": ("object_localization", "finegrained_perception (instance-level)"),
    "digit_beside": ("spatial_relationship", "finegrained_perception (cross-instance)"),
    "color_beside": ("spatial_relationship", "finegrained_perception (cross-instance)"),
    "read_number": ("ocr", "finegrained_perception (instance-level)"),
    "read_word": ("ocr", "finegrained_perception (instance-level)"),
}
# kind -> sub-task of MME. Count is not among them: the models were trained to count, but not to verify a number.
MME_KINDS = {"exists": "existence", "verify_color": "color", "verify_relation": "position", "verify_place": "OCR"}
MME_END = " Please answer yes or no."
# kind -> ScienceQA's subject. Kinds of an image are asked about an image, and TOLD_KINDS about a hint.
_IMAGE_KINDS = tuple(MMBENCH_KINDS)
SUBJECTS = {
    "color_of_digit": "natural science", "digit_of_color": "natural science", "color_at_place": "natural science",
    "digit_at_place": "natural science", "place_of_digit": "social science", "digit_beside": "social science",
    "color_beside": "social science", "read_number": "language science", "read_word": "language science",
}  # fmt: skip
TOLD_EVERY = 4  # the share of ScienceQA's questions without an image is one in so many

# The tasks use separate ranges of seeds, so no image belongs to two tasks. ScienceQA's hints have one of their own.
_SCENES = {
    "gqa": 0, "mmbench": 100_000, "textvqa": 200_000, "pope": 300_000, "mme": 400_000, "scienceqa": 500_000,
    "told": 550_000,
}  # fmt: skip


def _questions(
    task: str, shares: dict[str, float], count: int, accept: Callable[[Question], bool] = lambda _: True
) -> Iterator[tuple[Scene, Question, np.random.Generator]]:
    """`count` questions, one per scene, with exactly these shares of kinds (rounded)."""
    rng = np.random.default_rng([_SCENES[task], 41])
    wanted = [kind for kind, share in shares.items() for _ in range(round(share * count))]
    wanted += [next(iter(shares))] * (count - len(wanted))
    seed = _SCENES[task]
    for index in rng.permutation(count):
        while True:
            scene = make_scene("test", seed)
            seed += 1
            question = KINDS[wanted[int(index)]](scene, rng)
            if question is not None and accept(question):
                yield scene, question, rng
                break


def gqa_rows(count: int) -> Iterator[Row]:
    """GQA: question, answer, imageId. The answers of each yes/no kind are balanced exactly."""
    quota: dict[tuple[str, str], int] = {}

    def balanced(question: Question) -> bool:
        key, other = (question.kind, question.answer), ({"yes": "no", "no": "yes"}.get(question.answer))
        if other and quota.get(key, 0) > quota.get((question.kind, other), 0):
            return False
        quota[key] = quota.get(key, 0) + 1
        return True

    for number, (scene, question, _) in enumerate(_questions("gqa", GQA_KINDS, count, balanced)):
        yield {
            "id": f"{number:06d}", "imageId": scene.key, "question": question.text, "answer": question.answer,
            "fullAnswer": question.answer, "isBalanced": True, "groups": question.kind, "scene": scene,
        }  # fmt: skip


def mmbench_rows(count: int) -> Iterator[Row]:
    """MMBench: `count` questions with four options, each in all four rotations (CircularEval)."""
    shares = {kind: 1 / len(MMBENCH_KINDS) for kind in MMBENCH_KINDS}
    for number, (scene, question, rng) in enumerate(_questions("mmbench", shares, count)):
        picked = options(question, len(LETTERS), rng)
        category, ability = MMBENCH_KINDS[question.kind]
        for turn in range(len(LETTERS)):
            rotated = picked[turn:] + picked[:turn]
            yield {
                "index": number + turn * ROTATION, "question": question.text, "hint": "nan",
                "answer": LETTERS[rotated.index(question.answer)], **dict(zip(LETTERS, rotated, strict=True)),
                "category": category, "L2-category": ability, "source": "hidrop-mini", "split": "dev",
                "comment": "nan", "image_id": scene.key, "scene": scene,
            }  # fmt: skip


def textvqa_rows(count: int) -> Iterator[Row]:
    """TextVQA: ten reference answers. Sometimes one or two of them differ, as people's answers do."""
    for number, (scene, question, rng) in enumerate(_questions("textvqa", TEXT_KINDS, count)):
        answers = [question.answer] * 10
        for slip in range(int(rng.choice(3, p=[0.6, 0.25, 0.15]))):
            answers[slip] = "unanswerable" if rng.random() < 0.5 else question.answer[:-1] or "nothing"
        yield {
            "question_id": 30_000 + number, "image_id": scene.key, "question": question.text,
            "question_tokens": question.text.rstrip("?").lower().split(), "answers": answers,
            "ocr_tokens": [sign.text for sign in scene.signs], "image_width": 80, "image_height": 80,
            "set_name": "val", "scene": scene,
        }  # fmt: skip


def pope_rows(count: int) -> Iterator[Row]:
    """POPE: a third each of random, popular and adversarial; yes and no balanced in each.

    Negatives: any absent coloured digit (random), one of the set's 15 most frequent (popular), or one whose colour
    and value are both in the image, on different digits (adversarial).
    """
    rng = np.random.default_rng([_SCENES["pope"], 43])
    names = [f"{color} {value}" for color in COLORS for value in range(10)]
    scenes = [make_scene("test", _SCENES["pope"] + i) for i in range(2 * count)]
    frequency = {name: sum(name in {d.name for d in scene.digits} for scene in scenes) for name in names}
    popular = sorted(names, key=lambda name: (-frequency[name], name))[:15]
    pool = iter(scenes)
    for number in range(count):
        category = ("random", "popular", "adversarial")[number % 3]
        truth = (number // 3) % 2 == 0
        while True:
            scene = next(pool)
            there = {d.name for d in scene.digits}
            if truth:
                choice = sorted(there)
            elif category == "adversarial":
                choice = sorted({f"{a.color} {b.value}" for a in scene.digits for b in scene.digits} - there)
            else:
                choice = [name for name in (names if category == "random" else popular) if name not in there]
            if choice:
                break
        name = choice[int(rng.integers(len(choice)))]
        yield {
            "id": str(number), "question_id": str(number), "question": f"Is there a {name} in the image?",
            "answer": "yes" if truth else "no", "image_source": scene.key, "category": category, "scene": scene,
        }  # fmt: skip


def mme_rows(count: int) -> Iterator[Row]:
    """MME: `count` questions, two about each image, of which one has the answer yes. The sub-tasks take turns."""
    rng = np.random.default_rng([_SCENES["mme"], 47])
    kinds, seed = tuple(MME_KINDS), _SCENES["mme"]
    for number in range(count // 2):
        kind = kinds[number % len(kinds)]
        while True:
            scene = make_scene("test", seed)
            seed += 1
            if (pair := _yes_and_no(kind, scene, rng)) is not None:
                break
        for question in pair:
            yield {
                "question_id": f"{MME_KINDS[kind]}/{scene.key}.png", "question": question.text + MME_END,
                "answer": question.answer.capitalize(), "category": MME_KINDS[kind], "scene": scene,
            }  # fmt: skip


def _yes_and_no(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[Question, Question] | None:
    """A question of this kind with the answer yes, and one with the answer no. None: the scene has no such pair."""
    found: dict[str, Question] = {}
    for _ in range(20):  # each answer has half of the questions
        if (question := KINDS[kind](scene, rng)) is not None:
            found.setdefault(question.answer, question)
        if len(found) == 2:
            return found["yes"], found["no"]
    return None


def scienceqa_rows(count: int) -> Iterator[Row]:
    """ScienceQA: two to four choices. Every fourth question has no image, and its hint has the answer."""
    shares = {kind: 1 / len(_IMAGE_KINDS) for kind in _IMAGE_KINDS}
    shown, hinted = _questions("scienceqa", shares, count - count // TOLD_EVERY), _told_questions()
    for number in range(count):
        if number % TOLD_EVERY == TOLD_EVERY - 1:
            scene, hint, question, rng = None, *next(hinted)
        else:
            (scene, question, rng), hint = next(shown), ""
        picked = choices(question, rng)
        yield {
            "question": question.text, "choices": picked, "answer": picked.index(question.answer), "hint": hint,
            "task": "closed choice", "subject": SUBJECTS[question.kind], "skill": question.kind, "scene": scene,
        }  # fmt: skip


def _told_questions() -> Iterator[tuple[str, Question, np.random.Generator]]:
    """Hints with a question that each one answers. The kinds take turns."""
    rng, seed = np.random.default_rng([_SCENES["told"], 41]), _SCENES["told"]
    for kind in cycle(TOLD_KINDS):
        while (found := told(make_scene("test", seed), kind, rng)) is None:
            seed += 1
        seed += 1
        yield *found, rng


# task -> (file below the data folder, rows, number of questions)
SETS: dict[str, tuple[str, Callable[[int], Iterator[Row]], int]] = {
    "gqa": ("gqa/testdev.parquet", gqa_rows, 600),
    "mmbench_en_dev": ("mmbench/dev.parquet", mmbench_rows, 500),
    "textvqa_val": ("textvqa/validation.parquet", textvqa_rows, 500),
    "pope": ("pope/test.parquet", pope_rows, 600),
    "mme": ("mme/test.parquet", mme_rows, 600),
    "scienceqa_img": ("scienceqa/test.parquet", scienceqa_rows, 600),
}
