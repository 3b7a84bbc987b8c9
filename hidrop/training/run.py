"""Run a recipe: transformers' Trainer on our data, with the method's reduction on the model."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hidrop.backbones import backbone_of
from hidrop.errors import UserError, reason
from hidrop.methods import build_entry
from hidrop.models.origins import own_folders
from hidrop.patience import VARIABLE, patience
from hidrop.pretrained import pretrained
from hidrop.program import torchrun
from hidrop.training.checkpoints import going_on, step, to_continue, write_record
from hidrop.training.conversations import Conversations
from hidrop.training.dataset import Collator, Order, samples_of
from hidrop.training.recipe import CONFIGS, LlavaRecipe, Parts
from hidrop.training.student import Student, student

log = logging.getLogger("hidrop.training")
# Minutes that a step may wait for another process, unless HIDROP_PATIENCE says otherwise.
PATIENCE = 30.0


class Reduced(Trainer):
    """Trainer with our order of samples, which can resume from its own checkpoints."""

    def __init__(self, order: Order, learner: Student, **settings: Any) -> None:
        super().__init__(model=learner.trained, **settings)
        self.remove_callback(PrinterCallback)  # our own log lines show it
        self._order, self._learner = order, learner
        self.waited = 0.0  # seconds that steps have waited for samples

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        found = super().get_batch_samples(*args, **kwargs)
        self.waited += time.monotonic() - started
        return found

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self._order

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with going_on(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with going_on(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Files have the published names of the tensors, and the model has other names. The Trainer would load none of
        # them and only warn. Sharded weights and adapters are loaded in other ways.
        llava = self._learner.model
        with going_on(resume_from_checkpoint):
            if self.is_deepspeed_enabled or self.is_fsdp_enabled or self._learner.trained is not llava:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            else:
                saved = pretrained(type(llava), resume_from_checkpoint, dtype=llava.dtype)
                llava.load_state_dict(saved.state_dict())


def always_seeing(llava: Any) -> Callable[..., Any]:
    """The model's forward, with an empty image in batches that have none. Its features do not affect the loss.

    Another process may have images in this step, and all processes must take part when gradients and sharded weights
    are gathered. If only the projector is trained, nothing else has a gradient.
    """
    forward, backbone = llava.forward, backbone_of(llava)

    @functools.wraps(forward)
    def run(*args: Any, **inputs: Any) -> Any:
        found = forward(*args, **inputs)
        if found.loss is not None and inputs.get("pixel_values") is None:
            empty = torch.zeros(1, *backbone.pixel_shape, device=found.loss.device, dtype=llava.dtype)
            vision = backbone.vision(backbone.inputs_for(empty))
            assert vision is not None
            found.loss = found.loss + 0.0 * torch.cat(vision.features()).sum()
        return found

    return run


class Say(TrainerCallback):
    """Prints the Trainer's numbers as lines of our log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            shown = "  ".join(
                f"{name} {logs[name]:.4g}" for name in ("loss", "grad_norm", "learning_rate") if name in logs
            )
            log.info("step %d/%d  %s", state.global_step, state.max_steps, shown)


@contextlib.contextmanager
def in_time(trainer: Trainer) -> Iterator[None]:
    """Turn the error of a step that waited in vain for another process into words."""
    try:
        yield
    except RuntimeError as error:
        if trainer.args.world_size < 2 or not re.search(
            "timed out|connection (closed|reset)", str(error), re.IGNORECASE
        ):
            raise
        raise UserError(
            f"process {trainer.args.process_index} of {trainer.args.world_size} waited in vain for another one "
            f"({reason(error)}). Start the same command with --resume. {VARIABLE}=<minutes> in the environment waits "
            f"longer than {trainer.args.ddp_timeout / 60:g} minutes"
        ) from error


def join_others() -> None:
    """Begin the process group of CPU processes, as accelerate does by itself but without passing on a timeout."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    if several and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=patience(PATIENCE))


def accumulation_of(recipe: LlavaRecipe) -> int:
    """Micro-batches of a step. Raises UserError if the number of processes does not fit the batch or the machine."""
    cuda, processes = torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1"))
    if cuda and "WORLD_SIZE" not in os.environ and torch.cuda.device_count() > 1:
        count = torch.cuda.device_count()
        raise UserError(
            f"{count} GPUs and one process: start `{torchrun(count)} train ...`, or choose one "
            "with CUDA_VISIBLE_DEVICES"
        )
    try:
        return recipe.accumulation(processes)
    except ValueError as error:
        raise UserError(f"{recipe.name}: {error}. Change per_device, or the number of processes") from None


def arguments_of(recipe: LlavaRecipe, work: Path) -> TrainingArguments:
    """The Trainer's settings. Raises UserError like `accumulation_of`."""
    accumulation, cuda = accumulation_of(recipe), torch.cuda.is_available()
    sharding: dict[str, Any] = {}
    if recipe.sharding == "zero3":
        sharding = {"deepspeed": str(CONFIGS / "zero3.json")}
    elif recipe.sharding == "fsdp":
        sharding = {"fsdp": "full_shard auto_wrap", "fsdp_config": json.loads((CONFIGS / "fsdp.json").read_text())}
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=recipe.per_device,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        learning_rate=recipe.lr,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        bf16=recipe.dtype == "bfloat16",
        tf32=True if cuda else None,
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        dataloader_num_workers=recipe.workers,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        logging_steps=recipe.log_steps,
        save_steps=recipe.save_steps,
        save_total_limit=recipe.keep_checkpoints,
        report_to=list(recipe.report_to) or "none",
        run_name=recipe.name,
        disable_tqdm=True,
        seed=recipe.seed,
        use_cpu=not cuda,
        ddp_timeout=max(1, round(patience(PATIENCE).total_seconds())),
        **sharding,
    )


def train(recipe: LlavaRecipe, *, out: Path | None = None, resume: bool = False, work: Path | None = None) -> Path:
    """Train what the recipe says and write the checkpoint, with its method, to `out`; returns `out`.

    Checkpoints are saved in `work` (default runs/train/<name>). `resume` continues from the last one, on one process to
    the same weights; a newest state that is not whole is passed over. Raises UserError for missing files, for an `out`
    or a `work` in which the recipe's own model is, and if `work` holds a training and `resume` is not given, a training
    by another recipe, or broken states only.
    """
    work = work or Path("runs") / "train" / recipe.name
    out = out or work / "final"
    if written := own_folders(recipe.sources, {"--out": out, "the training's folder": work}):
        raise UserError(f"{recipe.name}: {written[0]}")
    last = to_continue(recipe, work, resume=resume)
    accumulation_of(recipe)  # only for its errors, before anything is loaded
    conversations = Conversations(recipe.data.conversations)
    if problems := conversations.problems():
        log.warning("%s: left out: %s", recipe.data.conversations, problems)
    order = Order(conversations.lengths, recipe.batch, recipe.seed, grouped=recipe.grouped)
    write_record(recipe, work)
    master = torch.bfloat16 if recipe.dtype == "bfloat16" and recipe.sharding == "zero3" else torch.float32
    # With ZeRO-3, once the arguments exist, a checkpoint's weights are sharded as they are read. A new model is
    # assembled from whole weights before that, and sharded when training begins.
    learner = student(recipe, master) if isinstance(recipe.model, Parts) else None
    join_others()
    arguments = arguments_of(recipe, work)
    learner = learner or student(recipe, master)
    backbone = backbone_of(learner.model)
    try:
        reducer = build_entry(recipe.method, backbone.geometry)
        reducer.plan(backbone.geometry)
    except ValueError as error:
        raise UserError(f"{recipe.name}: method: {error}") from None
    samples = samples_of(recipe, conversations, backbone, learner.tokenizer, learner.image_processor)
    from hidrop.runtime import reduce
    from hidrop.runtime.forward_patch import bound

    # The Trainer sees the reduced forward: it reads its signature to know what it may pass.
    with reduce(learner.model, reducer):
        learner.model.forward = bound(learner.model, always_seeing(learner.model))
        trainer = Reduced(
            order,
            learner,
            args=arguments,
            train_dataset=samples,
            data_collator=Collator(learner.tokenizer.pad_token_id),
            callbacks=[Say()],
        )
        with in_time(trainer):
            done = trainer.train(resume_from_checkpoint=str(last) if last else None)
    facts = _session(trainer, step(last) if last else 0, done.metrics["train_runtime"], recipe)
    replaced = sum(gather_object([samples.replaced]))  # of all processes
    if replaced:
        log.warning("%d samples could not be used and were replaced by others", replaced)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered if sharded
    if trainer.is_world_process_zero():
        _export(recipe, learner, weights, reducer, out, {"replaced_samples": replaced, "session": facts})
        log.info("wrote %s", out)
    trainer.accelerator.wait_for_everyone()
    return out


def _session(trainer: Reduced, first: int, seconds: float, recipe: LlavaRecipe) -> dict[str, float | int]:
    """What this process measured since it started at step `first`. The Trainer's own numbers count from step 0."""
    steps = trainer.state.global_step - first
    facts = {
        "steps": steps,
        "seconds": seconds,
        "samples_per_second": steps * recipe.batch / seconds,
        "waited_for_data": trainer.waited / seconds,
    }
    if steps:
        speed, share = facts["samples_per_second"], 100 * facts["waited_for_data"]
        log.info("%.2f samples a second, %.1f %% of the time waiting for data", speed, share)
    return facts


def _export(
    recipe: LlavaRecipe, learner: Student, weights: dict[str, Any], reducer: Any, out: Path, facts: dict[str, Any]
) -> None:
    from hidrop.models import check, save

    model = learner.model
    if recipe.lora:
        model, weights = learner.trained.merge_and_unload(), {}
    dtype = recipe.dtype
    # By this, an evaluation shows images as training did.
    model.config.image_aspect_ratio = recipe.image
    save(model, learner.tokenizer, learner.image_processor, out, reducer=reducer, dtype=dtype, weights=weights or None)
    record = {"recipe": json.loads(recipe.model_dump_json()), **facts}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    check(out)
