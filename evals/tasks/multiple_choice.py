"""The layout of questions with lettered options, as in LLaVA's question files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LETTERS = "ABCD"


def with_options(question: Iterable[str], options: Mapping[str, str], asks: str) -> str:
    """The lines of a question, a line such as "A. red" for each option by its letter, and what the answer shall be."""
    return "\n".join([*question, *(f"{letter}. {text}" for letter, text in options.items()), asks])
