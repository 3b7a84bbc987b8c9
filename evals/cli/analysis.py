"""`run.py analyze`: probe a model, read its curves, suggest a schedule, and try it and its neighbours."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.cli.arguments import budget_of, positive, print_json, stream_of
from hidrop.errors import UserError

if TYPE_CHECKING:
    from evals.matrix.schema import Matrix
    from hidrop.analysis.suggest import Fixed
    from hidrop.geometry import Geometry

DONE, NO_SCHEDULE = 0, 1


def add(commands: Any) -> None:
    analyze = commands.add_parser("analyze", help="probe a model and suggest a HiDrop schedule for it")
    analyze.add_argument("--model", required=True, metavar="SOURCE", help="mini:vanilla, a folder, a Hub id")
    analyze.add_argument("--task", default="gqa", metavar="A,B", help="tasks whose samples are probed (default: gqa)")
    analyze.add_argument("--data", metavar="DATA", help="mini, hub or a folder (default: mini for an embedded model)")
    analyze.add_argument("--samples", type=positive, default=200, metavar="N", help="of each task (default: 200)")
    analyze.add_argument("--budget", default="11.11%", metavar="N", help="tokens a layer on average, or a share")
    analyze.add_argument("--tolerance", type=float, default=1.0, metavar="PERCENT", help="what an exit may cost")
    analyze.add_argument("--most-filters", type=positive, default=4, metavar="N")
    analyze.add_argument("--inject", type=positive, metavar="LAYER", help="decided, not read off")
    analyze.add_argument("--exit", type=positive, metavar="LAYER", help="decided, not read off")
    analyze.add_argument("--filters", type=_layers, metavar="A,B", help="decided, not read off")
    analyze.add_argument("--windows", type=_layers, metavar="A,B", help="n of ILVAS (default: 1/8, 1/4 of the depth)")
    analyze.add_argument("--top", type=float, default=100 / 9, metavar="PERCENT", help="tokens that ILVAS looks at")
    analyze.add_argument("--shares", type=_shares, default=(1.0, 0.9, 0.5), metavar="A,B", help="of tokens that leave")
    analyze.add_argument("--no-inject-sweep", action="store_true", help="the costliest probe is left out")
    analyze.add_argument("--search", type=positive, metavar="N", help="try the suggestion and N neighbours, untrained")
    analyze.add_argument("--held-out", type=positive, default=100, metavar="N", help="first samples, only for --search")
    analyze.add_argument("--protocol", default="lmms-eval", choices=("llava", "lmms-eval"))
    analyze.add_argument("--batch", type=positive, default=32, metavar="N")
    analyze.add_argument("--dtype", help="default: float32 on a CPU, else the checkpoint's own")
    analyze.add_argument("--attention", default="sdpa")
    analyze.add_argument("--device", default="auto", metavar="DEVICE")
    analyze.add_argument("--workers", type=int, default=1, metavar="N", help="threads that prepare images ahead")
    analyze.add_argument("--out", type=Path, metavar="DIR", help="default: results/analysis/<model>")
    analyze.add_argument("--explain", action="store_true", help="print how each part of the schedule was found")
    analyze.add_argument("--json", action="store_true", help="last line of stdout: the result as one JSON document")
    analyze.set_defaults(action=analyze_command)


def analyze_command(arguments: argparse.Namespace) -> int:
    """Exit code 1 when the evidence does not make a whole schedule."""
    from evals.analysis import document, figures, page
    from evals.analysis.probing import cost
    from evals.matrix.validate import check, pick_device
    from evals.report.files import json_text
    from evals.run.engine import load, weights_digest
    from evals.store.journal import write_atomically
    from hidrop.provenance import provenance

    name = model_name(arguments.model)
    out = arguments.out or Path("results") / "analysis" / name
    device = pick_device(arguments.device)
    arguments.dtype = arguments.dtype or ("float32" if device == "cpu" else "auto")
    matrix = matrix_of(arguments, name)
    rows, problems = check(matrix, matrix.cells(), device=device, out=out)
    if problems:
        raise UserError("\n".join(problems))
    geometry = next(iter(rows.values())).plan.geometry
    budget, fixed = budget_of(arguments.budget, geometry), fixed_of(arguments, geometry)
    probes = probes_of(arguments, geometry)
    stream = stream_of(arguments)

    print(cost(geometry, probes, matrix.text_tokens, arguments.samples * len(matrix.tasks)), file=stream, flush=True)
    from evals.analysis import run  # lmms-eval takes seconds to load
    from hidrop.analysis.suggest import suggest

    cells = matrix.cells()
    asked = run.Asked(
        tuple(cell.task_spec for cell in cells),
        arguments.samples,
        arguments.held_out,
        arguments.batch,
        arguments.dtype,
        device,
        arguments.attention,
    )
    loaded = load(cells[0], device)
    weights = weights_digest(arguments.model)
    found = run.probe(
        loaded, weights, asked, probes, out, workers=arguments.workers, progress=_telling(arguments.samples, stream)
    )
    suggestion = suggest(
        found.curves, geometry, budget, tolerance=arguments.tolerance / 100, most=arguments.most_filters, fixed=fixed
    )
    made = {
        "model": name,
        "source": arguments.model,
        "weights": weights,
        "tasks": [cell.task for cell in cells],
        "data": cells[0].data,
        "protocol": arguments.protocol,
        "samples": arguments.samples,
        "skipped": arguments.held_out,
        "seconds": round(found.seconds, 1),
        "probes": {"top": probes.top, "windows": list(probes.windows), "shares": list(probes.shares)},
        "command": shlex.join(["run.py", *sys.argv[1:]]),
        **provenance(device),
    }
    result = document.build(found, suggestion, made)
    result["yaml"] = suggestion.yaml() if suggestion.schedule else None
    if arguments.search and suggestion.schedule:
        result["search"] = searched(arguments, matrix, suggestion.schedule, geometry, budget, out)
    write_atomically(out / "analysis.json", json_text(result) + "\n")
    write_atomically(out / "curves.csv", document.csv_text(result))
    written = [out / "analysis.json", out / "curves.csv", *figures.write(result, out / "figures")]
    written.append(page.write(result, out))
    print(page.text(result), file=stream)
    if arguments.explain:
        print("\n" + "\n".join(document.explained(result)), file=stream)
    if result.get("search"):
        print("\n" + page.searched(result["search"]), file=stream)
    if suggestion.schedule:
        print(f"\nmethods:\n{result['yaml']}", file=stream)
    else:
        print(f"\nno schedule: {suggestion.problem}", file=stream)
    print(f"written: {', '.join(str(path) for path in written)}", file=stream)
    print_json(arguments, result)
    return DONE if suggestion.schedule else NO_SCHEDULE


def searched(
    arguments: argparse.Namespace, base: Matrix, schedule: Any, geometry: Geometry, budget: float, out: Path
) -> dict[str, Any]:
    """What the suggestion and its neighbours score without training, on the samples that were held out."""
    from evals.analysis import search
    from evals.run.matrix_run import RunOptions, run_matrix, write_matrix

    schedules = search.neighbours(schedule, geometry, budget, arguments.search)
    content = search.matrix(base.model_dump(mode="json", exclude_none=True), schedules, arguments.held_out)
    matrix = write_matrix({**content, "profile": None}, out / "search")
    made = run_matrix(RunOptions(matrix, out / "search", device=arguments.device, quiet=True))
    rows = search.table(made.document) if made else []
    return {"samples": arguments.held_out, "headers": list(search.HEADERS), "rows": [list(row) for row in rows]}


def matrix_of(arguments: argparse.Namespace, name: str) -> Matrix:
    """What is asked, as a matrix of the unreduced model. Raises UserError for words that a matrix does not know."""
    from pydantic import ValidationError

    from evals.matrix.schema import Matrix, task_problems
    from hidrop import strict_yaml

    data = arguments.data or ("mini" if arguments.model.startswith("mini:") else "data")
    content: dict[str, Any] = {
        "name": name,
        "protocol": arguments.protocol,
        "models": {name: {"source": arguments.model}},
        "methods": {"vanilla": {"name": "vanilla"}},
        "tasks": {task.strip(): {"data": data} for task in arguments.task.split(",")},
        "dtype": arguments.dtype,
        "attention": arguments.attention,
        "batch_size": arguments.batch,
        "device": arguments.device,
    }
    problems = task_problems(content)
    try:
        matrix = Matrix.model_validate(content)
    except ValidationError as error:
        problems += strict_yaml.problems(error, Matrix)
    if problems:
        raise UserError("\n".join(f"analyze: {line}" for line in problems))
    matrix._file = "analyze"
    return matrix


def probes_of(arguments: argparse.Namespace, geometry: Geometry) -> Any:
    """The probes' settings. Raises UserError for windows that the depth does not hold."""
    from evals.analysis.probing import Probes

    depth = geometry.layers
    windows = arguments.windows or tuple(dict.fromkeys(max(1, round(depth / part)) for part in (8, 4)))
    if max(windows) >= depth:
        raise UserError(f"--windows: {max(windows)} is not below the model's {depth} layers")
    if not 0 < arguments.top <= 100:
        raise UserError(f"--top: {arguments.top:g} is not a share between 0 and 100 %")
    return Probes(arguments.top / 100, windows, arguments.shares, not arguments.no_inject_sweep)


def fixed_of(arguments: argparse.Namespace, geometry: Geometry) -> Fixed:
    """What the user has decided. Raises UserError for layers that no schedule of the model can have."""
    from hidrop.analysis.suggest import Fixed

    inject, exit, filters = arguments.inject, arguments.exit, arguments.filters
    for name, layer in (("--inject", inject), ("--exit", exit), ("--filters", max(filters or (0,)))):
        if layer is not None and layer > geometry.layers:
            raise UserError(f"{name} {layer}: the model has {geometry.layers} layers")
    if inject is not None and exit is not None and exit <= inject:
        raise UserError(f"--exit {exit} is not behind --inject {inject}")
    if filters is not None and (min(filters) < (inject or 1) or max(filters) > (exit or geometry.layers) - 2):
        shown = ",".join(map(str, filters))
        first, last = f"--inject {inject or 1}", f"--exit {exit or geometry.layers}"
        raise UserError(f"--filters {shown}: each has to be at {first} or later, and two layers before {last}")
    return Fixed(inject, exit, filters)


def model_name(source: str) -> str:
    """A source as a folder's name: mini:vanilla -> mini-vanilla, a path or a Hub id -> its last part."""
    return source.replace(":", "-").rstrip("/").rsplit("/", 1)[-1]


def _telling(samples: int, stream: Any) -> Callable[[str, int], None]:
    """Lines of progress, one for each batch, with the time that is left of the task."""
    began: dict[str, tuple[float, int]] = {}
    done: dict[str, int] = {}

    def tell(task: str, count: int) -> None:
        done[task] = done.get(task, 0) + count
        if task not in began:
            began[task] = time.monotonic(), count
            if count:
                print(f"{task}: {count} samples of an earlier run", file=stream, flush=True)
            return
        started, earlier = began[task]
        rate = (time.monotonic() - started) / max(1, done[task] - earlier)
        left = max(0, samples - done[task]) * rate
        print(f"{task}: {done[task]} of {samples}, {left:.0f} s left", file=stream, flush=True)

    return tell


def _layers(text: str) -> tuple[int, ...]:
    layers = tuple(int(part) for part in text.split(","))
    if min(layers) < 1 or list(layers) != sorted(set(layers)):
        raise argparse.ArgumentTypeError("layers in ascending order, such as 4,8")
    return layers


def _shares(text: str) -> tuple[float, ...]:
    shares = tuple(float(part) for part in text.split(","))
    if not all(0 < share <= 1 for share in shares) or 1.0 not in shares:
        raise argparse.ArgumentTypeError("shares above 0 up to 1, with 1 among them, such as 1,0.9,0.5")
    return shares
