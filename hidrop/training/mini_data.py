"""Training conversations of the embedded model, and its tokenizer, from the grammar of the embedded benchmark.

Stage 1 (captions) shows dense captions, keyed by place and by content, so that every object of every image is
supervised; stage 2 (instructions) asks several questions an image, wrapped as the test sets wrap them, and keeps a
share of captions. Everything is a function of (stage, index): the same sample comes back after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals.mini.questions import KINDS, PHRASES, Question, options, unique_names
from evals.mini.scenes import COLORS, DIRECTIONS, PLACES, Scene, make_scene, render
from evals.tasks.protocol import LETTER_ANSWER, SHORT_ANSWER

SHORT = f"\n{SHORT_ANSWER}"
LETTER = f"\n\n{LETTER_ANSWER}"

Turn = tuple[str, str]

# How often a kind is asked in training; conjunctions and relations come up slowly, so they are asked more.
WEIGHTS = {
    "color_at_place": 1.0, "digit_at_place": 1.0, "color_of_digit": 1.0, "digit_of_color": 1.0, "place_of_digit": 1.0,
    "digit_beside": 2.0, "color_beside": 2.0, "count_color": 1.0, "verify_color": 1.5, "verify_place": 1.0,
    "verify_relation": 2.5, "exists": 3.0, "read_number": 1.5, "read_word": 1.0, "first_digit": 0.5, "last_digit": 0.5,
}  # fmt: skip
# Kinds that the MMBench-like set turns into A-D questions.
WITH_OPTIONS = (
    "color_at_place", "digit_at_place", "color_of_digit", "digit_of_color", "place_of_digit", "digit_beside",
    "color_beside", "count_color", "read_number", "read_word",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One image with its turns. `pixels` is (height, width, 3) uint8, or None for a text-only sample."""

    pixels: NDArray[np.uint8] | None
    turns: tuple[Turn, ...]


def ask(scene: Scene, kind: str, rng: np.random.Generator) -> Question | None:
    return KINDS[kind](scene, rng)


def listed(question: Question, count: int, rng: np.random.Generator) -> tuple[str, str]:
    """The question with lettered options as lmms-eval's MMBench prompt writes them, and the right letter."""
    picked = options(question, count, rng)
    lines = "\n".join(f"{'ABCD'[i]}. {text}" for i, text in enumerate(picked))
    return f"{question.text} There are several options:\n{lines}", "ABCD"[picked.index(question.answer)]


# --- captions ---------------------------------------------------------------------------------------------------
# Their order is fixed: a random one cannot be predicted, and its noise hides what the image has to say.


def caption_by_place(scene: Scene) -> str:
    found = [scene.at(cell) for cell in range(len(PLACES))]
    return "By place: " + ", ".join(
        f"{place} {d.name if d else 'none'}" for place, d in zip(PLACES, found, strict=True)
    )


def caption_by_digit(scene: Scene) -> str:
    parts = []
    for value in range(10):
        found = [f"{d.color} {d.place}" for d in scene.digits if d.value == value]
        parts.append(f"{value} {' and '.join(found) or 'none'}")
    return "By digit: " + ", ".join(parts)


def caption_by_color(scene: Scene) -> str:
    parts = []
    for color in COLORS:
        found = [f"{d.value} {d.place}" for d in scene.digits if d.color == color]
        parts.append(f"{color} {len(found)} {' and '.join(found) or 'none'}")
    return "By color: " + ", ".join(parts)


def caption_by_neighbour(scene: Scene) -> str:
    parts = []
    for digit in scene.digits[:4]:
        beside = {direction: scene.beside(digit.cell, direction) for direction in DIRECTIONS}
        around = [f"{direction} {other.name if other else 'none'}" for direction, other in beside.items()]
        parts.append(f"{digit.name} {digit.place}: {', '.join(around)}")
    return "Neighbours: " + "; ".join(parts)


def caption_of_names(scene: Scene) -> str:
    """Existence of coloured digits: those that are there, and those mixed from present colours and values."""
    there = {d.name for d in scene.digits}
    mixed = sorted({f"{a.color} {b.value}" for a in scene.digits for b in scene.digits})
    return "Check: " + ", ".join(f"{name} {'yes' if name in there else 'no'}" for name in mixed[:12])


def caption_of_signs(scene: Scene) -> str:
    ordered = sorted(scene.signs, key=lambda sign: sign.cell)
    parts = [f"{'number' if sign.is_number else 'word'} {sign.text} {PLACES[sign.cell]}" for sign in ordered]
    return "Signs: " + (", ".join(parts) or "none")


def caption_of_relations(scene: Scene) -> str:
    """How each digit lies to the next one, along the axes on which they differ."""
    names = unique_names(scene)
    parts = []
    for a, b in zip(names, names[1:] + names[:1], strict=True) if len(names) > 1 else ():
        (row_a, col_a), (row_b, col_b) = divmod(a.cell, 3), divmod(b.cell, 3)
        words = []
        if col_a != col_b:
            words.append(PHRASES["left" if col_a < col_b else "right"])
        if row_a != row_b:
            words.append(PHRASES["above" if row_a < row_b else "below"])
        parts.append(f"{a.name} is {' and '.join(words)} the {b.name}")
    return "Relations: " + (", ".join(parts[:4]) or "none")


CAPTIONS = (
    caption_by_place, caption_by_digit, caption_by_color, caption_by_neighbour, caption_of_names, caption_of_signs,
    caption_of_relations,
)  # fmt: skip
# Look-ups by one key come first; stage 2 shifts to what has to be combined.
FIRST_WEIGHTS = np.array([4.0, 4.0, 2.0, 1.0, 1.0, 1.0, 0.5])
LATER_WEIGHTS = np.array([1.5, 1.5, 1.5, 2.0, 2.0, 1.5, 2.0])


# --- conversations ----------------------------------------------------------------------------------------------


def caption_sample(index: int, split_seed: int = 0) -> Sample:
    """Stage 1: the caption follows the image directly, without an instruction, as in LLaVA's pretraining."""
    rng = np.random.default_rng([split_seed, 1, index])
    scene = make_scene("train", int(rng.integers(1 << 40)))
    picks = rng.choice(len(CAPTIONS), size=2, replace=False, p=FIRST_WEIGHTS / FIRST_WEIGHTS.sum())
    text = ". ".join(CAPTIONS[int(i)](scene) for i in picks)
    return Sample(render(scene), (("", text),))


def instruction_sample(index: int, turns: int = 8, captions: float = 0.25, split_seed: int = 0) -> Sample:
    """Stage 2: several questions about one image."""
    rng = np.random.default_rng([split_seed, 2, index])
    scene = make_scene("train", int(rng.integers(1 << 40)))
    return Sample(render(scene), tuple(_conversation(scene, rng, turns, captions)))


def _conversation(scene: Scene, rng: np.random.Generator, turns: int, captions: float) -> list[Turn]:
    """About `turns` questions; with probability `captions`, a caption is asked for in place of some of them.

    As in LLaVA's mix, the format instruction stands in the first turn and holds for the following ones.
    """
    done: list[Turn] = []
    if rng.random() < captions:
        pick = int(rng.choice(len(CAPTIONS), p=LATER_WEIGHTS / LATER_WEIGHTS.sum()))
        name, text = CAPTIONS[pick](scene).split(": ", 1)
        done.append((f"Describe the image. {name}:", text))
        turns = max(2, turns - 4)
    with_options = rng.random() < 0.4
    kinds = tuple(WITH_OPTIONS if with_options else WEIGHTS)
    weights = np.array([WEIGHTS[kind] for kind in kinds])
    wanted = max(2, turns // 2) if with_options else turns
    told = False
    for _ in range(4 * turns):
        if wanted == 0:
            break
        question = ask(scene, kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))], rng)
        if question is None or any(question.text in asked for asked, _ in done):
            continue
        if with_options:
            text, letter = listed(question, 4, rng)
            # Naming the option before its letter supervises the look-up and the letter apart.
            if rng.random() < 0.4:
                done.append((text + "\n\nAnswer with the option and its letter.", f"{question.answer} {letter}"))
            else:
                done.append((text + LETTER, letter))
        else:
            done.append((question.text + ("" if told else SHORT), question.answer))
            told = True
        wanted -= 1
    return done
