"""Training of the embedded models: one loop for every recipe, the same runtime as evaluation."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from hidrop.atomic_file import unwritable
from hidrop.backbones import backbone_of
from hidrop.errors import UserError
from hidrop.methods import build_entry
from hidrop.mini.training import foundations, state
from hidrop.mini.training.collator import SceneCollator
from hidrop.mini.training.lessons import GROUP, batches
from hidrop.mini.training.model import make_image_processor, make_model, make_tokenizer
from hidrop.mini.training.optimizer import Pair, warm_then_decay
from hidrop.mini.training.recipe import Kind, Lesson, Recipe
from hidrop.mini.training.samples import caption_turns, instruction_turns
from hidrop.models.origins import own_folders
from hidrop.models.sources import MINI
from hidrop.provenance import describe, versions
from hidrop.reducer import Reducer
from hidrop.strict_yaml import checked

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

log = logging.getLogger("hidrop.training")

# The projector's learning rate relative to the decoder's: 0 for `letters`, which has no image. The tower is frozen, as
# in LLaVA.
PROJECTOR_RATE: dict[Kind, float] = {
    "captions": 0.1, "instructions": 0.3, "signs": 0.3, "rows": 0.3, "letters": 0.0, "drills": 0.3,
    "choices": 0.3,
}  # fmt: skip
# Where in a lesson the learning rate starts to fall. Lessons with 1 end at their peak rate. Letters are soon perfect,
# and an optimiser that normalises would then continue at full speed without a gradient to follow.
DECAY_FROM: dict[Kind, float] = {
    "captions": 1.0, "instructions": 0.5, "signs": 1.0, "rows": 1.0, "letters": 0.4, "drills": 0.3,
    "choices": 0.4,
}  # fmt: skip
# When a kind comes again, its seed rises by this, so that it shows new samples.
AGAIN = 1000
SAVE_EVERY = 100
CORPUS = 1000  # samples of each of LLaVA's two stages, for training the tokenizer


def train(plan: Recipe, *, out: Path | None = None, resume: bool = False, work: Path | None = None) -> Path:
    """Train what the recipe says and write the checkpoint to `out`; returns `out`.

    `out` defaults to the folder of `mini:<name>` if that has no checkpoint yet. Progress is saved in `work` (default
    runs/train/<recipe>), and `resume` continues from it. Raises UserError for a bad recipe, if the checkpoint of
    `mini:<name>` exists and `out` is not given, for an `out` or a `work` with the recipe's `start`, and if `work`
    holds an unfinished training and `resume` is not given.
    """
    out, work = _target(plan, out), work or Path("runs") / "train" / plan.name
    if problems := own_folders(plan.sources, _folders(out, work)):
        raise UserError(f"{plan.name}: {problems[0]}")
    if begun := _begun(plan, work, resume):
        raise UserError(begun)
    tokenizer = corpus_tokenizer()
    model = make_model(tokenizer, plan.seed)
    processor = make_image_processor()
    collator = SceneCollator(
        tokenizer,
        backbone_of(model).placeholder_id,
        model.config.image_seq_length,
        processor.image_mean,
        processor.image_std,
    )
    reducer = build_entry(plan.method)
    progress = _fit(model, reducer, collator, plan, work)
    _export(model, tokenizer, processor, plan, reducer, progress, out)
    log.info("wrote %s", out)
    return out


def findings(plan: Recipe, *, out: Path | None = None, work: Path | None = None) -> tuple[list[str], list[str]]:
    """What `train` with these arguments would stop at, and what the user should know of. Writes nothing."""
    work = work or Path("runs") / "train" / plan.name
    problems, notes = [], []
    try:
        out = _target(plan, out)
    except UserError as error:
        notes.append(str(error))
    folders = _folders(out, work)
    problems += own_folders(plan.sources, folders)
    problems += [f"{name} {folder}: {wrong}" for name, folder in folders.items() if (wrong := unwritable(folder))]
    try:
        if begun := _begun(plan, work, resume=True):
            problems.append(begun)
        elif begun := _begun(plan, work, resume=False):
            notes.append(begun)
    except UserError as error:
        problems.append(str(error))
    return problems, notes


def _folders(out: Path | None, work: Path) -> dict[str, Path]:
    return {**({"--out": out} if out else {}), "the training's folder": work}


def _target(plan: Recipe, out: Path | None) -> Path:
    """The folder of the checkpoint. Raises UserError if it has to be named."""
    if out is not None:
        return out
    name = plan.name.removeprefix("mini-")
    if not name or name.startswith("."):
        raise UserError(f"{plan.name}: no name for an embedded model. Give the checkpoint's folder with --out")
    out = MINI / name
    if (out / "config.json").exists():
        raise UserError(f"{out}: holds the checkpoint of mini:{out.name}. Give another folder with --out")
    return out


def _begun(plan: Recipe, work: Path, resume: bool) -> str | None:
    """Why the training in `work` keeps this one from starting. Raises UserError for a broken state."""
    found = state.peek(work)
    if found and not resume:
        done = found.stage == len(plan.lessons) - 1 and found.step == plan.lessons[-1].steps
        way_out = "write its checkpoint again" if done else "go on"
        kind = "a finished" if done else "an unfinished"
        return f"{work}: holds {kind} training; {way_out} with --resume, or remove the folder to start over"
    if found and (changed := _changed(found, plan)):
        return f"{work}: belongs to another recipe: {changed}. Remove the folder, or give this one a new name"
    return None


def _changed(found: state.TrainingProgress, plan: Recipe) -> str | None:
    """What has changed in a recipe since the training began. Lessons that have not begun yet may change."""
    if found.stage >= len(plan.lessons) or found.step > plan.lessons[found.stage].steps:
        return "it is further than this recipe goes"
    if not found.plan:  # states of early versions have no plan
        return None
    begun = checked(Recipe, found.plan, "the recipe in its progress.json")
    for name in ("seed", "method", "start", "tower", "class_token", "align"):
        if getattr(begun, name) != getattr(plan, name):
            return f"{name}: {getattr(begun, name)}"
    for number in range(found.stage + (found.step > 0)):
        if begun.lessons[number] != plan.lessons[number]:
            return f"lesson {number + 1}: {begun.lessons[number]}"
    return None


@functools.cache
def corpus_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded models' tokenizer. It depends on the grammar alone, so all recipes of a process share one."""

    def lines() -> Iterator[str]:
        for index in range(CORPUS):
            for _, turns in (caption_turns(index), instruction_turns(index)):
                for question, answer in turns:
                    yield from (f"USER: {question} ASSISTANT: {answer}", f"\n{question}", answer)

    return make_tokenizer(lines())


def _fit(
    model: LlavaForConditionalGeneration, reducer: Reducer, collator: SceneCollator, plan: Recipe, work: Path
) -> state.TrainingProgress:
    from hidrop.runtime import reduce

    progress = state.peek(work) or state.TrainingProgress(plan.name)
    progress.plan = plan.model_dump(mode="json")
    started = time.monotonic() - progress.seconds
    if progress.stage == 0 and progress.step == 0:
        foundations.lay(model, collator, plan, work.parent)
    model.train()
    backbone = backbone_of(model)
    backbone.tower.requires_grad_(False)
    tower, projector = (path.rsplit(".", 1)[-1] for path in (backbone.tower_at, backbone.projector_at))
    with reduce(model, reducer):
        for number, lesson in list(enumerate(plan.lessons))[progress.stage :]:
            rates = {tower: 0.0, projector: PROJECTOR_RATE[lesson.data]}
            optimizer = Pair(model.named_parameters(), lesson.lr, rates)
            seed = plan.seed + AGAIN * sum(earlier.data == lesson.data for earlier in plan.lessons[:number])
            if progress.stage == number and progress.step:
                state.load(work, model, optimizer)
            else:
                progress.stage, progress.step = number, 0
            for batch in batches(collator, lesson.data, lesson.batch, seed, progress.step, lesson.steps):
                loss = model(**batch, use_cache=False).loss
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step(warm_then_decay(progress.step, lesson.steps, decay_from=DECAY_FROM[lesson.data]))
                value = loss.item()
                progress.loss = value if progress.loss == 0 else 0.97 * progress.loss + 0.03 * value
                progress.step += 1
                progress.seconds = time.monotonic() - started
                if progress.step % foundations.LOG_EVERY == 0:
                    _say(lesson, progress)
                if progress.step % SAVE_EVERY == 0 or progress.step == lesson.steps:
                    state.save(work, model, optimizer, progress)
    return progress


def _say(lesson: Lesson, progress: state.TrainingProgress) -> None:
    shown = f"loss {progress.loss:.4f}  {progress.seconds:.0f} s"
    log.info("%s %d/%d  %s", lesson.data, progress.step, lesson.steps, shown)


def _export(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    processor: CLIPImageProcessorPil,
    plan: Recipe,
    reducer: Reducer,
    progress: state.TrainingProgress,
    out: Path,
) -> None:
    from hidrop.models import save

    save(model, tokenizer, processor, out, reducer=reducer, dtype="float16")
    record = {
        "recipe": plan.model_dump(),
        "loss": round(progress.loss, 4),
        "seconds": round(progress.seconds),
        "hardware": describe(),
        "versions": versions(),
        "date": date.today().isoformat(),
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


assert SAVE_EVERY % GROUP == 0
