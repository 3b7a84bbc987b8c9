"""Commands that time this machine: bench for inference, bench-train for training steps."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

from evals.cli.command import Group
from evals.cli.exit_codes import DONE, SOME_FAILED
from evals.cli.options import (
    Budget,
    Device,
    Kernel,
    Options,
    average_tokens,
    check_writable,
    flag,
    integers,
    option,
    written,
)
from hidrop.errors import UserError, did_you_mean
from hidrop.numerics import COMPUTE_DTYPES, ComputeDtype

if TYPE_CHECKING:
    from evals.profiling.settings import ProfileSettings
    from hidrop.geometry import Geometry

COMMANDS = Group("Measure speed")
GEOMETRY = "bench-400m"
PATIENCE = 60.0  # seconds to wait for another process that writes into the same folder
# No benchmark asks with less text.
LEAST_TEXT = 8

Dtype = Annotated[
    ComputeDtype | None,
    option("--dtype", "TYPE", f"{', '.join(COMPUTE_DTYPES)} (default: float32 on a CPU, bfloat16 on CUDA)."),
]
Out = Annotated[Path, option("--out", "DIR", "Folder of the result file.")]
Bars = Annotated[bool, flag("--bars", "Check the speed that the runtime promises. Exit with 1 when it is missed.")]


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    geometry: Annotated[
        str | None, option("--geometry", "NAME", f"Sizes of a known model, with random weights (default: {GEOMETRY}).")
    ] = None
    model: Annotated[
        str | None, option("--model", "SOURCE", "A checkpoint instead: mini:hidrop, a folder, or a Hub id.")
    ] = None
    methods: Annotated[
        str | None, option("--methods", "A,B", "Methods to time (default: vanilla, hidrop, pdrop, fastv, random).")
    ] = None
    budget: Budget = "64"
    batch: Annotated[str, option("--batch", "A,B", "Batch sizes.")] = "1"
    text: Annotated[int, option("--text", "N", "Text tokens of the prompt.")] = 60
    new: Annotated[int, option("--new", "N", "Tokens to decode.")] = 8
    repeats: Annotated[int, option("--repeats", "N", "Rounds that count.")] = 10
    warmup: Annotated[int, option("--warmup", "N", "Rounds before them that do not count.")] = 2
    dtype: Dtype = None
    attention: Kernel = "sdpa"
    compile: Annotated[bool, flag("--compile", "Compile norms and MLPs of the decoder's layers.")] = False
    device: Device = "auto"
    out: Out = Path("results/bench")
    bars: Bars = False


@COMMANDS.command("bench", example="--geometry qwen2.5-vl-7b --budget 11% --batch 1,4")
def bench(options: BenchOptions) -> int:
    """Time methods on this machine, next to the theoretical limits.

    Prints the theoretical cost, then this machine's peak bandwidth and matmul rate, then timings. Methods,
    transformers' own forward and its decoder layers are interleaved in every round.
    """
    check_methods(options.methods)
    settings = settings_of(options)
    if options.geometry is not None:
        sized(options.geometry, options.model)
    options.loading("bench: loading libraries")
    import torch

    from evals.bench import inference
    from evals.bench import text as bench_text
    from evals.matrix.validate import pick_device
    from evals.profiling.allocator import keep_memory
    from hidrop.models.loading import check_kernel

    check_writable(options.out)
    device = pick_device(options.device)
    dtype = options.dtype or default_dtype(device)
    check_kernel(options.attention, device, dtype)
    name, geometry = sized(options.geometry, options.model)
    tokens = average_tokens(options.budget, geometry)
    names = tuple(map(str.strip, options.methods.split(","))) if options.methods else inference.DEFAULT_METHODS
    reducers = inference.methods(names, tokens, geometry)
    element = getattr(torch, dtype).itemsize
    options.say(f"{name}: {bench_text.implied(geometry, reducers, settings.text_tokens, element)}\n")
    kept = keep_memory() if device == "cpu" else False
    loaded = model_of(name, options.model, device, dtype, options.attention)
    if options.compile:
        from hidrop.runtime.compiled_layers import fuse

        fuse(loaded.backbone.decoder)
    found = inference.bench(loaded, reducers, settings, recorder_of(device, options.attention))
    facts = {"model": name, "device": device, "dtype": dtype, "attention": options.attention, "memory_kept": kept}
    facts["compiled"] = options.compile
    document = found.document(**facts, budget=tokens)
    overhead = document["vanilla_over_transformers"]
    options.say(bench_text.ceilings(found.ceilings) + "\n")
    options.say(bench_text.tables(found.rows, overhead) + "\n")
    options.say(written(write(document, options.out)) + "\n")
    bars = []
    if options.bars:
        gpu = str(document["hardware"].get("gpu", ""))
        bars = bench_text.targets(found.rows, name, gpu, tokens) or bench_text.bars(found.rows, overhead)
    return judged(options, bars, document)


@dataclass(frozen=True, kw_only=True)
class BenchTrainOptions(Options):
    geometry: Annotated[str, option("--geometry", "NAME", "Sizes of a known model.")] = GEOMETRY
    text: Annotated[str, option("--text", "A,B", "Text tokens of each sample of a batch.")] = "60"
    conversations: Annotated[
        Path | None, option("--conversations", "FILE", "Take text lengths from LLaVA's file (its quantiles).")
    ] = None
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

    from evals.bench import inference, training
    from evals.matrix.validate import pick_device
    from evals.profiling.allocator import keep_memory
    from hidrop.methods import build
    from hidrop.models.loading import check_kernel

    check_writable(options.out)
    device = pick_device(options.device)
    dtype = options.dtype or default_dtype(device)
    check_kernel("sdpa", device, dtype)
    batches = integers("--batch", options.batch, "1,4")
    texts = list(dict.fromkeys(lengths_of(options.text, batch, options.conversations) for batch in batches))
    hidrop = inference.methods(("hidrop",), 64, geometry)["hidrop"]
    reducers = {"vanilla": build("vanilla"), "pdrop": build("pdrop"), "hidrop": hidrop}
    kept = keep_memory() if device == "cpu" else False
    options.say(f"{name}, {dtype}\n")
    model, found = model_of(name, None, device, dtype), []
    for text in texts:
        found.append(training.measure(model, reducers, text, repeats=options.repeats, warmup=options.warmup))
        options.say(training.table(found[-1]) + "\n")
    facts = {"model": f"train-{name}", "device": device, "dtype": dtype, "memory_kept": kept}
    document = training.document(found, **facts)
    options.say(written(write(document, options.out)) + "\n")
    cuda = torch.device(device).type == "cuda"
    bars = [bar for steps in found for bar in training.bars(steps, cuda=cuda)] if options.bars else []
    return judged(options, bars, document)


def check_methods(names: str | None) -> None:
    """Raises UserError for an unknown method, before the libraries are loaded."""
    from hidrop.methods import is_known, method_class

    for name in map(str.strip, names.split(",")) if names is not None else ():
        if is_known(name) and name.isidentifier():
            continue
        try:
            method_class(name)
        except ValueError as error:
            raise UserError(f"--methods: {error}") from None


def judged(options: Options, bars: list[Any], document: Mapping[str, Any]) -> int:
    """Print which of the runtime's promises hold, then the document."""
    from evals.bench import text

    if bars:
        options.say(text.bars_text(bars))
    options.document(document)
    return DONE if all(bar.holds for bar in bars) else SOME_FAILED


def default_dtype(device: str) -> str:
    return "bfloat16" if device.startswith("cuda") else "float32"


def lengths_of(text: str, batch: int, conversations: Path | None = None) -> tuple[int, ...]:
    """Text tokens of each sample. From a file: as many quantiles of its lengths as the batch has, 1.3 tokens a word."""
    if conversations:
        import numpy as np

        from hidrop.training.conversations import Conversations

        words = np.abs(Conversations(conversations).lengths)
        places = (np.arange(batch) + 0.5) / batch
        return tuple(max(LEAST_TEXT, int(1.3 * n)) for n in np.quantile(words, places))
    found = integers("--text", text, "60,200", least=LEAST_TEXT)
    return found * batch if len(found) == 1 else found


def recorder_of(device: str, attention: str) -> Any:
    """What captures CUDA graphs; None where they cannot be captured."""
    if not device.startswith("cuda") or attention != "sdpa":
        return None
    from hidrop.runtime.cuda_graphs import CudaRecorder

    return CudaRecorder()


def settings_of(options: BenchOptions) -> ProfileSettings:
    """Raises UserError for a number out of range."""
    from pydantic import ValidationError

    from evals.profiling.settings import ProfileSettings

    try:
        return ProfileSettings(
            repeats=options.repeats,
            warmup=options.warmup,
            batch=integers("--batch", options.batch, "1,4"),
            text_tokens=options.text,
            new_tokens=options.new,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        option = {"text_tokens": "text", "new_tokens": "new"}.get(field, field)
        raise UserError(f"--{option}: {first['msg'][0].lower()}{first['msg'][1:]} (got {first['input']})") from None


def sized(geometry: str | None, model: str | None = None, *, llava: bool = False) -> tuple[str, Geometry]:
    """The name and sizes of what is timed, before any weight is made or read. `llava`: no other family can be timed.

    A number of tokens as the budget is of the image that is timed. Raises UserError.
    """
    from evals.profiling.architectures import ARCHITECTURES
    from hidrop.geometry import PRESETS

    if geometry and model:
        raise UserError(f"give --geometry or --model, not both (got {geometry} and {model})")
    if model:
        from hidrop.models import peek

        return model, referenced(peek(model).geometry)
    name = geometry or GEOMETRY
    # A preset of another family can be made if its tower is known.
    plain = [preset for preset, sizes in PRESETS.items() if not sizes.dynamic and preset not in ARCHITECTURES]
    known = plain if llava else [*plain, *ARCHITECTURES]
    if name not in known:
        raise UserError(f"--geometry {name}: unknown.{did_you_mean(name, known)} Known: {', '.join(known)}")
    return name, referenced(PRESETS[name])


def referenced(geometry: Geometry) -> Geometry:
    """The same with its number of visual tokens as what absolute counts are of."""
    return geometry.counted(geometry.visual_tokens) if geometry.dynamic else geometry


def model_of(name: str, source: str | None, device: str, dtype: str, attention: str = "sdpa") -> Any:
    """The checkpoint `source`, or a model with the sizes of preset `name` and random weights."""
    import torch

    if source:
        from hidrop.backbones import backbone_of, count_by
        from hidrop.models import load

        model = load(source, dtype=dtype, device=device, attention=attention).model
        count_by(model, backbone_of(model).geometry.visual_tokens)
        return SimpleNamespace(model=model, backbone=backbone_of(model), geometry=backbone_of(model).geometry)
    from evals.profiling.random_model import random_model

    torch.manual_seed(0)
    return random_model(name, dtype=getattr(torch, dtype), device=torch.device(device), attention=attention)


def write(document: Mapping[str, Any], out: Path) -> Path:
    """One file for a model, a type, compiled or not, and a machine: a later run on the same replaces it."""
    from evals.store.cell_files import slug
    from evals.store.lock import locked
    from hidrop.atomic_file import write_atomically

    hardware = document["hardware"]
    machine = re.sub(r"[^a-z0-9]+", "-", str(hardware.get("gpu") or hardware["cpu"]).lower()).strip("-")
    cores = "" if hardware.get("gpu") else f"-{hardware['threads']}-threads"
    kind = f"{document['dtype']}-compiled" if document.get("compiled") else document["dtype"]
    path = out / f"{slug(document['model'])}-{kind}-{machine}{cores}.json"
    with locked(out, patience=PATIENCE):
        write_atomically(path, json.dumps(document, indent=1) + "\n")
    return path
