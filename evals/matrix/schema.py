"""The schema and the cells of a matrix file: which models, methods and tasks to run, with which settings.

    models:  {name: {source: folder, Hub id or mini:...}}
    methods: {name: {name: fastv, layer: 2, budget: [64, "11%"]}}     # a list of budgets is one row each
    tasks:   {gqa: {data: mini}, pope: {data: data, version: llava}, chartqa: {data: hub, protocol: lmms-eval},
              mine: {yaml: ./mine.yaml, data: data}}
    runs:    [{models: [...], methods: [...], tasks: [...]}]          # left out: everything with everything

A budget is the number of visual tokens per layer, averaged over all layers, or its percentage of the image's tokens.
With `budget_reading: kept` it is the number that is kept after the last cut. `name: checkpoint` is the method that the
checkpoint was trained with. Layers are 1-based.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from evals.matrix.method_fields import CHECKPOINT, method_problems
from evals.matrix.profile_settings import ProfileSettings
from evals.tasks.base import ProtocolName
from evals.tasks.data import HUB, TaskSpec, rows_of, version_problem
from evals.tasks.registry import add, known, members
from hidrop import strict_yaml
from hidrop.backbones.pixel_limits import PixelLimits, Resolution
from hidrop.budget import Budget, Reading, parse_budget
from hidrop.errors import UserError, shown
from hidrop.geometry import PRESETS, Counts, Geometry
from hidrop.numerics import DEVICE, Attention, DeviceMap, Dtype, Quantization
from hidrop.regular_files import local_path
from hidrop.strict_yaml import FileName, Flag, StrictModel, Whole
from hidrop.videos import MOST_SHOWN

BUNDLED = Path(__file__).parent / "bundled"

Name = FileName
Device = Annotated[str, StringConstraints(pattern=rf"^(auto|{DEVICE})$")]

# The batch size that a run finds by itself, from the memory that is free once a model is loaded.
AUTO: Literal["auto"] = "auto"


def batch_size(value: Any) -> Any:
    """Raises ValueError for anything but `auto` and a whole number of at least 1."""
    if value != AUTO and (type(value) is not int or value < 1):
        raise ValueError(f"a whole number of at least 1 or auto, not {shown(value)}")
    return value


# Whether cells run by CUDA graphs; `auto`: where that is possible.
Captured = Flag | Literal["auto"]
BatchSize = Annotated[Whole | Literal["auto"], BeforeValidator(batch_size)]


def budgets(value: Any) -> tuple[Budget, ...] | None:
    """One budget, or a list of them. Raises ValueError for an invalid budget, an empty list and a repeated budget."""
    if value is None:
        return None
    found = tuple(parse_budget(one) for one in (value if isinstance(value, (list, tuple)) else [value]))
    if not found or len(set(found)) < len(found):
        raise ValueError("a list of budgets needs at least one budget, and each only once")
    return found


class MethodEntry(BaseModel):
    """A method by name. All other keys are fields of the method's class; `method_fields` checks them."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str
    budget: Annotated[tuple[Budget, ...] | None, BeforeValidator(budgets)] = None

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ModelEntry(StrictModel):
    """A checkpoint. `geometry` (a preset) and `trained_with` describe it for a plan without its files."""

    source: Annotated[str, StringConstraints(min_length=1)]
    geometry: str | None = None
    trained_with: MethodEntry | None = None
    get: str | None = None  # command that provides the source, shown if the source is missing
    reference: str | None = None  # the model whose vanilla row is this model's 100 %; by default the model itself
    dtype: Dtype | None = None
    attention: Attention | None = None
    quantization: Quantization | None = None  # of the decoder's layers, by bitsandbytes
    graphs: Captured | None = None
    compile: Flag | None = None  # norms and MLPs of the decoder's layers, by torch.compile
    device_map: DeviceMap | None = None  # how its layers are spread over the CUDA devices, by accelerate
    # Where each image has its own number of tokens: the image that numbers of tokens (budget: 64, keep: 64) are of, and
    # what they are for another one, the same share or the same number.
    reference_tokens: Annotated[Whole, Field(ge=1)] | None = None
    counts: Counts = "scaled"
    min_pixels: Whole | None = None  # of an image, in a family whose images keep their shape
    max_pixels: Whole | None = None
    resolution: Resolution | None = None  # fixed: about reference_tokens in every image
    # Of a video: how many frames are shown at most, and how many a second. By default as the protocol says.
    frames: Annotated[Whole, Field(ge=1, le=MOST_SHOWN)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None

    def counted(self, geometry: Geometry) -> Geometry:
        """The model's sizes with the image that numbers of tokens are of. Raises ValueError, naming the field."""
        if self.counts == "fixed" and not geometry.dynamic:
            raise ValueError("counts: every image of this model has the same number of tokens; leave it out")
        return geometry.counted(self.reference_tokens, self.counts)

    @property
    def pixel_limits(self) -> PixelLimits:
        """Raises UserError for limits that contradict each other."""
        return PixelLimits.stated(self.min_pixels, self.max_pixels, self.resolution, self.reference_tokens)

    @property
    def pixels(self) -> dict[str, Any]:
        """The limits of pixels that are stated, for a cell's identity and for captions."""
        names = ("min_pixels", "max_pixels", "resolution", "reference_tokens" if self.resolution else "resolution")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class TaskEntry(StrictModel):
    data: Annotated[str, StringConstraints(min_length=1)] = HUB  # mini, hub, or a folder; required without `yaml`
    yaml: str | None = None  # the file of a task of one's own, in lmms-eval's format
    metric: str | None = None  # the one that gives the value, of a task of lmms-eval that has several
    # A version of the data other than the usual one; YAML reads 20230712 as a number.
    version: Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v)] | None = None
    protocol: ProtocolName | None = None  # by default the matrix's


Names = Annotated[tuple[str, ...], Field(min_length=1)]


class RunEntry(StrictModel):
    """Models, methods and tasks to combine. A missing list means all."""

    models: Names | None = None
    methods: Names | None = None
    tasks: Names | None = None


class Matrix(StrictModel):
    name: Name
    protocol: ProtocolName
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    methods: Annotated[dict[Name, MethodEntry], Field(min_length=1)]
    tasks: Annotated[dict[str, TaskEntry], Field(min_length=1)]
    runs: Annotated[tuple[RunEntry, ...], Field(min_length=1)] = (RunEntry(),)
    device: Device = "auto"
    dtype: Dtype = "auto"
    attention: Attention = "sdpa"
    batch_size: BatchSize = AUTO
    graphs: Captured = False
    compile: Flag = False
    limit: Annotated[Whole, Field(ge=1)] | None = None
    budget_reading: Reading = "average"
    profile: ProfileSettings | None = ProfileSettings()  # null: measure no time
    _file: str = PrivateAttr(default="matrix")
    _text: str = PrivateAttr(default="")
    _groups: dict[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The tasks of each group or tag of lmms-eval that the file names."""
        return self._groups

    @property
    def file(self) -> str:
        """The name of the matrix file, for messages."""
        return self._file

    @property
    def text(self) -> str:
        """The matrix file's content."""
        return self._text

    def task_spec(self, task: str) -> TaskSpec:
        """A task of this matrix with its data and protocol, for `evals.tasks`. Raises UserError like TaskSpec."""
        entry = self.tasks[task]
        return TaskSpec(task, entry.data, entry.protocol or self.protocol, entry.version, entry.metric)

    @property
    def text_tokens(self) -> int:
        """Text tokens of a prompt, for FLOPs and KV bytes."""
        return (self.profile or ProfileSettings()).text_tokens

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        wrong = []
        for name, spec in self.models.items():
            if spec.reference is not None and spec.reference not in self.models:
                hint = strict_yaml.suggestion(spec.reference, self.models)
                wrong.append(f"models.{name}.reference: no model '{spec.reference}' here.{hint}")
            if spec.geometry is not None and spec.geometry not in PRESETS:
                hint = strict_yaml.suggestion(spec.geometry, PRESETS)
                wrong.append(f"models.{name}.geometry: unknown preset '{spec.geometry}'.{hint}")
        for index, run in enumerate(self.runs):
            for kind in ("models", "methods", "tasks"):
                for name in getattr(run, kind) or ():
                    if name not in getattr(self, kind):
                        hint = strict_yaml.suggestion(name, getattr(self, kind))
                        wrong.append(f"runs[{index}].{kind}: no '{name}' here.{hint}")
        wrong += self._circles() + (self._versions() or self._askable()) + self._pixels()
        owner: dict[str, str] = {}
        for entry, method in self.methods.items():
            for variant in variants(entry, method):
                if owner.setdefault(variant.label, entry) != entry:
                    wrong.append(f"methods.{entry}: its row '{variant.label}' is also one of '{owner[variant.label]}'")
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _circles(self) -> list[str]:
        """One line for each circle of models that refer to each other. A model may name itself: that is the default."""
        lines, seen = [], set[str]()
        for name in self.models:
            way, at = list[str](), name
            while at in self.models and at not in seen:
                seen.add(at)
                way.append(at)
                at = self.models[at].reference or ""
            circle = way[way.index(at) :] if at in way else []
            if len(circle) > 1:
                told = " -> ".join([*circle, at])
                lines.append(f"models.{at}.reference: the models refer to each other in a circle ({told})")
        return lines

    def _versions(self) -> list[str]:
        """One line for each task with a version of its data that does not exist."""
        named = {name: task for name, task in self.tasks.items() if task.version is not None and known(name)}
        problems = {name: version_problem(name, task.data, task.version) for name, task in named.items()}
        return [f"tasks.{name}.version: {problem}" for name, problem in problems.items() if problem]

    def _askable(self) -> list[str]:
        """One line for each task that cannot be asked here, or not under its protocol, or not for its metric."""
        lines = []
        for name in self.tasks:
            try:
                if known(name):
                    self.task_spec(name)
            except UserError as error:
                lines.append(f"tasks.{error}")
        return lines

    def _pixels(self) -> list[str]:
        """One line for each model whose limits of pixels contradict each other."""
        lines = []
        for name, spec in self.models.items():
            try:
                _ = spec.pixel_limits
            except UserError as error:
                lines.append(f"models.{name}.{error}")
        return lines

    def cells(self, *, only: str | None = None) -> list[Cell]:
        """One cell per model x method x budget x task, in the order of the file, each once.

        `only` selects the cell whose "model/label/task" it is; if it is none's, the cells whose key matches it as a
        shell pattern or contains it.
        """
        found: dict[str, Cell] = {}
        for run in self.runs:
            for model in run.models or self.models:
                for method in run.methods or self.methods:
                    for variant in variants(method, self.methods[method]):
                        for task in run.tasks or self.tasks:
                            cell = self._cell(model, method, variant, task)
                            found.setdefault(cell.key, cell)
        if only in found:
            return [found[only]]
        chosen = [cell for cell in found.values() if only is None or matches(cell.key, only)]
        if only is not None and not chosen:
            raise UserError(f"--only {only}: matches no cell of {self.file}. Its first cell is {next(iter(found))}")
        return chosen

    def _cell(self, model: str, method: str, variant: Variant, task: str) -> Cell:
        spec = self.models[model]
        return Cell(
            model=model,
            spec=spec,
            entry=method,
            label=variant.label,
            group=variant.group,
            method=self.methods[method].name,
            params=variant.params,
            budget=variant.budget,
            reading=self.budget_reading,
            trained=self.methods[method].name == CHECKPOINT,
            task=task,
            data=self.tasks[task].data,
            version=self.tasks[task].version,
            metric=self.tasks[task].metric,
            protocol=self.tasks[task].protocol or self.protocol,
            dtype=spec.dtype or self.dtype,
            attention=spec.attention or self.attention,
            quantization=spec.quantization,
            batch_size=self.batch_size,
            graphs=self.graphs if spec.graphs is None else spec.graphs,
            compiled=self.compile if spec.compile is None else spec.compile,
            limit=self.limit,
        )


@dataclass(frozen=True)
class Variant:
    """One row of a method's entry: the method with one of its budgets and one of its seeds."""

    label: str
    params: dict[str, Any]
    budget: Budget | None
    group: str  # the label without its seed


@dataclass(frozen=True)
class Cell:
    """One number of the table, as the matrix file describes it. Nothing of the model is read."""

    model: str
    spec: ModelEntry
    entry: str  # the method's key in the file, for messages
    label: str  # the entry, with budget and seed if there are several
    group: str  # the label without its seed
    method: str
    params: dict[str, Any]
    budget: Budget | None
    reading: Reading
    trained: bool
    task: str
    data: str
    version: str | None
    metric: str | None
    protocol: str
    dtype: str
    attention: str
    quantization: str | None
    batch_size: int | Literal["auto"]
    graphs: bool | Literal["auto"]
    compiled: bool
    limit: int | None

    @property
    def key(self) -> str:
        """The name of the cell for `--only` and the progress lines: model/label/task."""
        return f"{self.model}/{self.label}/{self.task}"

    @property
    def task_spec(self) -> TaskSpec:
        """The task with its data and protocol, for `evals.tasks`."""
        return TaskSpec(self.task, self.data, self.protocol, self.version, self.metric)

    @property
    def samples(self) -> int:
        """Number of samples of the cell, at most: some tasks round a limit down to whole groups of questions."""
        rows = rows_of(self.task_spec)
        return rows if self.limit is None else min(rows, self.limit)


def variants(entry: str, spec: MethodEntry) -> list[Variant]:
    """The rows of one entry: one per budget and, for a method with seeds, per seed."""
    several = len(spec.budget or ()) > 1
    labels = [(f"{entry}-{short(b)}" if several else entry, b) for b in spec.budget] if spec.budget else [(entry, None)]
    seeds = spec.params.get("seed")
    if not isinstance(seeds, (list, tuple)):
        return [Variant(label, spec.params, budget, label) for label, budget in labels]
    return [
        Variant(f"{label}-s{seed}", {**spec.params, "seed": seed}, budget, label)
        for label, budget in labels
        for seed in seeds
    ]


def short(budget: Budget) -> str:
    return budget if isinstance(budget, str) else f"{budget:g}"


def matches(key: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(key, pattern) or fnmatch.fnmatchcase(key, f"*{pattern}*")


def load_matrix(name: str | Path, *, limit: int | None = None) -> Matrix:
    """Read and check a matrix: a file, or a bundled matrix by name. `limit` replaces the limit of the file.

    Raises UserError with one line for each problem, with its place in the file.
    """
    path = find(str(name))
    text = strict_yaml.text_of(path, path.name)
    data = strict_yaml.mapping(text, path.name)
    data.setdefault("name", path.stem)
    if limit is not None:
        data["limit"] = limit
    methods = data.get("methods")
    if isinstance(methods, dict):
        data["methods"] = {key: named(key, spec) for key, spec in methods.items()}
    wrong, groups = expand_tasks(data)
    wrong += method_problems(data)
    try:
        matrix = Matrix.model_validate(data)
    except ValidationError as error:
        wrong = [line for block in strict_yaml.problems(error, Matrix) for line in block.splitlines()] + wrong
    if wrong:
        raise UserError("\n".join(f"{path.name}: {line}" for line in wrong))
    matrix._file, matrix._text, matrix._groups = path.name, text, groups
    return matrix


def find(name: str) -> Path:
    """The file for a path, or for the name of a bundled matrix with or without `.yaml`.

    A file comes before a bundled matrix, and a bundled matrix before a folder: a checkout has a folder `baselines`.
    """
    path = local_path(name, f"matrix '{name}'")
    bundled = sorted(p.stem for p in BUNDLED.glob("*.yaml"))
    is_bundled = path.parent == Path(".") and path.name.removesuffix(".yaml") in bundled
    if path.exists() and not (is_bundled and path.is_dir()):
        return path
    if is_bundled:
        return BUNDLED / f"{path.name.removesuffix('.yaml')}.yaml"
    raise UserError(f"{name}: no such file, and not a bundled matrix.{strict_yaml.suggestion(path.stem, bundled)}")


def named(key: Any, spec: Any) -> Any:
    """A method's entry with its name: by default the entry's key, as in `vanilla: {}`, and `stack` for a stack."""
    spec = {} if spec is None else spec
    return {"name": "stack" if "stack" in spec else key, **spec} if isinstance(spec, dict) else spec


def expand_tasks(data: dict[str, Any]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Put the tasks of groups and tags into a file's data, and add tasks of the user's own YAML files.

    Returns one line for each name that is not known and each file that cannot be read, and the tasks of each group.
    Not part of the schema, so that these problems are reported together with its own.
    """
    tasks, wrong, groups = data.get("tasks"), list[str](), dict[str, tuple[str, ...]]()
    if not isinstance(tasks, dict):
        return [], {}
    found: dict[Any, Any] = {}
    for name, entry in tasks.items():
        try:
            own = entry.get("yaml") if isinstance(entry, dict) else None
            if isinstance(own, str):
                add(str(name), local_path(own, f"tasks.{name}.yaml"))
            elif isinstance(entry, dict) and "data" not in entry:
                wrong.append(f"tasks.{name}.data: missing. Give mini, hub, or a folder")
            each = members(str(name))
        except UserError as error:
            wrong.append(f"tasks.{name}: {error}")
            found[name] = entry  # so that nothing else is missed because of it
            continue
        if each != [str(name)]:
            groups[str(name)] = tuple(each)
        for one in each:
            if one == name or one not in tasks:
                found[one] = entry
    data["tasks"] = found
    for run in data["runs"] if isinstance(data.get("runs"), list) else ():
        if isinstance(run, dict) and isinstance(run.get("tasks"), list):
            run["tasks"] = [one for name in run["tasks"] for one in groups.get(str(name), (name,))]
    return wrong, groups
