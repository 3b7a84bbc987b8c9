"""What `run.py bench` is asked to time: every combination of batch, text, images and budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from evals.profiling.point import Point
from hidrop.errors import UserError, did_you_mean, shown

DEFAULT_METHODS = ("vanilla", "hidrop", "pdrop", "fastv", "random")
# Text-guided methods rate several tokens after the image, and half of the text is before it.
LEAST_TEXT = 4
BLOCK = "bench"  # the key of a YAML file
# Of the fields that hold numbers, the smallest that means something.
LEAST = {"batch": 1, "text": LEAST_TEXT, "images": 1, "new": 1, "steps": 1, "repeats": 1, "warmup": 0, "seed": 0}
WHOLE = ("steps", "repeats", "warmup", "seed")  # fields with one number; all others are lists


@dataclass(frozen=True)
class Sweep:
    """The settings of one bench. Every list is swept; `new` is computed from the same timings.

    methods: names, as in a matrix. budget: visual tokens per layer, as numbers ("64") or shares ("11%").
    batch: sequences at once. text: text tokens of a prompt. images: of a prompt. new: output tokens of a request.
    steps: tokens that are decoded and timed in each run, which give the time per output token.
    repeats, warmup: rounds that count, and rounds before them that do not.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    budget: tuple[str, ...] = ("64",)
    batch: tuple[int, ...] = (1,)
    text: tuple[int, ...] = (60,)
    images: tuple[int, ...] = (1,)
    new: tuple[int, ...] = (1, 32, 128, 512)
    steps: int = 8
    repeats: int = 10
    warmup: int = 2
    seed: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any], name: Callable[[str], str]) -> Sweep:
        """From a file's or command line's values; those that are None keep their default.

        `name` says how a field is called where it was written. Raises UserError, with a line for each mistake.
        """
        found: dict[str, Any] = {}
        problems = []
        for field, value in values.items():
            if value is None:
                continue
            try:
                found[field] = _read(field, value)
            except ValueError as error:
                problems.append(f"{name(field)}: {error}")
        if not problems:
            sweep = cls(**found)
            if min(sweep.text) // 2 < max(sweep.images):
                problems.append(
                    f"{name('text')}: {min(sweep.text)} text tokens are too few for {max(sweep.images)} images; "
                    f"at least {2 * max(sweep.images)}"
                )
        if problems:
            raise UserError("\n".join(problems))
        return sweep

    def points(self) -> list[Point]:
        """One for each combination of images, text and batch: all budgets of all methods are timed in its rounds."""
        return [
            Point(batch, text, images, self.steps, self.repeats, self.warmup, self.seed)
            for images in self.images
            for text in self.text
            for batch in self.batch
        ]

    def document(self) -> dict[str, Any]:
        """For the result file, with lists instead of tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def title(self) -> str:
        """The swept numbers as a part of a file's name: "b1.16-t60-i1"."""
        return "-".join(
            letter + ".".join(map(str, numbers))
            for letter, numbers in (("b", self.batch), ("t", self.text), ("i", self.images))
        )


def read_file(path: Path) -> dict[str, Any]:
    """The block `bench` of a YAML file: fields of `Sweep`, `geometry` and `model`. Raises UserError."""
    from hidrop import strict_yaml

    data = strict_yaml.read(path, path.name)
    block = data.get(BLOCK)
    if set(data) != {BLOCK} or not isinstance(block, dict):
        raise UserError(f"{path.name}: must have the one key {BLOCK}, with a mapping: `{BLOCK}: {{batch: [1, 4]}}`")
    known = [field.name for field in fields(Sweep)] + ["geometry", "model"]
    wrong = [
        f"{path.name}: {BLOCK}.{key}: unknown field.{did_you_mean(str(key), known)}"
        for key in block
        if key not in known
    ]
    if wrong:
        raise UserError("\n".join(wrong))
    return block


def _read(field: str, value: Any) -> Any:
    """A field's value, from a list, a single one, or a text such as "1,4". Raises ValueError."""
    listed = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    if field in WHOLE:
        if len(listed) != 1:
            raise ValueError(f"takes one number (got {shown(value)})")
        return _number(field, listed[0], value)
    if field in LEAST:
        found: tuple[Any, ...] = tuple(_number(field, one, value) for one in listed)
    else:
        found = tuple(str(one).strip() for one in listed)
    if not found or "" in found or len(set(found)) < len(found):
        raise ValueError(
            f"takes one or more different values, such as {EXAMPLES.get(field, '1,4')} (got {shown(value)})"
        )
    return found


EXAMPLES = {"methods": "fastv,hidrop", "budget": "64,11%", "text": "60,500", "new": "1,128", "images": "1,4"}


def _number(field: str, one: Any, whole: Any) -> int:
    least, text = LEAST[field], str(one).strip()
    if isinstance(one, (int, str)) and not isinstance(one, bool) and text.isdecimal() and int(text) >= least:
        return int(text)
    plural = "a whole number" if field in WHOLE else "whole numbers"
    raise ValueError(f"takes {plural} of {least} or more, such as {EXAMPLES.get(field, '1,4')} (got {shown(whole)})")
