"""Training conversations of the embedded models, from the grammar of the embedded benchmark.

Stage 1 (captions) has dense captions, by place and by content, so that every object of every image is supervised.
Stage 2 (instructions) asks several questions per image, in the form of the test sets, and keeps a share of captions.
Some samples of both stages have no image: the decoder starts from random weights, and this is all the plain language
that it gets. Every question with a one-word answer has a dense form here that asks for it many times per image,
because single answers leave a small model on a plateau for thousands of steps.
Everything is a function of (stage, index), so a resumed run sees the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hidrop.mini.glyphs import WORDS
from hidrop.mini.questions import DIGITS, KINDS, LETTERS, NUMBERS, Question, options, unique_names
from hidrop.mini.scenes import COLORS, DIRECTIONS, GRID, PLACES, Scene, make_scene, render
from hidrop.prompts import LETTER_ANSWER, SHORT_ANSWER

SHORT = f"\n{SHORT_ANSWER}"
LETTER = f"\n\n{LETTER_ANSWER}"

# The possible options of a question.
POOLS: tuple[tuple[str, ...], ...] = (tuple(COLORS), DIGITS, PLACES, WORDS, *NUMBERS.values())

Turn = tuple[str, str]

# How often a kind is asked in training. Conjunctions and relations are learned slowly, so they are asked more often.
WEIGHTS = {
    "color_at_place": 1.0, "digit_at_place": 1.0, "color_of_digit": 1.0, "digit_of_color": 1.0, "place_of_digit": 1.0,
    "digit_beside": 2.0, "color_beside": 2.0, "count_color": 1.0, "verify_color": 1.5, "verify_place": 1.0,
    "verify_relation": 2.5, "exists": 3.0, "read_number": 1.5, "read_word": 1.0, "first_digit": 0.5, "last_digit": 0.5,
}  # fmt: skip
# The share of samples without an image.
TEXT_ONLY = 0.2
# Stage 2: questions per image, and the shares of conversations with captions and with options.
TURNS, CAPTIONED, OPTIONS = 8, 0.35, 0.4
# Kinds that the MMBench test set asks with options A-D.
WITH_OPTIONS = (
    "color_at_place", "digit_at_place", "color_of_digit", "digit_of_color", "place_of_digit", "digit_beside",
    "color_beside", "count_color", "read_number", "read_word",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One image with its turns. `pixels` is (height, width, 3) uint8, or None for a text-only sample.

    If `only` names words (of one token each), nothing else in the answers is supervised.
    """

    pixels: NDArray[np.uint8] | None
    turns: tuple[Turn, ...]
    only: tuple[str, ...] = ()


def draw_scene(rng: np.random.Generator, signs: int | None = None) -> Scene:
    """A training scene; `signs` as in make_scene."""
    return make_scene("train", int(rng.integers(1 << 40)), signs)


def draw_options(rng: np.random.Generator) -> list[str]:
    """A different text for each letter, all of one kind."""
    pool = POOLS[int(rng.integers(len(POOLS)))]
    return [pool[int(i)] for i in rng.choice(len(pool), size=len(LETTERS), replace=False)]


def draw_questions(
    scene: Scene, kinds: Mapping[str, float], count: int, rng: np.random.Generator, tries: int | None = None
) -> Iterator[Question]:
    """Up to `count` different questions about the scene, by the weights of `kinds`. Scenes with little give fewer."""
    names = tuple(kinds)
    weights = np.array([kinds[name] for name in names])
    asked: set[str] = set()
    for _ in range(tries or 8 * count):
        if len(asked) == count:
            return
        question = KINDS[names[int(rng.choice(len(names), p=weights / weights.sum()))]](scene, rng)
        if question is not None and question.text not in asked:
            asked.add(question.text)
            yield question


def listed(question: Question, count: int, rng: np.random.Generator) -> tuple[str, str]:
    """The question with lettered options, written as in lmms-eval's MMBench prompt, and the right letter."""
    picked = options(question, count, rng)
    return f"{question.text} {lettered(picked)}", LETTERS[picked.index(question.answer)]


def lettered(options: list[str]) -> str:
    return "There are several options:\n" + "\n".join(f"{LETTERS[i]}. {text}" for i, text in enumerate(options))


# --- captions ---------------------------------------------------------------------------------------------------
# Their order is fixed: a random order cannot be predicted, and its noise hides the image's signal.


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
    """Existence of coloured digits: present ones, and combinations of present colours and values."""
    there = {d.name for d in scene.digits}
    mixed = sorted({f"{a.color} {b.value}" for a in scene.digits for b in scene.digits})
    return "Check: " + ", ".join(f"{name} {_yes(name in there)}" for name in mixed[:12])


def caption_of_claims(scene: Scene) -> str:
    """True and false claims about places: each digit's place with its own value and with the next digit's."""
    parts = []
    for digit, other in zip(scene.digits, (*scene.digits[1:], *scene.digits[:1]), strict=True):
        values = sorted({digit.value, other.value, (digit.value + 1) % 10})
        parts += [f"{digit.place} {value} {_yes(value == digit.value)}" for value in values]
    return "Verify: " + ", ".join(parts[:12])


def described(caption: str) -> Turn:
    """A caption as the answer to an instruction."""
    name, text = caption.split(": ", 1)
    return f"Describe the image. {name}:", text


def instructed(turns: Sequence[Turn]) -> list[Turn]:
    """The format instruction is in the first turn and holds for the following ones, as in LLaVA's mix."""
    return [(question + SHORT if number == 0 else question, answer) for number, (question, answer) in enumerate(turns)]


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def caption_of_signs(scene: Scene) -> str:
    ordered = sorted(scene.signs, key=lambda sign: sign.cell)
    parts = [f"{'number' if sign.is_number else 'word'} {sign.text} {PLACES[sign.cell]}" for sign in ordered]
    return "Signs: " + (", ".join(parts) or "none")


def caption_of_relations(scene: Scene) -> str:
    """Whether each digit is to the left, to the right, above or below the next one."""
    names = unique_names(scene)
    parts = []
    for a, b in zip(names, names[1:] + names[:1], strict=True) if len(names) > 1 else ():
        (row_a, column_a), (row_b, column_b) = divmod(a.cell, GRID), divmod(b.cell, GRID)
        truths = {
            "left": column_a < column_b,
            "right": column_a > column_b,
            "above": row_a < row_b,
            "below": row_a > row_b,
        }
        parts.append(f"{a.name} to {b.name} " + " ".join(f"{word} {_yes(truth)}" for word, truth in truths.items()))
    return "Relations: " + (", ".join(parts[:4]) or "none")


# caption -> its weight in stage 1 and in stage 2: look-ups by one key first, then what has to be combined.
CAPTIONS: dict[Callable[[Scene], str], tuple[float, float]] = {
    caption_by_place: (3.0, 1.0),
    caption_by_digit: (3.0, 1.0),
    caption_by_color: (2.0, 1.5),
    caption_by_neighbour: (1.5, 2.0),
    caption_of_names: (2.0, 2.0),
    caption_of_claims: (2.0, 2.0),
    caption_of_signs: (3.0, 2.0),
    caption_of_relations: (1.5, 2.5),
}


def _captions(scene: Scene, rng: np.random.Generator, stage: int, count: int) -> list[str]:
    """`count` different captions of the scene, by the weights of `stage` (1 or 2)."""
    weights = np.array([each[stage - 1] for each in CAPTIONS.values()])
    picks = rng.choice(len(CAPTIONS), size=count, replace=False, p=weights / weights.sum())
    return [tuple(CAPTIONS)[int(pick)](scene) for pick in picks]


# --- conversations ----------------------------------------------------------------------------------------------


def caption_sample(index: int, split_seed: int = 0) -> Sample:
    """Stage 1: captions follow the image directly, without an instruction, as in LLaVA's pretraining."""
    return _drawn(*caption_turns(index, split_seed))


def instruction_sample(index: int, split_seed: int = 0) -> Sample:
    """Stage 2: several questions about one image, sometimes options without an image."""
    return _drawn(*instruction_turns(index, split_seed))


def caption_turns(index: int, split_seed: int = 0) -> tuple[Scene | None, tuple[Turn, ...]]:
    """The scene and the turns of `caption_sample`. Nothing is drawn, which takes most of a sample's time."""
    rng = np.random.default_rng([split_seed, 1, index])
    if rng.random() < TEXT_ONLY:
        return None, _without_image(rng)
    scene = draw_scene(rng)
    return scene, (("", ". ".join(_captions(scene, rng, stage=1, count=3))),)


def instruction_turns(index: int, split_seed: int = 0) -> tuple[Scene | None, tuple[Turn, ...]]:
    """The scene and the turns of `instruction_sample`. Nothing is drawn."""
    rng = np.random.default_rng([split_seed, 2, index])
    if rng.random() < TEXT_ONLY:
        return None, _without_image(rng)
    scene = draw_scene(rng)
    return scene, tuple(_conversation(scene, rng))


def _drawn(scene: Scene | None, turns: tuple[Turn, ...]) -> Sample:
    return Sample(None if scene is None else render(scene), turns)


def _without_image(rng: np.random.Generator) -> tuple[Turn, ...]:
    """Options and their letters, without the task of finding the answer."""
    return tuple(_lettering(rng) for _ in range(4))


def _lettering(rng: np.random.Generator) -> Turn:
    """Each option with its letter repeated after it; or the letters of some options; or that of a given answer.

    Small decoders learn to exclude options first and stay there for long. Repeating the letter is one of the two steps
    that finding it takes, and options that are asked for twice cannot be excluded.
    """
    picked = draw_options(rng)
    form = rng.random()
    if form < 0.3:
        again = (f"{LETTERS[i]}. {text} {LETTERS[i]}" for i, text in enumerate(picked))
        return f"{lettered(picked)}\n\nRepeat:", ", ".join(again)
    wanted = [int(i) for i in rng.integers(4, size=6)]
    if form < 0.6:
        return f"It is {picked[wanted[0]]}. {lettered(picked)}{LETTER}", LETTERS[wanted[0]]
    asked = ", ".join(picked[i] for i in wanted)
    return f"{lettered(picked)}\n\nLetters of {asked}:", ", ".join(f"{picked[i]} {LETTERS[i]}" for i in wanted)


def _conversation(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """TURNS questions. With probability CAPTIONED, two captions are asked for instead of some of them."""
    done: list[Turn] = []
    turns = TURNS
    if rng.random() < CAPTIONED:
        done += [described(caption) for caption in _captions(scene, rng, stage=2, count=2)]
        turns -= 4
    with_options = rng.random() < OPTIONS
    if not with_options:
        questions = draw_questions(scene, WEIGHTS, turns, rng, tries=4 * turns)
        return done + instructed([(question.text, question.answer) for question in questions])
    kinds = {kind: WEIGHTS[kind] for kind in WITH_OPTIONS}
    for question in draw_questions(scene, kinds, turns // 2, rng, tries=4 * turns):
        text, letter = listed(question, 4, rng)
        # Naming the option before its letter supervises the look-up and the letter separately.
        if rng.random() < 0.4:
            done.append((text + "\n\nAnswer with the option and its letter.", f"{question.answer} {letter}"))
        else:
            done.append((text + LETTER, letter))
    return done
