"""The `bench` command: sizes or a checkpoint, some methods, and where the result goes."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.cli.arguments import budget_of, positive, print_json, stream_of
from evals.store import journal
from hidrop.errors import UserError, did_you_mean
from hidrop.numerics import COMPUTE_DTYPES


def add(commands: Any) -> None:
    bench = commands.add_parser("bench", help="time methods on this machine beside what could be reached")
    what = bench.add_mutually_exclusive_group()
    what.add_argument("--geometry", default="bench-400m", metavar="NAME", help="sizes of a known model, random weights")
    what.add_argument("--model", metavar="SOURCE", help="a checkpoint instead: mini:hidrop, a folder, a Hub id")
    bench.add_argument("--methods", default=None, metavar="A,B", help="default: vanilla, hidrop, pdrop, fastv, random")
    bench.add_argument("--budget", default="64", metavar="N", help="visual tokens a layer on average, or a share")
    bench.add_argument("--batch", default="1", metavar="1,4,16")
    bench.add_argument("--text", type=int, default=60, metavar="N", help="text tokens of the prompt")
    bench.add_argument("--new", type=int, default=8, metavar="N", help="tokens to decode")
    bench.add_argument("--repeats", type=int, default=10, metavar="N", help="rounds that count")
    bench.add_argument("--warmup", type=int, default=2, metavar="N", help="rounds that do not")
    bench.add_argument(
        "--dtype", choices=COMPUTE_DTYPES, default=None, help="default: float32 on a CPU, bfloat16 on CUDA"
    )
    bench.add_argument("--attention", default="sdpa", metavar="KERNEL")
    bench.add_argument("--compile", action="store_true", help="compile norms and MLPs of the decoder's layers")
    bench.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 ...")
    bench.add_argument("--out", type=Path, default=Path("results/bench"), metavar="DIR")
    bench.add_argument("--bars", action="store_true", help="print what the runtime promises; exit 1 if it is missed")
    bench.add_argument("--json", action="store_true", help="last line of stdout: the result as one JSON document")
    bench.set_defaults(action=run)

    train = commands.add_parser(
        "bench-train", help="time training steps with fewer tokens, and what they keep in memory"
    )
    train.add_argument("--geometry", default="bench-400m", metavar="NAME", help="sizes of a known model")
    train.add_argument("--text", default="60", metavar="A,B", help="text tokens of each sample of the batch")
    train.add_argument(
        "--conversations", type=Path, metavar="FILE", help="text lengths by LLaVA's file (by its quantiles)"
    )
    train.add_argument("--batch", type=positive, default=1, metavar="N", help="samples, where --text is one number")
    train.add_argument("--repeats", type=positive, default=4, metavar="N")
    train.add_argument("--warmup", type=positive, default=1, metavar="N")
    train.add_argument(
        "--dtype", choices=COMPUTE_DTYPES, default=None, help="default: float32 on a CPU, bfloat16 on CUDA"
    )
    train.add_argument("--device", default="auto", metavar="DEVICE")
    train.add_argument("--out", type=Path, default=Path("results/bench"), metavar="DIR")
    train.add_argument("--bars", action="store_true", help="print what the runtime promises; exit 1 if it is missed")
    train.add_argument("--json", action="store_true", help="last line of stdout: the result as one JSON document")
    train.set_defaults(action=run_train, model=None, attention="sdpa")


def run_train(arguments: argparse.Namespace) -> int:
    import torch

    from evals.bench import inference
    from evals.bench import text as bench_text
    from evals.bench import training as bench_train
    from evals.matrix.validate import pick_device
    from evals.profiling.allocator import keep_memory
    from hidrop.reducer import build

    device = pick_device(arguments.device)
    dtype = arguments.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    name, geometry = sized(arguments)
    text = lengths_of(arguments)
    hidrop = inference.methods(("hidrop",), 64, geometry)["hidrop"]
    reducers = {"vanilla": build("vanilla"), "pdrop": build("pdrop"), "hidrop": hidrop}
    kept = keep_memory() if device == "cpu" else False
    stream = stream_of(arguments)
    print(f"{name}: {len(text)} samples of {text} text tokens, {dtype}\n", file=stream, flush=True)
    steps = bench_train.measure(
        model := model_of(arguments, device, dtype), reducers, text, repeats=arguments.repeats, warmup=arguments.warmup
    )
    del model
    facts = {"model": f"train-{name}", "device": device, "dtype": dtype, "text": list(text), "memory_kept": kept}
    document = bench_train.document(steps, **facts)
    print(bench_train.table(steps, len(text)) + "\n", file=stream)
    print(f"written: {write(document, arguments.out)}\n", file=stream)
    bars = bench_train.bars(steps, cuda=torch.device(device).type == "cuda") if arguments.bars else []
    if bars:
        print(bench_text.bars_text(bars), file=stream)
    print_json(arguments, document)
    return int(not all(bar.holds for bar in bars))


def lengths_of(arguments: argparse.Namespace) -> tuple[int, ...]:
    """Text tokens of each sample. From a file: as many quantiles of its lengths as the batch has, 1.3 tokens a word."""
    if arguments.conversations:
        import numpy as np

        from hidrop.training.conversations import Conversations

        words = np.abs(Conversations(arguments.conversations).lengths)
        places = (np.arange(arguments.batch) + 0.5) / arguments.batch
        return tuple(max(8, int(1.3 * n)) for n in np.quantile(words, places))
    try:
        found = tuple(int(part) for part in arguments.text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 8:
        raise UserError(f"--text {arguments.text}: give numbers from 8 on, with commas between them, such as 60,200")
    return found * arguments.batch if len(found) == 1 else found


def run(arguments: argparse.Namespace) -> int:
    import torch

    from evals.bench import inference
    from evals.bench import text as bench_text
    from evals.matrix.validate import pick_device
    from evals.profiling.allocator import keep_memory
    from hidrop.models.loading import check_kernel

    settings = settings_of(arguments)
    device = pick_device(arguments.device)
    dtype = arguments.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    check_kernel(arguments.attention, device, dtype)
    name, geometry = sized(arguments)
    budget = budget_of(arguments.budget, geometry)
    names = (
        inference.DEFAULT_METHODS if arguments.methods is None else tuple(map(str.strip, arguments.methods.split(",")))
    )
    reducers = inference.methods(names, budget, geometry)
    stream = stream_of(arguments)
    element = getattr(torch, dtype).itemsize

    def say(text: str) -> None:
        print(text + "\n", file=stream, flush=True)

    say(f"{name}: " + bench_text.implied(geometry, reducers, settings.text_tokens, element))
    kept = keep_memory() if device == "cpu" else False
    loaded = model_of(arguments, device, dtype)
    if arguments.compile:
        from hidrop.runtime.compiled_layers import fuse

        fuse(loaded.backbone.decoder)
    found = inference.bench(loaded, reducers, settings, recorder_of(device, arguments.attention))
    facts = {"model": name, "device": device, "dtype": dtype, "attention": arguments.attention, "memory_kept": kept}
    facts["compiled"] = arguments.compile
    document = found.document(**facts, budget=budget)
    overhead = document["vanilla_over_transformers"]
    say(bench_text.ceilings(found.ceilings))
    say(bench_text.tables(found.rows, overhead))
    print(f"written: {write(document, arguments.out)}\n", file=stream)
    bars = []
    if arguments.bars:
        gpu = str(document["hardware"].get("gpu", ""))
        bars = bench_text.targets(found.rows, name, gpu, budget) or bench_text.bars(found.rows, overhead)
    if bars:
        say(bench_text.bars_text(bars))
    print_json(arguments, document)
    return int(not all(bar.holds for bar in bars))


def recorder_of(device: str, attention: str) -> Any:
    """CUDA graphs, where there are any."""
    if not device.startswith("cuda") or attention != "sdpa":
        return None
    from hidrop.runtime.cuda_graphs import CudaRecorder

    return CudaRecorder()


def settings_of(arguments: argparse.Namespace) -> Any:
    """Raises UserError for a number that is none, or out of range."""
    from pydantic import ValidationError

    from evals.profiling.settings import ProfileSettings

    options = {"text_tokens": "text", "new_tokens": "new"}
    try:
        batch = tuple(int(part) for part in arguments.batch.split(","))
    except ValueError:
        raise UserError(f"--batch {arguments.batch}: give numbers with commas between them, such as 1,4") from None
    try:
        return ProfileSettings(
            repeats=arguments.repeats,
            warmup=arguments.warmup,
            batch=batch,
            text_tokens=arguments.text,
            new_tokens=arguments.new,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        raise UserError(f"--{options.get(field, field)}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def sized(arguments: argparse.Namespace) -> tuple[str, Any]:
    """The model's name and sizes, before any weight is made or read. Raises UserError."""
    from hidrop.geometry import PRESETS

    if arguments.model:
        from hidrop.models import peek

        return arguments.model, peek(arguments.model).geometry
    # LLaVA-NeXT's images are no square of patches: it is timed from a checkpoint.
    known = [name for name, geometry in PRESETS.items() if not geometry.anyres]
    if arguments.geometry not in known:
        hint = did_you_mean(arguments.geometry, known)
        raise UserError(f"--geometry {arguments.geometry}: unknown.{hint} Known: {', '.join(known)}")
    return arguments.geometry, PRESETS[arguments.geometry]


def model_of(arguments: argparse.Namespace, device: str, dtype: str) -> Any:
    import torch

    if arguments.model:
        from hidrop.models import load

        return load(arguments.model, dtype=dtype, device=device, attention=arguments.attention)
    from evals.profiling.random_model import random_model

    torch.manual_seed(0)
    place, kind = torch.device(device), getattr(torch, dtype)
    return random_model(arguments.geometry, dtype=kind, device=place, attention=arguments.attention)


def write(document: Mapping[str, Any], out: Path) -> Path:
    """One file for a model, a type, compiled or not, and a machine: a later run on the same takes its place."""
    hardware = document["hardware"]
    machine = re.sub(r"[^a-z0-9]+", "-", str(hardware.get("gpu") or hardware["cpu"]).lower()).strip("-")
    cores = "" if hardware.get("gpu") else f"-{hardware['threads']}-threads"
    kind = f"{document['dtype']}-compiled" if document.get("compiled") else document["dtype"]
    path = out / f"{journal.slug(document['model'])}-{kind}-{machine}{cores}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    journal.write_atomically(path, json.dumps(document, indent=1) + "\n")
    return path
