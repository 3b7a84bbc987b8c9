"""ScienceQA, the test questions with an image: school science with two to five options."""

from __future__ import annotations

import re
import string

from evals.tasks.base import LLAVA, Answer, Doc, Source, Task, empty, no_text
from hidrop.prompts import LETTER_ANSWER

LETTERS = string.ascii_uppercase
# LLaVA's script knows five letters, whatever the number of options.
FEWEST_LETTERS = 5
# LLaVA's script does not escape the full stop, so any character may come after the letter.
SENTENCE = re.compile("The answer is ([A-Z]).")


class ScienceQA(Task):
    """2,017 of the 4,241 test questions. Data in the same format may also have questions without an image."""

    name = "scienceqa_img"
    title = "SQA-I"
    source = Source(
        repository="lmms-lab-encoder/ScienceQA",
        split="test",
        folder="scienceqa",
        files="ScienceQA-IMG/test-*.parquet",
        columns=("question", "choices", "answer", "hint", "image"),
        rows=2017,
        megabytes=130,
    )
    max_new_tokens = 1024
    text_only = True
    id_columns = key_columns = ()  # the problem's id is not in the data, and some problems only differ in their image

    def question(self, doc: Doc) -> str:
        hint = [] if empty(doc["hint"]) else [f"Context: {doc['hint']}"]
        options = [f"{letter}. {text}" for letter, text in zip(LETTERS, doc["choices"], strict=False)]
        return "\n".join([*hint, str(doc["question"]), *options, LETTER_ANSWER])

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "question"):
            return found
        hint, choices, right = doc["hint"], doc["choices"], doc["answer"]
        if not empty(hint) and not isinstance(hint, str):
            return "hint", f"a {type(hint).__name__} instead of text"
        if not isinstance(choices, list) or not all(isinstance(text, str) and not empty(text) for text in choices):
            return "choices", "not a list of texts"
        if not 1 <= len(choices) <= len(LETTERS):
            return "choices", f"{len(choices)} options, but there have to be 1 to {len(LETTERS)}"
        if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
            return "answer", f"{str(right)[:20]!r} is not the place of one of its {len(choices)} options (from 0)"
        return None

    def target(self, doc: Doc) -> str:
        """The letter of the right option."""
        return LETTERS[doc["answer"]]

    def category(self, doc: Doc) -> str | None:
        return doc.get("subject")

    def reading(self, answer: Answer, protocol: str) -> str:
        """The letter that an answer names, "" if the protocol's rule finds none.

        LLaVA takes a letter alone, a letter with ". " and more after it, or "The answer is X." exactly once. lmms-eval
        takes a letter alone, capital or small, or an answer that begins with a capital letter and a full stop.
        """
        text = answer.text.strip()
        if protocol != LLAVA:
            if len(text) == 1 and text.isascii():
                return text.upper()
            return text[0] if text[1:2] == "." and text[0].isupper() else ""
        letters = LETTERS[: max(FEWEST_LETTERS, len(answer.doc["choices"]))]
        if text and text[0] in letters and (len(text) == 1 or text[1:3] == ". "):
            return text[0]
        said = SENTENCE.findall(text)
        return said[0] if len(said) == 1 else ""

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        return float(reading == self.target(answer.doc))
