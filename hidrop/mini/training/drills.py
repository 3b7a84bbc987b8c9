"""Drills: the last lessons of the embedded models, for skills that single questions teach too slowly.

LLaVA starts from a language model that can look things up in its prompt. A decoder with random weights cannot. If a
sample asks for a skill many times, the skill forms within some hundred steps. With one question per image it was still
at chance after thousands.

- `signs_sample`: images with a sign in every row, and questions about each.
- `rows_sample`: rows of short questions, most of them of kinds that need several look-ups.
- `letters_sample`: a list of options without an image, and the letters of many of them. Only the letters are
  supervised, because which option is asked next cannot be predicted.
- `drill_sample`: all three mixed, and questions with options. These are answered by the option and then its letter
  ("red B"), which MMBench's rule reads as B. Finding the answer and its letter in one step did not form within the
  length of a recipe.

Skills are taught one after the other. Mixed from the start, relations were at chance after 400 steps; alone, they were
at 86 % after 60.

Everything is a function of (kind, index), as in samples.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hidrop.mini.questions import LETTERS
from hidrop.mini.scenes import GRID, PLACES, Scene, render
from hidrop.mini.training.samples import (
    LETTER,
    Sample,
    Turn,
    caption_by_neighbour,
    caption_of_claims,
    caption_of_names,
    caption_of_relations,
    described,
    draw_options,
    draw_questions,
    draw_scene,
    instructed,
    lettered,
    listed,
)

# Options asked for in a list without an image; questions per row; questions with options per image.
ASKED, ROW, LISTS = 12, 14, 5
# Shares of the samples of drill_sample: no image, signs, options; the rest are rows.
PLAIN, SIGNS, LISTED = 0.1, 0.22, 0.28
DESCRIBED = 0.4  # the share of rows that start with one of these dense descriptions
DESCRIPTIONS = (caption_of_names, caption_of_claims, caption_of_relations, caption_by_neighbour)
# How often a row asks a kind, to teach combining: kinds with more look-ups are asked more often.
COMBINED: dict[str, float] = {
    "verify_relation": 4.0, "digit_beside": 3.0, "color_beside": 3.0, "verify_color": 2.0, "count_color": 1.5,
    "exists": 1.5, "verify_place": 1.0, "color_at_place": 0.2, "digit_at_place": 0.2, "color_of_digit": 0.3,
    "digit_of_color": 0.3, "place_of_digit": 0.6,
}  # fmt: skip
# The same, to keep all skills: a lesson of one skill weakens those that it does not ask for.
EVERYTHING: dict[str, float] = {
    "verify_relation": 3.0, "digit_beside": 2.0, "color_beside": 2.0, "verify_color": 2.5, "count_color": 1.5,
    "exists": 3.0, "verify_place": 2.0, "color_at_place": 0.5, "digit_at_place": 0.5, "color_of_digit": 0.7,
    "digit_of_color": 0.7, "place_of_digit": 1.5, "read_number": 1.0, "read_word": 0.7, "first_digit": 0.3,
    "last_digit": 0.5,
}  # fmt: skip
LISTED_KINDS: dict[str, float] = {
    "color_at_place": 1.0, "digit_at_place": 1.0, "color_of_digit": 1.0, "digit_of_color": 1.0, "place_of_digit": 1.5,
    "digit_beside": 2.0, "color_beside": 2.0, "count_color": 0.5, "read_number": 2.0, "read_word": 2.0,
}  # fmt: skip


def signs_sample(index: int, split_seed: int = 0) -> Sample:
    return _crowded(np.random.default_rng([split_seed, 3, index]))


def rows_sample(index: int, split_seed: int = 0) -> Sample:
    return _row(np.random.default_rng([split_seed, 4, index]), COMBINED)


def letters_sample(index: int, split_seed: int = 0) -> Sample:
    return _letters(np.random.default_rng([split_seed, 5, index]))


def drill_sample(index: int, split_seed: int = 0) -> Sample:
    return drill(np.random.default_rng([split_seed, 6, index]))


def drill(rng: np.random.Generator) -> Sample:
    """One of the drills, by their shares."""
    form = rng.random()
    if form < PLAIN:
        return _letters(rng)
    if form < PLAIN + SIGNS:
        return _crowded(rng)
    if form >= PLAIN + SIGNS + LISTED:
        return _row(rng, EVERYTHING)
    scene = draw_scene(rng)
    return Sample(render(scene), tuple(option_turns(scene, rng)))


def _letters(rng: np.random.Generator) -> Sample:
    picked = draw_options(rng)
    asked = (int(i) for i in rng.integers(len(LETTERS), size=ASKED))
    pairs = " ".join(f"{picked[i]} {LETTERS[i]}" for i in asked)
    return Sample(None, ((lettered(picked), pairs),), only=tuple(LETTERS))


def _crowded(rng: np.random.Generator) -> Sample:
    scene = draw_scene(rng, signs=GRID)
    return Sample(render(scene), tuple(sign_turns(scene, rng)))


def sign_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Questions about each sign by its place, about all signs, and those of the test sets about a unique sign."""
    signs = sorted(scene.signs, key=lambda sign: sign.cell)
    kinds = ["number" if sign.is_number else "word" for sign in signs]
    places = [PLACES[sign.cell] for sign in signs]
    turns = [
        (f"What {kind} is on the sign in the {place}?", sign.text)
        for kind, place, sign in zip(kinds, places, signs, strict=True)
    ]
    every = (f"{place} {kind} {sign.text}" for kind, place, sign in zip(kinds, places, signs, strict=True))
    turns.append(("Describe the image. Signs:", ", ".join(every)))
    for kind, sign in zip(kinds, signs, strict=True):
        if kinds.count(kind) == 1:
            turns.append((f"What {kind} is on the sign?", sign.text))
            if sign.is_number:
                turns.append(("What is the first digit of the number?", sign.text[0]))
                turns.append(("What is the last digit of the number?", sign.text[-1]))
    return instructed([turns[int(i)] for i in rng.permutation(len(turns))])


def _row(rng: np.random.Generator, kinds: Mapping[str, float]) -> Sample:
    scene = draw_scene(rng)
    return Sample(render(scene), tuple(row_turns(scene, rng, kinds)))


def option_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Questions in MMBench's form, answered by the option and its letter."""
    turns = []
    for question in draw_questions(scene, LISTED_KINDS, LISTS, rng):
        text, letter = listed(question, len(LETTERS), rng)
        turns.append((text + LETTER, f"{question.answer} {letter}"))
    return turns


def row_turns(scene: Scene, rng: np.random.Generator, kinds: Mapping[str, float]) -> list[Turn]:
    """Many short questions about one scene, sometimes after a dense description."""
    turns = instructed([(question.text, question.answer) for question in draw_questions(scene, kinds, ROW, rng)])
    if rng.random() < DESCRIBED:
        turns.insert(0, described(DESCRIPTIONS[int(rng.integers(len(DESCRIPTIONS)))](scene)))
    return turns
