"""A lesson on questions with choices in ScienceQA's form, whose answer is the letter alone.

The drills answer such questions in MMBench's form by the option and its letter ("red B"), which ScienceQA's rule does
not read. This lesson comes after the drills: what is learned in two steps there becomes one step. A share of drills
keeps the other skills and MMBench's form.

Everything is a function of the index, as in samples.py.
"""

from __future__ import annotations

import numpy as np

from hidrop.mini.choices import TOLD_KINDS, choices, told
from hidrop.mini.questions import LETTERS, Question
from hidrop.mini.scenes import render
from hidrop.mini.training.drills import LISTED_KINDS, drill
from hidrop.mini.training.samples import Sample, Turn, draw_questions, draw_scene
from hidrop.prompts import LETTER_ANSWER

# Shares of the samples: drills, and questions that a hint answers; the rest have an image.
KEPT, TOLD = 0.35, 0.2
ASKED = 6  # questions of a sample


def choices_sample(index: int, split_seed: int = 0) -> Sample:
    rng = np.random.default_rng([split_seed, 7, index])
    form = rng.random()
    if form < KEPT:
        return drill(rng)
    if form < KEPT + TOLD:
        return Sample(None, tuple(told_turns(rng)))
    scene = draw_scene(rng)
    questions = draw_questions(scene, LISTED_KINDS, ASKED, rng)
    return Sample(render(scene), tuple(_turn(question, "", rng) for question in questions))


def told_turns(rng: np.random.Generator) -> list[Turn]:
    """Questions without an image, each with a hint of its own."""
    turns: list[Turn] = []
    while len(turns) < ASKED:
        kind = TOLD_KINDS[int(rng.integers(len(TOLD_KINDS)))]
        if (found := told(draw_scene(rng), kind, rng)) is not None:
            hint, question = found
            turns.append(_turn(question, f"Context: {hint}\n", rng))
    return turns


def _turn(question: Question, context: str, rng: np.random.Generator) -> Turn:
    """The question as lmms-eval and LLaVA ask ScienceQA's, and the letter of the right choice."""
    picked = choices(question, rng)
    listed = "\n".join(f"{LETTERS[place]}. {text}" for place, text in enumerate(picked))
    return f"{context}{question.text}\n{listed}\n{LETTER_ANSWER}", LETTERS[picked.index(question.answer)]
