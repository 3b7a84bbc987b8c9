"""Schema and loading of published numbers (`results/reference/*.yaml`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hidrop import strict_yaml
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.reducer import METHODS
from hidrop.regular_files import local_path
from hidrop.strict_yaml import Flag, StrictModel, Whole

FOLDER = Path(__file__).parents[2] / "results" / "reference"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
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


class Published(StrictModel):
    """One row of one published table. Numbers are as printed; None if the source does not give them."""

    method: str
    trained: Flag = False
    # The source's name for its token budget, which can differ from the average over the layers.
    label: Positive | None = None
    setting: str | None = None
    true_average: Positive | None = None
    basis: Literal["published", "calculated", "inferred"] | None = None
    source: str
    scores: dict[str, Positive] = Field(default_factory=dict)
    mean_percent: Positive | None = None
    mean_tasks: Annotated[Whole, Field(ge=1)] | None = None
    tflops: Positive | None = None
    latency_ms: Positive | None = None
    hardware: str | None = None

    @property
    def tokens(self) -> float:
        """The tokens that sort and match the entry: its label, or the true average without a label."""
        tokens = self.true_average if self.label is None else self.label
        assert tokens is not None
        return tokens

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.method not in METHODS:
            raise ValueError(f"unknown method '{self.method}'.{strict_yaml.suggestion(self.method, METHODS)}")
        if self.label is None and self.true_average is None:
            raise ValueError("an entry needs a label or a true_average")
        if (self.true_average is None) != (self.basis is None):
            raise ValueError("true_average and basis must both be given, or neither")
        if (self.latency_ms is None) != (self.hardware is None):
            raise ValueError("latency_ms and hardware must both be given, or neither")
        if not self.scores and self.mean_percent is None:
            raise ValueError("an entry needs scores or a mean_percent")
        return self


class Reference(StrictModel):
    """The published numbers of one model."""

    schema_: Literal[1] = Field(alias="schema")
    model: Text
    geometry: str
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
        wrong: list[str] = []
        seen = set()
        for index, entry in enumerate(self.entries):
            place = f"entries[{index}]"
            if entry.source not in self.sources:
                wrong.append(f"{place}.source: '{entry.source}' is not in `sources`")
            for task, value in entry.scores.items():
                if task not in self.scores:
                    wrong.append(f"{place}.scores.{task}: `scores` of the file has no entry for this task")
                elif value > self.scores[task].max:
                    wrong.append(f"{place}.scores.{task}: {value} is above the maximum of {self.scores[task].max:g}")
            for tokens in (entry.label, entry.true_average):
                if tokens is not None and tokens > self.sizes.visual_tokens:
                    wrong.append(f"{place}: {tokens:g} tokens are more than the model's {self.sizes.visual_tokens}")
            key = (entry.method, entry.trained, entry.tokens, entry.source)
            if key in seen:
                wrong.append(f"{place}: a second entry for {key}")
            seen.add(key)
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


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
    data = strict_yaml.read(path, path.name)
    return strict_yaml.checked(Reference, data, path.name)
