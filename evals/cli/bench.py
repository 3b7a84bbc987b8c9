"""Commands that time this machine: bench for inference, bench-train for training steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from evals.bench.models import GEOMETRY, default_dtype, model_of, recorder_of, sized
from evals.bench.sweep import BLOCK, DEFAULT_METHODS, Sweep, read_file
from evals.cli.command import Group
from evals.cli.exit_codes import DONE, SOME_FAILED
from evals.cli.options import (
    Budget,
    Device,
    Kernel,
    Options,
    argument,
    average_tokens,
    check_writable,
    flag,
    integers,
    option,
    written,
)
from hidrop.errors import UserError
from hidrop.numerics import COMPUTE_DTYPES, ComputeDtype

if TYPE_CHECKING:
    from evals.bench.document import BenchDocument

COMMANDS = Group("Measure speed")
PATIENCE = 60.0  # seconds to wait for another process that writes into the same folder
# No benchmark asks with less text.
LEAST_TRAINED = 8
# The benches of --grow: 144, 576, 1152 and 2304 visual tokens.
GROWN = {"methods": "fastv,pdrop,random,uniform,hidrop,divprune,sparsevlm", "budget": "20%", "batch": "1,4", "new": "1"}
GROWING = (("bench-40m-144", GROWN), ("bench-40m", {**GROWN, "images": "1,2,4"}))
OWN = frozenset(field.name for field in fields(Sweep))

Dtype = Annotated[
    ComputeDtype | None,
    option("--dtype", "TYPE", f"{', '.join(COMPUTE_DTYPES)} (default: float32 on a CPU, bfloat16 on CUDA)."),
]
Out = Annotated[Path, option("--out", "DIR", "Folder of the result file.")]
Bars = Annotated[bool, flag("--bars", "Check the speed that the runtime promises. Exit with 1 when it is missed.")]


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    file: Annotated[
        Path | None, argument("[FILE]", f"A YAML file with the settings of a sweep, in the block `{BLOCK}`.")
    ] = None
    geometry: Annotated[
        str | None, option("--geometry", "NAME", f"Sizes of a known model, with random weights (default: {GEOMETRY}).")
    ] = None
    model: Annotated[
        str | None, option("--model", "SOURCE", "A checkpoint instead: mini:hidrop, a folder, or a Hub id.")
    ] = None
    methods: Annotated[
        str | None, option("--methods", "A,B", f"Methods to time (default: {', '.join(DEFAULT_METHODS)}).")
    ] = None
    budget: Annotated[
        str | None,
        option(
            "--budget",
            "A,B",
            "Visual tokens per layer and image, as numbers or shares: 64,11% (default: 64).",
        ),
    ] = None
    batch: Annotated[str | None, option("--batch", "A,B", "Batch sizes (default: 1).")] = None
    text: Annotated[str | None, option("--text", "A,B", "Text tokens of the prompt (default: 60).")] = None
    images: Annotated[str | None, option("--images", "A,B", "Images of the prompt (default: 1).")] = None
    new: Annotated[str | None, option("--new", "A,B", "Output tokens of a whole request (default: 1,32,128,512).")] = (
        None
    )
    steps: Annotated[str | None, option("--steps", "N", "Tokens to decode in a run, for TPOT (default: 8).")] = None
    repeats: Annotated[str | None, option("--repeats", "N", "Rounds that count (default: 10).")] = None
    warmup: Annotated[str | None, option("--warmup", "N", "Rounds before them that do not (default: 2).")] = None
    dtype: Dtype = None
    attention: Kernel = "sdpa"
    compile: Annotated[bool, flag("--compile", "Compile norms and MLPs of the decoder's layers.")] = False
    device: Device = "auto"
    out: Out = Path("results/bench")
    bars: Bars = False
    grow: Annotated[
        bool, flag("--grow", "Sweep the number of visual tokens (144 to 2304) on a small model, batch 1 and 4.")
    ] = False
    suite: Annotated[
        Literal["gpu"] | None, option("--suite", None, "Run everything that is measured on a GPU, with time limits.")
    ] = None
    dry_run: Annotated[bool, flag("--dry-run", "With --suite: the same on the CPU, with small sizes.")] = False


@COMMANDS.command("bench", example="--methods fastv,hidrop --budget 11% --text 500 --new 64")
def bench(options: BenchOptions) -> int:
    """Time methods on this machine, and say whether they are worth it.

    Prints the theoretical cost, then this machine's peak bandwidth and matmul rate, then times, speed-ups of prefill,
    first token and whole request, and for which output lengths a method pays off. Methods and the transformers baseline
    are interleaved in every round, in an order of its own.

    Options with several values are swept: every combination is a point. A sweep that was interrupted goes on where it
    stopped when the same command runs again. `compare`, `report` and `ls` read its files.
    """
    if options.dry_run and not options.suite:
        raise UserError("--dry-run: belongs to --suite")
    if options.suite:
        alone(options, "--suite", ("suite", "dry_run", "out"))
        return suite(options)
    if options.grow:
        alone(options, "--grow", tuple({field.name for field in fields(options)} - {"file", "geometry", "model"}))
        return grow(options)
    sweep, geometry, source = asked_for(options)
    with named(options):
        check_methods(sweep.methods)
        if geometry is not None:
            sized(geometry, source)
    options.loading("bench: loading libraries")
    document = measured(options, sweep, geometry, source)
    bars = []
    if options.bars:
        from evals.bench.bars import all_bars

        bars = all_bars(document)
    return judged(options, bars, document)


def alone(options: BenchOptions, name: str, taken: tuple[str, ...]) -> None:
    """Raises UserError for an option that the option `name` would ignore: all but `taken`."""
    shared = {field.name for field in fields(Options)}
    for field in fields(options):
        if field.name not in shared | set(taken) and getattr(options, field.name) != field.default:
            given = "FILE" if field.name == "file" else f"--{field.name.replace('_', '-')}"
            raise UserError(f"{name}: has settings of its own. Leave out {given}")


def suite(options: BenchOptions) -> int:
    """Every part in a process of its own, and a table of how they ended."""
    from evals.bench import suite as suites

    check_writable(options.out)
    out = options.out.absolute()
    own = suites.folder(out)
    parts = suites.dry_run(out, own) if options.dry_run else suites.gpu(out, own)
    found = suites.run(parts, own, options.say)
    options.say(f"\n{suites.table(found)}\n\nlogs: {own}")
    options.document(
        {"logs": str(own), "parts": [dict(zip(suites.HEADINGS, one.cells(), strict=True)) for one in found]}
    )
    return SOME_FAILED if any(one.failed for one in found) else DONE


def grow(options: BenchOptions) -> int:
    """The benches of GROWING, with the settings that are given, and the bars of both."""
    from evals.bench.bars import bars_text, grown_bars

    bars, documents = [], []
    for geometry, settings in GROWING:
        given: dict[str, Any] = {name: value for name, value in settings.items() if getattr(options, name) is None}
        own = replace(options, geometry=geometry, **given)
        sweep, _, _ = asked_for(own)
        check_methods(sweep.methods)
        documents.append(measured(own, sweep, geometry, None))
        bars += grown_bars(documents[-1])
    options.say(bars_text(bars))
    options.document({"files": documents})
    return SOME_FAILED if options.bars and any(bar.missed for bar in bars) else DONE


@contextmanager
def named(options: BenchOptions) -> Iterator[None]:
    """Puts the file's name before a message about a value that may be from it."""
    try:
        yield
    except UserError as error:
        if options.file is None:
            raise
        raise UserError(f"{options.file.name}, or the command line: {error}") from None


def asked_for(options: BenchOptions) -> tuple[Sweep, str | None, str | None]:
    """The sweep, and what it times: a geometry or a model. An option overrides the file. Raises UserError."""
    given = {name: getattr(options, name) for name in (*sorted(OWN - {"seed"}), "geometry", "model")}
    written_in = dict.fromkeys(given, "--{}")
    if options.file is not None:
        either = {"geometry": "model", "model": "geometry"}  # one of them on the command line replaces the file's
        for name, value in read_file(options.file).items():
            if given.get(name) is None and given.get(either.get(name, name)) is None:
                given[name], written_in[name] = value, f"{options.file.name}: {BLOCK}.{{}}"
    geometry, source = given.pop("geometry"), given.pop("model")
    for name, value in (("geometry", geometry), ("model", source)):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{written_in[name].format(name)}: takes a name (got {value!r})")
    return Sweep.of(given, lambda field: written_in[field].format(field)), geometry, source


def measured(options: BenchOptions, sweep: Sweep, geometry: str | None, source: str | None) -> BenchDocument:
    """Run the sweep on the model, or continue an unfinished one, and write its file."""
    import torch

    from evals.bench import inference, run
    from evals.bench import text as bench_text
    from evals.matrix.capture import not_compiled
    from evals.profiling.allocator import keep_memory
    from evals.store.lock import locked
    from hidrop.devices import pick_device
    from hidrop.models.loading import check_kernel

    check_writable(options.out)
    device = pick_device(options.device)
    dtype = options.dtype or default_dtype(device)
    check_kernel(options.attention, device, dtype)
    if options.compile and (why := not_compiled(None, device)):
        raise UserError(f"--compile: {why}")
    with named(options):
        name, sizes = sized(geometry, source)
        budgets = {typed: average_tokens(typed, sizes) for typed in sweep.budget}
        asked = inference.asked_methods(sweep.methods, budgets, sizes)
    reducers = {label: one.reducer for label, one in asked.items()}
    element = getattr(torch, dtype).itemsize
    options.say(f"{name}: {bench_text.implied(sizes, reducers, sweep.text[0], element)}\n")
    kept = keep_memory() if device == "cpu" else False
    # Two programs that time the same machine would disturb each other.
    with locked(options.out):
        loaded = model_of(name, source, device, dtype, options.attention)
        if options.compile:
            from hidrop.runtime.compiled_layers import fuse

            fuse(loaded.backbone.decoder)
        facts = {"model": name, "device": device, "dtype": dtype, "attention": options.attention, "memory_kept": kept}
        facts["source"] = "checkpoint" if source else "random weights"
        start = run.header(loaded, sweep, asked, **facts, compiled=options.compile)
        recorder = recorder_of(device, options.attention)
        path, document = run.run(loaded, sweep, asked, start, options.out, options.say, recorder)
    options.say(f"{bench_text.explained(document)}\n\n{written(path)}\n")
    return document


@dataclass(frozen=True, kw_only=True)
class BenchTrainOptions(Options):
    geometry: Annotated[str, option("--geometry", "NAME", "Sizes of a known model.")] = GEOMETRY
    text: Annotated[str, option("--text", "A,B", "Text tokens of each sample of a batch.")] = "60"
    conversations: Annotated[
        Path | None, option("--conversations", "FILE", "Take text lengths from LLaVA's file (its quantiles).")
    ] = None
    budget: Budget = "64"
    batch: Annotated[str, option("--batch", "A,B", "Batch sizes, where --text is a single number.")] = "1"
    repeats: Annotated[int, option("--repeats", "N", "Rounds that count.", min=1)] = 4
    warmup: Annotated[int, option("--warmup", "N", "Rounds before them.", min=1)] = 1
    dtype: Dtype = None
    device: Device = "auto"
    out: Out = Path("results/bench")
    bars: Bars = False


@COMMANDS.command("bench-train", example="--geometry llava-1.5-7b --batch 1,16")
def bench_train(options: BenchTrainOptions) -> int:
    """Time training steps with fewer visual tokens.

    Also measures what the steps keep in memory, with and without gradient checkpointing.
    """
    name, geometry = sized(options.geometry, llava=True)
    options.loading("bench-train: loading libraries")
    import torch

    from evals.bench import files, inference, training
    from evals.profiling.allocator import keep_memory
    from evals.store.lock import locked
    from hidrop.devices import pick_device
    from hidrop.methods import build
    from hidrop.models.loading import check_kernel

    check_writable(options.out)
    device = pick_device(options.device)
    dtype = options.dtype or default_dtype(device)
    check_kernel("sdpa", device, dtype)
    batches = integers("--batch", options.batch, "1,4")
    texts = list(dict.fromkeys(lengths_of(options.text, batch, options.conversations) for batch in batches))
    hidrop = inference.methods(("hidrop",), average_tokens(options.budget, geometry), geometry)["hidrop"]
    reducers = {"vanilla": build("vanilla"), "pdrop": build("pdrop"), "hidrop": hidrop}
    kept = keep_memory() if device == "cpu" else False
    options.say(f"{name}, {dtype}\n")
    model, found = model_of(name, None, device, dtype), []
    for text in texts:
        found.append(training.measure(model, reducers, text, repeats=options.repeats, warmup=options.warmup))
        options.say(training.table(found[-1]) + "\n")
    facts = {"model": f"train-{name}", "device": device, "dtype": dtype, "memory_kept": kept}
    document = training.document(found, **facts)
    with locked(options.out, patience=PATIENCE):
        path = files.new_path(document, options.out, "b" + ".".join(map(str, batches)))
        files.write(path, document)
    options.say(written(path) + "\n")
    cuda = torch.device(device).type == "cuda"
    bars = [bar for steps in found for bar in training.bars(steps, cuda=cuda)] if options.bars else []
    return judged(options, bars, document)


def check_methods(names: Iterable[str]) -> None:
    """Raises UserError for an unknown method, before the libraries are loaded."""
    from hidrop.methods import is_known, method_class

    for name in names:
        if is_known(name) and name.isidentifier():
            continue
        try:
            method_class(name)
        except ValueError as error:
            raise UserError(f"--methods: {error}") from None


def judged(options: Options, bars: list[Any], document: Mapping[str, Any]) -> int:
    """Print which of the runtime's promises hold, then the document."""
    from evals.bench.bars import bars_text

    if bars:
        options.say(bars_text(bars))
    options.document(document)
    return SOME_FAILED if any(bar.missed for bar in bars) else DONE


def lengths_of(text: str, batch: int, conversations: Path | None = None) -> tuple[int, ...]:
    """Text tokens of each sample. From a file: as many quantiles of its lengths as the batch has, 1.3 tokens a word."""
    if conversations:
        import numpy as np

        from hidrop.training.conversations import Conversations

        words = np.abs(Conversations(conversations).lengths)
        places = (np.arange(batch) + 0.5) / batch
        return tuple(max(LEAST_TRAINED, int(1.3 * n)) for n in np.quantile(words, places))
    found = integers("--text", text, "60,200", least=LEAST_TRAINED)
    return found * batch if len(found) == 1 else found
