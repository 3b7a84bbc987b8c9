"""Questions about a scene, by kind. Each kind takes a scene and gives a question with its answer, or None.

The test sets (test_sets.py) and training (training/samples.py) share the kinds, so both use the same language. They
differ in scenes, glyphs and wrapping (options, suffixes, captions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hidrop.mini.glyphs import WORDS
from hidrop.mini.scenes import COLORS, DIRECTIONS, GRID, PLACES, Digit, Scene, Sign

LETTERS = "ABCD"  # of options
DIGITS = tuple(str(d) for d in range(10))
NUMBERS = {length: tuple(str(n) for n in range(10 ** (length - 1), 10**length)) for length in (2, 3)}
# How a relation is said: "Which digit is <phrase> the red 7?"
PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Question:
    """`choices` are all possible answers of the question. Wrong options are drawn from them."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


Maker = Callable[[Scene, np.random.Generator], Question | None]


def _any(items: list[Digit], rng: np.random.Generator) -> Digit | None:
    return items[int(rng.integers(len(items)))] if items else None


def _unique_values(scene: Scene) -> list[Digit]:
    return [d for d in scene.digits if sum(e.value == d.value for e in scene.digits) == 1]


def _unique_colors(scene: Scene) -> list[Digit]:
    return [d for d in scene.digits if sum(e.color == d.color for e in scene.digits) == 1]


def unique_names(scene: Scene) -> list[Digit]:
    """Digits whose colour and value occur together once, so that "the red 7" is unique."""
    return [d for d in scene.digits if sum(e.name == d.name for e in scene.digits) == 1]


def mention(digit: Digit, scene: Scene, rng: np.random.Generator) -> str:
    """A unique name for `digit`: "7" if that is unique in the scene, otherwise "red 7"."""
    return str(digit.value) if digit in _unique_values(scene) and rng.random() < 0.5 else digit.name


def color_at_place(scene: Scene, rng: np.random.Generator) -> Question | None:
    digit = _any(list(scene.digits), rng)
    if digit is None:
        return None
    return Question("color_at_place", f"What color is the digit in the {digit.place}?", digit.color, tuple(COLORS))


def digit_at_place(scene: Scene, rng: np.random.Generator) -> Question | None:
    digit = _any(list(scene.digits), rng)
    if digit is None:
        return None
    return Question("digit_at_place", f"Which digit is in the {digit.place}?", str(digit.value), DIGITS)


def color_of_digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    digit = _any(_unique_values(scene), rng)
    if digit is None:
        return None
    return Question("color_of_digit", f"What color is the {digit.value}?", digit.color, tuple(COLORS))


def digit_of_color(scene: Scene, rng: np.random.Generator) -> Question | None:
    digit = _any(_unique_colors(scene), rng)
    if digit is None:
        return None
    return Question("digit_of_color", f"Which digit is {digit.color}?", str(digit.value), DIGITS)


def place_of_digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    digit = _any(unique_names(scene), rng)
    if digit is None:
        return None
    return Question("place_of_digit", f"Where is the {mention(digit, scene, rng)}?", digit.place, PLACES)


def _related(scene: Scene, rng: np.random.Generator) -> tuple[Digit, str, Digit] | None:
    """(anchor, direction, neighbour) for a random anchor that has a neighbour."""
    found = [
        (anchor, direction, other)
        for anchor in unique_names(scene)
        for direction in DIRECTIONS
        if (other := scene.beside(anchor.cell, direction)) is not None
    ]
    return found[int(rng.integers(len(found)))] if found else None


def digit_beside(scene: Scene, rng: np.random.Generator) -> Question | None:
    if (found := _related(scene, rng)) is None:
        return None
    anchor, direction, other = found
    text = f"Which digit is {PHRASES[direction]} the {mention(anchor, scene, rng)}?"
    return Question("digit_beside", text, str(other.value), DIGITS)


def color_beside(scene: Scene, rng: np.random.Generator) -> Question | None:
    if (found := _related(scene, rng)) is None:
        return None
    anchor, direction, other = found
    text = f"What color is the digit {PHRASES[direction]} the {mention(anchor, scene, rng)}?"
    return Question("color_beside", text, other.color, tuple(COLORS))


def count_color(scene: Scene, rng: np.random.Generator) -> Question | None:
    counts = {color: sum(d.color == color for d in scene.digits) for color in COLORS}
    levels = sorted(set(counts.values()))
    level = levels[int(rng.integers(len(levels)))]
    colors = [color for color, count in counts.items() if count == level]
    color = colors[int(rng.integers(len(colors)))]
    return Question("count_color", f"How many {color} digits are there?", str(level), ("0", "1", "2", "3", "4"))


def _yes_no(kind: str, text: str, truth: bool) -> Question:
    return Question(kind, text, "yes" if truth else "no", ("yes", "no"))


def verify_color(scene: Scene, rng: np.random.Generator) -> Question | None:
    digit = _any(_unique_values(scene), rng)
    if digit is None:
        return None
    truth = bool(rng.random() < 0.5)
    color = digit.color if truth else _other(tuple(COLORS), digit.color, rng)
    return _yes_no("verify_color", f"Is the {digit.value} {color}?", truth)


def verify_place(scene: Scene, rng: np.random.Generator) -> Question | None:
    digit = _any(list(scene.digits), rng)
    if digit is None:
        return None
    truth = bool(rng.random() < 0.5)
    value = digit.value if truth else int(_other(DIGITS, str(digit.value), rng))
    return _yes_no("verify_place", f"Is the digit in the {digit.place} a {value}?", truth)


def verify_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Compare the rows or columns of two digits at any distance: "Is the 3 above the red 5?"."""
    names = unique_names(scene)
    pairs = [(a, b) for a in names for b in names if a is not b]
    if not pairs:
        return None
    truth = bool(rng.random() < 0.5)
    for index in rng.permutation(len(pairs)):
        first, second = pairs[int(index)]
        direction = tuple(PHRASES)[int(rng.integers(4))]
        axis, sign = (1, 1) if direction in ("left", "right") else (0, 1)
        sign = -1 if direction in ("left", "above") else 1
        gap = (divmod(first.cell, GRID)[axis] - divmod(second.cell, GRID)[axis]) * sign
        if gap != 0 and (gap > 0) == truth:
            text = f"Is the {mention(first, scene, rng)} {PHRASES[direction]} the {mention(second, scene, rng)}?"
            return _yes_no("verify_relation", text, truth)
    return None


def exists(scene: Scene, rng: np.random.Generator) -> Question | None:
    """POPE's question. Half of the negatives combine what is present: an absent digit in a present colour."""
    names = {d.name for d in scene.digits}
    truth = bool(rng.random() < 0.5)
    if truth:
        name = sorted(names)[int(rng.integers(len(names)))] if names else ""
    else:
        mixed = sorted({f"{a.color} {b.value}" for a in scene.digits for b in scene.digits} - names)
        every = [f"{color} {value}" for color in COLORS for value in range(10) if f"{color} {value}" not in names]
        pool = mixed if mixed and rng.random() < 0.5 else every
        name = pool[int(rng.integers(len(pool)))]
    return _yes_no("exists", f"Is there a {name} in the image?", truth) if name else None


def _sign(scene: Scene, number: bool) -> Sign | None:
    return next((sign for sign in scene.signs if sign.is_number == number), None)


def read_number(scene: Scene, rng: np.random.Generator) -> Question | None:
    sign = _sign(scene, True)
    if sign is None:
        return None
    return Question("read_number", "What number is on the sign?", sign.text, NUMBERS[len(sign.text)])


def read_word(scene: Scene, rng: np.random.Generator) -> Question | None:
    sign = _sign(scene, False)
    if sign is None:
        return None
    return Question("read_word", "What word is on the sign?", sign.text, WORDS)


def first_digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    sign = _sign(scene, True)
    if sign is None:
        return None
    return Question("first_digit", "What is the first digit of the number?", sign.text[0], DIGITS)


def last_digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    sign = _sign(scene, True)
    if sign is None:
        return None
    return Question("last_digit", "What is the last digit of the number?", sign.text[-1], DIGITS)


def _other(pool: tuple[str, ...], not_this: str, rng: np.random.Generator) -> str:
    rest = [item for item in pool if item != not_this]
    return rest[int(rng.integers(len(rest)))]


def options(question: Question, count: int, rng: np.random.Generator) -> list[str]:
    """The answer and `count - 1` different wrong choices, in random order."""
    wrong = [choice for choice in question.choices if choice != question.answer]
    picked = [wrong[int(i)] for i in rng.permutation(len(wrong))[: count - 1]] + [question.answer]
    return [picked[int(i)] for i in rng.permutation(len(picked))]


KINDS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        color_at_place, digit_at_place, color_of_digit, digit_of_color, place_of_digit, digit_beside, color_beside,
        count_color, verify_color, verify_place, verify_relation, exists, read_number, read_word, first_digit,
        last_digit,
    )
}  # fmt: skip
