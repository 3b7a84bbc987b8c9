"""Schema and loading of published numbers (`results/reference/*.yaml`)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hidrop import strict_yaml
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.methods import METHODS
from hidrop.regular_files import local_path
from hidrop.strict_yaml import Flag, StrictModel, Whole

FOLDER = Path(__file__).parents[2] / "results" / "reference"

# A label is a whole number of tokens, and a share is printed with one decimal.
SHARE_ROUNDED = 0.06  # percentage points

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tokens = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # 0: the image left out
Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]


class ScoreKind(StrictModel):
    """The metric of a score and its largest possible value."""

    metric: Text
    max: Positive


class CitedSource(StrictModel):
    """The source of a number. Tables show `short`."""

    short: Text
    title: Text
    where: Text
    url: str | None = None
    note: str | None = None


class Pixels(StrictModel):
    """How large the images were: the processor's limits in pixels, or the visual tokens that every image had."""

    min_pixels: Count | None = None
    max_pixels: Count | None = None
    tokens: Count | None = None
    frames: Count | None = None  # of a video

    @property
    def text(self) -> str:
        """In words. A number of tokens says more than the limits that lead to it."""
        low = f"from {self.min_pixels} pixels" if self.min_pixels else ""
        high = f"up to {self.max_pixels} pixels" if self.max_pixels else ""
        size = f"{self.tokens} tokens an image" if self.tokens else " ".join(filter(None, (low, high)))
        return ", ".join(filter(None, (size, f"{self.frames} frames" if self.frames else "")))

    @model_validator(mode="after")
    def _stated(self) -> Self:
        if not self.text:
            raise ValueError("give min_pixels, max_pixels, tokens or frames")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        return self


class Published(StrictModel):
    """One row of one published table. Numbers are as printed; None if the source does not give them.

    share: percent of the visual tokens that are kept. after: what is counted. "encoder": before the decoder's first
    layer; "layer": after the method's own layer, so that earlier layers see all tokens; "average": entering a layer, on
    average. None: the source does not say.
    pixels: "dynamic" is the processor's own limits; "unstated" if the source does not give them.
    """

    method: str
    trained: Flag = False
    # The source's name for its token budget, which can differ from the average over the layers.
    label: Tokens | None = None
    setting: str | None = None
    true_average: Tokens | None = None
    basis: Literal["published", "calculated", "inferred"] | None = None
    share: Percent | None = None
    after: Literal["encoder", "layer", "average"] | None = None
    pixels: Pixels | Literal["dynamic", "unstated"] | None = None
    source: str
    scores: dict[str, Positive] = Field(default_factory=dict)
    mean_percent: Positive | None = None
    mean_tasks: Annotated[Whole, Field(ge=1)] | None = None
    tflops: Positive | None = None
    latency_ms: Positive | None = None
    hardware: str | None = None

    @property
    def tokens(self) -> float:
        """The tokens that sort and match an entry without a share: its label, or the true average without a label."""
        tokens = self.true_average if self.label is None else self.label
        assert tokens is not None
        return tokens

    @property
    def budget(self) -> float:
        """What sorts and tells apart entries of one model: the share, or the tokens."""
        return self.tokens if self.share is None else self.share

    @property
    def images(self) -> str:
        """The size of the images in words; "" for a model whose images all have the same."""
        if isinstance(self.pixels, Pixels):
            return self.pixels.text
        words = {"dynamic": "the processor's own limits of pixels", "unstated": "pixels not stated"}
        return words[self.pixels] if self.pixels else ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.label is None and self.true_average is None and self.share is None:
            raise ValueError("an entry needs a label, a true_average or a share")
        if self.share is None and self.after is not None:
            raise ValueError("after says what a share counts: give a share")
        fixed = self.pixels.tokens if isinstance(self.pixels, Pixels) else None
        if self.label and self.share and fixed and abs(self.share - 100 * self.label / fixed) > SHARE_ROUNDED:
            raise ValueError(f"a label of {self.label:g} is {100 * self.label / fixed:.1f} % of {fixed} tokens")
        if (self.true_average is None) != (self.basis is None):
            raise ValueError("true_average and basis must both be given, or neither")
        if (self.latency_ms is None) != (self.hardware is None):
            raise ValueError("latency_ms and hardware must both be given, or neither")
        if not self.scores and self.mean_percent is None:
            raise ValueError("an entry needs scores or a mean_percent")
        return self


class Reference(StrictModel):
    """The published numbers of one model. `other_methods`: names and titles of methods that hidrop does not have."""

    schema_: Literal[1] = Field(alias="schema")
    model: Text
    geometry: str
    other_methods: dict[str, Text] = Field(default_factory=dict)
    scores: dict[str, ScoreKind]
    sources: dict[str, CitedSource]
    entries: tuple[Published, ...]

    @property
    def sizes(self) -> Geometry:
        """The sizes of the model of the published numbers."""
        return PRESETS[self.geometry]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.geometry not in PRESETS:
            raise ValueError(f"geometry: unknown preset.{strict_yaml.suggestion(self.geometry, PRESETS)}")
        wrong = [
            f"other_methods.{name}: hidrop has this method; remove it" for name in self.other_methods if name in METHODS
        ]
        seen = set()
        for index, entry in enumerate(self.entries):
            place = f"entries[{index}]"
            wrong += [f"{place}: {problem}" for problem in self._problems(entry)]
            if entry.source not in self.sources:
                wrong.append(f"{place}.source: '{entry.source}' is not in `sources`")
            for task, value in entry.scores.items():
                if task not in self.scores:
                    wrong.append(f"{place}.scores.{task}: `scores` of the file has no entry for this task")
                elif value > self.scores[task].max:
                    wrong.append(f"{place}.scores.{task}: {value} is above the maximum of {self.scores[task].max:g}")
            key = (entry.method, entry.trained, entry.images, entry.budget, entry.source)
            if key in seen:
                wrong.append(f"{place}: a second entry for {key}")
            seen.add(key)
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _problems(self, entry: Published) -> list[str]:
        """What contradicts the model and its methods. Tokens have a largest number only if all images have as many."""
        wrong, known = [], [*METHODS, *self.other_methods]
        if entry.method not in known:
            wrong.append(f"unknown method '{entry.method}'.{strict_yaml.suggestion(entry.method, known)}")
        if self.sizes.dynamic:
            if entry.share is None or entry.pixels is None:
                wrong.append(f"images of {self.model} have their own numbers of tokens: give share and pixels")
            return wrong
        if entry.share is not None or entry.pixels is not None:
            wrong.append(f"all images of {self.model} have {self.sizes.visual_tokens} tokens: no share or pixels")
        for tokens in (entry.label, entry.true_average):
            if tokens is not None and tokens > self.sizes.visual_tokens:
                wrong.append(f"{tokens:g} tokens are more than the model's {self.sizes.visual_tokens}")
        return wrong


def available() -> list[str]:
    """The names of all reference files."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_reference(name: str | Path) -> Reference:
    """The reference file with that name or path. Raises UserError with every mistake and its place."""
    path = local_path(str(name), f"reference '{name}'")
    if not path.exists():
        path = FOLDER / f"{Path(name).name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        raise UserError(f"reference '{name}': no such file.{strict_yaml.suggestion(str(name), available())}")
    return _read(path, path.stat().st_mtime_ns, path.stat().st_size)


@functools.lru_cache(maxsize=32)
def _read(path: Path, changed: int, size: int) -> Reference:
    """Read a file once while it stays the same: a report asks for each of them fifty times."""
    return strict_yaml.checked(Reference, strict_yaml.read(path, path.name), path.name)
