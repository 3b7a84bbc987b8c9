"""Training conversations of the embedded model, and its tokenizer, from the grammar of the embedded benchmark.

The decoder's own pretraining (language) tells a scene in words and asks about the text. Stage 1 (captions) shows dense
captions, keyed by place and by content, so that every object of every image is supervised; stage 2 (instructions) asks
several questions an image, wrapped as the test sets wrap them, and keeps a share of captions. Everything is a function
of (stage, index): the same sample comes back after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals.mini.questions import KINDS, PHRASES, Question, options, unique_names
from evals.mini.scenes import COLORS, DIRECTIONS, PLACES, Scene, make_scene, render

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\n\nAnswer with the option's letter from the given choices directly."

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


def caption_by_place(scene: Scene, rng: np.random.Generator) -> str:
    parts = []
    for cell in rng.permutation(len(PLACES)):
        digit = scene.at(int(cell))
        parts.append(f"{PLACES[cell]} {digit.name if digit else 'none'}")
    return "By place: " + ", ".join(parts)


def caption_by_digit(scene: Scene, rng: np.random.Generator) -> str:
    parts = []
    for value in rng.permutation(10):
        found = [f"{d.color} {d.place}" for d in scene.digits if d.value == value]
        parts.append(f"{value} {' and '.join(found) or 'none'}")
    return "By digit: " + ", ".join(parts)


def caption_by_color(scene: Scene, rng: np.random.Generator) -> str:
    names = tuple(COLORS)
    parts = []
    for index in rng.permutation(len(names)):
        found = [f"{d.value} {d.place}" for d in scene.digits if d.color == names[index]]
        parts.append(f"{names[index]} {len(found)} {' and '.join(found) or 'none'}")
    return "By color: " + ", ".join(parts)


def caption_by_neighbour(scene: Scene, rng: np.random.Generator) -> str:
    parts = []
    for index in rng.permutation(len(scene.digits))[:4]:
        digit = scene.digits[int(index)]
        around = []
        for direction in rng.permutation(list(DIRECTIONS)):
            other = scene.beside(digit.cell, str(direction))
            around.append(f"{direction} {other.name if other else 'none'}")
        parts.append(f"{digit.name} {digit.place}: {', '.join(around)}")
    return "Neighbours: " + "; ".join(parts)


def caption_of_names(scene: Scene, rng: np.random.Generator) -> str:
    """Existence of coloured digits, present and absent, the absent ones mixed from present parts."""
    there = sorted({d.name for d in scene.digits})
    mixed = sorted({f"{a.color} {b.value}" for a in scene.digits for b in scene.digits} - set(there))
    names = there + [mixed[int(i)] for i in rng.permutation(len(mixed))[: len(there) + 1]]
    parts = [f"{names[int(i)]} {'yes' if names[int(i)] in there else 'no'}" for i in rng.permutation(len(names))]
    return "Check: " + ", ".join(parts)


def caption_of_signs(scene: Scene, rng: np.random.Generator) -> str:
    parts = [f"{'number' if s.is_number else 'word'} {s.text} {PLACES[s.cell]}" for s in scene.signs]
    return "Signs: " + (", ".join(parts) or "none")


def caption_of_relations(scene: Scene, rng: np.random.Generator) -> str:
    """Pairs of digits with how the first lies to the second, along the axes on which they differ."""
    names = unique_names(scene)
    pairs = [(a, b) for a in names for b in names if a is not b]
    parts = []
    for index in rng.permutation(len(pairs))[:4]:
        a, b = pairs[int(index)]
        (row_a, col_a), (row_b, col_b) = divmod(a.cell, 3), divmod(b.cell, 3)
        words = []
        if col_a != col_b:
            words.append(PHRASES["left" if col_a < col_b else "right"])
        if row_a != row_b:
            words.append(PHRASES["above" if row_a < row_b else "below"])
        parts.append(f"{a.name} is {' and '.join(words)} the {b.name}")
    return "Relations: " + (", ".join(parts) or "none")


CAPTIONS = (
    caption_by_place, caption_by_digit, caption_by_color, caption_by_neighbour, caption_of_names, caption_of_signs,
    caption_of_relations,
)  # fmt: skip
CAPTION_WEIGHTS = np.array([2.0, 2.0, 1.5, 2.0, 2.0, 1.0, 1.5])


# --- conversations ----------------------------------------------------------------------------------------------


def caption_sample(index: int, split_seed: int = 0) -> Sample:
    """Stage 1: the caption follows the image directly, without an instruction, as in LLaVA's pretraining."""
    rng = np.random.default_rng([split_seed, 1, index])
    scene = make_scene("train", int(rng.integers(1 << 40)))
    picks = rng.choice(len(CAPTIONS), size=2, replace=False, p=CAPTION_WEIGHTS / CAPTION_WEIGHTS.sum())
    text = ". ".join(CAPTIONS[int(i)](scene, rng) for i in picks)
    return Sample(render(scene), (("", text),))


def instruction_sample(index: int, turns: int = 8, captions: float = 0.25, split_seed: int = 0) -> Sample:
    """Stage 2: several questions about one image."""
    rng = np.random.default_rng([split_seed, 2, index])
    scene = make_scene("train", int(rng.integers(1 << 40)))
    return Sample(render(scene), tuple(_conversation(scene, rng, turns, captions)))


def language_sample(index: int, turns: int = 9, captions: float = 0.25, split_seed: int = 0) -> Sample:
    """The decoder's own pretraining: the scene is told in words, and the same questions are asked about the text."""
    rng = np.random.default_rng([split_seed, 3, index])
    scene = make_scene("train", int(rng.integers(1 << 40)))
    parts = [f"{d.name} {d.place}" for d in scene.digits] + [f"sign {s.text} {PLACES[s.cell]}" for s in scene.signs]
    told = ", ".join(parts[int(i)] for i in rng.permutation(len(parts)))
    (question, answer), *rest = _conversation(scene, rng, turns, captions)
    return Sample(None, ((f"Scene: {told}.\n{question}", answer), *rest))


def _conversation(scene: Scene, rng: np.random.Generator, turns: int, captions: float) -> list[Turn]:
    """About `turns` questions; with probability `captions`, a caption is asked for in place of some of them.

    As in LLaVA's mix, the format instruction stands in the first turn and holds for the following ones.
    """
    done: list[Turn] = []
    if rng.random() < captions:
        pick = int(rng.choice(len(CAPTIONS), p=CAPTION_WEIGHTS / CAPTION_WEIGHTS.sum()))
        name, text = CAPTIONS[pick](scene, rng).split(": ", 1)
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
