"""Questions with choices in ScienceQA's form: about an image, or about what a hint says.

The ScienceQA set (test_sets.py) and the lesson for it (training/choices.py) share them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hidrop.mini.questions import KINDS, LETTERS, Question, options
from hidrop.mini.scenes import Digit, Scene

# Kinds that a hint can answer: it says colour, value and place of each digit.
TOLD_KINDS = ("color_at_place", "digit_at_place", "color_of_digit", "digit_of_color", "place_of_digit")


def told(scene: Scene, kind: str, rng: np.random.Generator) -> tuple[str, Question] | None:
    """A hint that describes one or two digits of the scene, and a question of this kind about one of them.

    None for a scene with too few digits, and for two digits that the question cannot tell apart.
    """
    count = int(rng.integers(1, 3))
    if len(scene.digits) < count:
        return None
    picked = tuple(scene.digits[int(i)] for i in rng.permutation(len(scene.digits))[:count])
    # Nothing but these digits is known without the image.
    question = KINDS[kind](replace(scene, digits=picked, signs=()), rng)
    return None if question is None else (" ".join(map(_fact, picked)), question)


def _fact(digit: Digit) -> str:
    return f"The digit in the {digit.place} is a {digit.name}."


def choices(question: Question, rng: np.random.Generator) -> list[str]:
    """Two to four choices with the answer among them, in random order."""
    return options(question, int(rng.integers(2, len(LETTERS) + 1)), rng)
