"""A recipe of LLaVA's two stages as YAML: which weights, which data, which method, and the hyper-parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hidrop.methods import build_entry
from hidrop.numerics import Attention
from hidrop.strict_yaml import FileName, Flag, StrictModel, Whole

CONFIGS = Path(__file__).parent / "configs"

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[Whole, Field(ge=1, le=2**31 - 1)]
Finite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Parts(StrictModel):
    """The parts of a new LLaVA: a language model and a vision tower (folders or Hub ids)."""

    language_model: str
    vision_tower: str


class Data(StrictModel):
    """LLaVA's JSON file of conversations, the folder of its images, and the command that downloads both."""

    conversations: Path
    images: Path
    get: str | None = None


class Lora(StrictModel):
    """PEFT's LoRA on the decoder's linear layers. The projector is trained as a whole in addition."""

    rank: Count
    alpha: Count
    dropout: Share = 0.0


class LlavaRecipe(StrictModel):
    """One stage. `batch` is that of an optimiser step over all processes; what does not fit is accumulated.

    model: a checkpoint, or the parts of a new one. train: the projector alone, or everything except the tower.
    prompt: "plain" (the image, then its caption) or "v1" (Vicuna's conversation). image: "pad" it to a square, or take
    its middle "square". lr falls as a cosine after `warmup`, a share of all steps. Lengths are in tokens, visual ones
    included.
    """

    name: FileName
    kind: Literal["llava"]
    model: Parts | str
    train: Literal["projector", "all"]
    data: Data
    prompt: Literal["plain", "v1"]
    image: Literal["square", "pad"]
    method: dict[str, Any] = Field(default_factory=lambda: {"name": "vanilla"})
    lora: Lora | None = None
    batch: Count
    per_device: Count
    epochs: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    max_steps: Count | None = None  # stop after this many steps, for a trial
    lr: Finite
    warmup: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_length: Count = 2048
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    gradient_checkpointing: Flag = True
    attention: Attention = "sdpa"
    grouped: Flag = False  # batches of one modality, sorted by length
    sharding: Literal["zero3", "fsdp"] | None = None
    workers: Annotated[Whole, Field(ge=0, le=256)] = 4
    save_steps: Count = 500
    keep_checkpoints: Count = 2
    log_steps: Count = 1
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    seed: Annotated[Whole, Field(ge=0, le=2**32 - 1)] = 0

    @model_validator(mode="after")
    def _fits(self) -> LlavaRecipe:
        build_entry(self.method)
        if self.batch % self.per_device:
            raise ValueError(f"batch: {self.batch} is not a multiple of per_device ({self.per_device})")
        if self.lora and self.train == "projector":
            raise ValueError("lora: there is nothing for it to adapt when only the projector is trained")
        if self.lora and self.sharding:
            raise ValueError("lora: it is merged into whole weights at the end, so it cannot go with sharding")
        if self.sharding and not self.grouped:
            # A process whose samples have no image would not gather the tower's weights, and the others would wait.
            raise ValueError("sharding: it needs grouped: true, so that all processes run the same modules")
        return self

    @property
    def sources(self) -> list[str]:
        """The checkpoints that training starts from."""
        parts = self.model
        return [parts.language_model, parts.vision_tower] if isinstance(parts, Parts) else [parts]

    def accumulation(self, processes: int) -> int:
        """Micro-batches of an optimiser step. Raises ValueError if the batch cannot be divided among the processes."""
        if self.batch % (self.per_device * processes):
            raise ValueError(
                f"batch {self.batch} is not a multiple of {processes} processes x per_device {self.per_device}"
            )
        return self.batch // (self.per_device * processes)
