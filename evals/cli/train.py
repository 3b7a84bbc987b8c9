"""Commands that make models: train and convert."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from evals.cli.command import Group
from evals.cli.exit_codes import DONE
from evals.cli.options import Options, argument, check_writable, flag, option

COMMANDS = Group("Make a model")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    recipe: Annotated[str, argument("RECIPE", "A recipe file, or the name of a bundled recipe.")]
    resume: Annotated[bool, flag("--resume", "Continue from the last state saved in runs/train/NAME.")] = False
    out: Annotated[Path | None, option("--out", "DIR", "Folder of the trained checkpoint (default: by recipe).")] = None


@COMMANDS.command("train", example="mini-hidrop --out trained/")
def train(options: TrainOptions) -> int:
    """Train a model by a recipe.

    `validate RECIPE` lists what is missing first. States to continue from are saved in runs/train/NAME, NAME being the
    recipe's.
    """
    options.loading(f"{options.recipe}: loading libraries")
    from hidrop import recipes

    if options.out:
        check_writable(options.out)
    options.show_log()
    folder = recipes.train(options.recipe, out=options.out, resume=options.resume)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
        options.document({"recipe": options.recipe, "checkpoint": str(folder)})
    return DONE


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    source: Annotated[str, argument("SRC", "The checkpoint's folder, or its Hub id.")]
    target: Annotated[Path, argument("DST", "A new folder.")]
    download: Annotated[bool, flag("--download", "Download missing files from the Hub.")] = False


@COMMANDS.command("convert", example="checkpoints/llava-v1.5-7b checkpoints/llava-1.5-7b-hf")
def convert(options: ConvertOptions) -> int:
    """Convert a checkpoint of LLaVA's original layout.

    The new folder is in transformers' layout, and names the method that the checkpoint was trained with.
    """
    options.loading(f"{options.source}: loading libraries")
    from hidrop import models

    folder = models.convert(options.source, options.target, allow_download=options.download)
    peeked = models.peek(folder)
    layers, tokens = peeked.geometry.layers, peeked.geometry.visual_tokens
    trained = f"trained with {peeked.reducer}" if peeked.reducer else "it names no reduction that it was trained with"
    options.say(f"written: {folder} ({layers} layers, {tokens} visual tokens per image; {trained})")
    method = peeked.reducer.name if peeked.reducer else None
    options.document({"checkpoint": str(folder), "layers": layers, "visual_tokens": tokens, "trained_with": method})
    return DONE
