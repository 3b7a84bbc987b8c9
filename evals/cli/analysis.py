"""The command `analyze`: probe a model, read its curves, suggest a schedule, and try it and its neighbours."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from evals.cli.command import Group
from evals.cli.exit_codes import DONE, SOME_FAILED
from evals.cli.options import (
    Budget,
    Device,
    Kernel,
    Options,
    average_tokens,
    command_line,
    flag,
    integers,
    option,
    written,
)
from evals.tasks.base import LMMS_EVAL, ProtocolName
from hidrop.errors import UserError
from hidrop.numerics import DTYPES, Dtype

if TYPE_CHECKING:
    from evals.analysis.document import AnalysisDocument, SearchEntry
    from evals.analysis.probe_settings import ProbeSettings
    from evals.matrix.schema import Matrix
    from hidrop.analysis.suggest import DecidedLayers, Suggestion
    from hidrop.geometry import Geometry

COMMANDS = Group("Analyze")
SCHEDULE, PROBES = "Decide parts of the schedule yourself", "Probes"


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions(Options):
    model: Annotated[str, option("--model", "SOURCE", "mini:vanilla, a folder, or a Hub id.")]
    task: Annotated[str, option("--task", "A,B", "Tasks whose samples are probed.")] = "gqa"
    data: Annotated[
        str | None, option("--data", "DATA", "mini, hub or a folder (default: mini for an embedded model).")
    ] = None
    samples: Annotated[int, option("--samples", "N", "Samples of each task.", min=1)] = 200
    budget: Budget = "11.11%"
    explain: Annotated[bool, flag("--explain", "Print how each part of the schedule was found.")] = False
    search: Annotated[
        int | None, option("--search", "N", "Score the suggestion and N neighbours, without training.", min=1)
    ] = None
    held_out: Annotated[int, option("--held-out", "N", "First samples of each task, used only by --search.", min=1)] = (
        100
    )
    protocol: Annotated[ProtocolName, option("--protocol", None, "How questions are asked.")] = LMMS_EVAL
    batch: Annotated[int, option("--batch", "N", "Batch size.", min=1)] = 32
    dtype: Annotated[
        Dtype | None, option("--dtype", "TYPE", f"{', '.join(DTYPES)} (default: float32 on a CPU, else auto).")
    ] = None
    attention: Kernel = "sdpa"
    device: Device = "auto"
    workers: Annotated[int, option("--workers", "N", "Threads that load and prepare images.", min=0)] = 1
    out: Annotated[Path | None, option("--out", "DIR", "Default: runs/analysis/<model>.")] = None
    inject: Annotated[int | None, option("--inject", "LAYER", "Injection layer.", min=1, panel=SCHEDULE)] = None
    exit: Annotated[int | None, option("--exit", "LAYER", "Exit layer.", min=1, panel=SCHEDULE)] = None
    filters: Annotated[str | None, option("--filters", "A,B", "Layers of the filters.", panel=SCHEDULE)] = None
    most_filters: Annotated[int, option("--most-filters", "N", "At most N filters.", min=1, panel=SCHEDULE)] = 4
    tolerance: Annotated[
        float, option("--tolerance", "PERCENT", "Loss that an exit may cause, in percent.", panel=SCHEDULE)
    ] = 1.0
    windows: Annotated[
        str | None, option("--windows", "A,B", "n of ILVAS (default: 1/8 and 1/4 of the depth).", panel=PROBES)
    ] = None
    top: Annotated[
        float, option("--top", "PERCENT", "Share of tokens in ILVAS (default: 11.1).", panel=PROBES, show_default=False)
    ] = 100 / 9
    shares: Annotated[str, option("--shares", "A,B", "Shares of tokens that leave, 1 included.", panel=PROBES)] = (
        "1,0.9,0.5"
    )
    no_inject_sweep: Annotated[bool, flag("--no-inject-sweep", "Skip the most expensive probe.", panel=PROBES)] = False


@COMMANDS.command("analyze", example="--model mini:vanilla --samples 200 --budget 20% --explain")
def analyze(options: AnalyzeOptions) -> int:
    """Probe a model, and suggest a HiDrop schedule for it.

    Run it again to continue. Exits with 1 when the probes do not decide the whole schedule.
    """
    options.loading(f"{options.model}: loading libraries")
    from evals.analysis import document, figures, page
    from evals.analysis.probe_settings import cost
    from evals.matrix.validate import check
    from evals.report.files import json_text
    from evals.run.engine import load, weights_digest
    from evals.store.folders import check_inside
    from evals.store.lock import locked
    from hidrop.atomic_file import write_atomically
    from hidrop.devices import pick_device
    from hidrop.models import peek
    from hidrop.provenance import provenance

    name = model_name(options.model)
    out = options.out or Path("runs") / "analysis" / name
    device = pick_device(options.device)
    dtype = options.dtype or ("float32" if device == "cpu" else "auto")
    matrix = matrix_of(options, name, dtype)
    rows, problems = check(matrix, matrix.cells(), device=device, out=out)
    if problems:
        raise UserError("\n".join(map(as_option, problems)))
    check_inside(out, "figures", "search")
    geometry = next(iter(rows.values())).plan.geometry
    budget, share = budget_of(options.budget, geometry, peek(options.model).geometry)
    fixed = fixed_of(options, geometry)
    probes = probes_of(options, geometry)
    options.say(cost(geometry, probes, matrix.text_tokens, options.samples * len(matrix.tasks)))
    from evals.analysis import run  # lmms-eval takes seconds to load
    from hidrop.analysis.suggest import suggest

    cells = matrix.cells()
    asked = run.SampleSelection(
        tuple(cell.task_spec for cell in cells),
        options.samples,
        options.held_out,
        options.batch,
        dtype,
        device,
        options.attention,
    )
    loaded = load(cells[0], device)
    weights = weights_digest(options.model)
    found = run.probe(
        loaded,
        weights,
        asked,
        probes,
        out,
        workers=options.workers,
        progress=telling(options.samples, options.say),
    )
    suggestion = suggest(
        found.curves,
        geometry,
        budget,
        tolerance=options.tolerance / 100,
        most=options.most_filters,
        fixed=fixed,
        share=share,
    )
    made = {
        "model": name,
        "source": options.model,
        "weights": weights,
        "tasks": [cell.task for cell in cells],
        "data": cells[0].data,
        "protocol": options.protocol,
        "samples": options.samples,
        "skipped": options.held_out,
        "seconds": round(found.seconds, 1),
        "probes": {"top": probes.top, "windows": list(probes.windows), "shares": list(probes.shares)},
        "command": command_line(),
        **provenance(device),
    }
    result = document.build(found, suggestion, made)
    if options.search and suggestion.schedule:
        result["search"] = searched(options, matrix, suggestion, geometry, out)
    with locked(out):
        write_atomically(out / "analysis.json", json_text(result) + "\n")
        write_atomically(out / "curves.csv", document.csv_text(result))
        paths = [out / "analysis.json", out / "curves.csv", *figures.write(result, out / "figures")]
        paths.append(page.write(result, out))
    report(options, result, suggestion)
    options.say(written(*paths))
    options.document(result)
    return DONE if suggestion.schedule else SOME_FAILED


def report(options: AnalyzeOptions, result: AnalysisDocument, suggestion: Suggestion) -> None:
    """Print the curves, and the schedule or why there is none and what would decide it."""
    from evals.analysis import document, page

    options.say(page.text(result))
    if options.explain:
        options.say("\n" + "\n".join(document.explained(result)))
    if result.get("search"):
        options.say("\n" + page.searched(result["search"]))
    if result["yaml"]:
        options.say(f"\nmethods:\n{result['yaml']}")
    else:
        options.say(f"\nno schedule: {suggestion.problem}\n{suggestion.advice}")


def searched(
    options: AnalyzeOptions, base: Matrix, suggestion: Suggestion, geometry: Geometry, out: Path
) -> SearchEntry:
    """What the suggestion and its neighbours score without training, on the samples that were held out."""
    from evals.analysis import search
    from evals.run.matrix_run import RunOptions, run_matrix, write_matrix

    assert options.search is not None and suggestion.schedule is not None
    share, budget = suggestion.share, suggestion.budget
    schedules = search.neighbours(suggestion.schedule, geometry, budget, options.search, published=share is not None)
    content = search.matrix(base.model_dump(mode="json", exclude_none=True), schedules, options.held_out, share=share)
    matrix = write_matrix({**content, "profile": None}, out / "search")
    finished = run_matrix(RunOptions(matrix, out / "search", device=options.device, quiet=True))
    rows = search.table(finished.document) if finished else []
    return {"samples": options.held_out, "headers": list(search.HEADERS), "rows": [list(row) for row in rows]}


def budget_of(text: str, geometry: Geometry, own: Geometry) -> tuple[float, str | None]:
    """The value of --budget as a number of tokens of `geometry`'s image, and as a share where numbers have no meaning.

    `own`: the model's sizes, before anything was stated about its images. Raises UserError.
    """
    from hidrop.budget import parse_budget

    tokens = average_tokens(text, geometry)
    if own.referenced:
        return tokens, None
    share = parse_budget(text)
    if not isinstance(share, str):
        raise UserError(
            f'--budget: each image of this model has its own number of tokens; give a share, as "11.11%" (got {text})'
        )
    return tokens, share


def matrix_of(options: AnalyzeOptions, name: str, dtype: str) -> Matrix:
    """What is asked, as a matrix of the unreduced model. Raises UserError for words that a matrix does not know."""
    from pydantic import ValidationError

    from evals.matrix.schema import Matrix, expand_tasks
    from hidrop import strict_yaml

    default = "mini" if options.model.startswith("mini:") else "data"
    data = default if options.data is None else options.data
    content: dict[str, Any] = {
        "name": name,
        "protocol": options.protocol,
        "models": {name: {"source": options.model}},
        "methods": {"vanilla": {"name": "vanilla"}},
        "tasks": {task.strip(): {"data": data} for task in options.task.split(",")},
        "dtype": dtype,
        "attention": options.attention,
        "batch_size": options.batch,
        "device": options.device,
    }
    problems, _ = expand_tasks(content)
    try:
        matrix = Matrix.model_validate(content)
    except ValidationError as error:
        problems += strict_yaml.problems(error, Matrix)
    if problems:
        raise UserError("\n".join(as_option(f"analyze: {line}") for line in problems))
    matrix._file = "analyze"
    return matrix


def as_option(problem: str) -> str:
    """A problem of the matrix that `matrix_of` made, with the option that it comes from instead of its place there."""
    places = {
        r"tasks\.[^:]*?\.data": "--data",
        r"tasks\.([^:.]+)": r"--task \1",
        r"(models\.[^:]*?(\.source)?|name)": "--model",
        r"(dtype|attention|device|protocol)": r"--\1",
        r"batch_size": "--batch",
    }
    for place, name in places.items():
        changed, found = re.subn(rf"^analyze: {place}: ", f"{name}: ", problem)
        if found:
            return changed
    return problem


def probes_of(options: AnalyzeOptions, geometry: Geometry) -> ProbeSettings:
    """The probes' settings. Raises UserError for windows as wide as the model, and for shares that are none."""
    from evals.analysis.probe_settings import ProbeSettings

    depth = geometry.layers
    windows = tuple(dict.fromkeys(max(1, round(depth / part)) for part in (8, 4)))
    if options.windows is not None:
        windows = layers("--windows", options.windows)
    if max(windows) >= depth:
        raise UserError(f"--windows must be less than the model's {depth} layers (got {max(windows)})")
    if not 0 < options.top <= 100:
        raise UserError(f"--top must be above 0 and at most 100 percent (got {options.top:g})")
    return ProbeSettings(options.top / 100, windows, shares(options.shares), not options.no_inject_sweep)


def fixed_of(options: AnalyzeOptions, geometry: Geometry) -> DecidedLayers:
    """What the user has decided. Raises UserError for layers that no schedule of the model can have."""
    from hidrop.analysis.suggest import DecidedLayers

    inject, exit = options.inject, options.exit
    filters = None if options.filters is None else layers("--filters", options.filters)
    for name, layer in (("--inject", inject), ("--exit", exit), ("--filters", max(filters or (0,)))):
        if layer is not None and layer > geometry.layers:
            raise UserError(f"{name} must be a layer of the model, which has {geometry.layers} (got {layer})")
    if inject is not None and exit is not None and exit <= inject:
        raise UserError(f"--exit must be greater than --inject (got {exit} and {inject})")
    first, last = inject or 1, (exit or geometry.layers) - 2
    if filters is not None and (min(filters) < first or max(filters) > last):
        place = f"from {first} (the injection layer) to {last} (two layers before the exit)"
        raise UserError(f"--filters must be layers {place} (got {options.filters})")
    return DecidedLayers(inject, exit, filters)


def model_name(source: str) -> str:
    """A source as a folder's name: mini:vanilla -> mini-vanilla, a path or a Hub id -> its last part."""
    return source.replace(":", "-").rstrip("/").rsplit("/", 1)[-1]


def telling(samples: int, say: Callable[[str], None]) -> Callable[[str, int], None]:
    """Lines of progress, one for each batch, with the seconds that are left of the task."""
    began: dict[str, tuple[float, int]] = {}
    done: dict[str, int] = {}

    def tell(task: str, count: int) -> None:
        done[task] = done.get(task, 0) + count
        if task not in began:
            began[task] = time.monotonic(), count
            if count:
                say(f"{task}: {count} samples of an earlier run")
            return
        started, earlier = began[task]
        rate = (time.monotonic() - started) / max(1, done[task] - earlier)
        left = max(0, samples - done[task]) * rate
        say(f"{task}: {done[task]} of {samples}, {left:.0f} s left")

    return tell


def layers(option: str, text: str) -> tuple[int, ...]:
    """Layers in ascending order. Raises UserError."""
    found = integers(option, text, "4,8")
    if list(found) != sorted(set(found)):
        raise UserError(f"{option} takes layers in ascending order, such as 4,8 (got {text})")
    return found


def shares(text: str) -> tuple[float, ...]:
    """The value of --shares. Raises UserError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not all(0 < share <= 1 for share in found) or 1.0 not in found:
        raise UserError(
            f"--shares takes numbers above 0 and up to 1, with 1 among them, such as 1,0.9,0.5 (got {text})"
        )
    return found
