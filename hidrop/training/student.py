"""The model that a recipe trains: a checkpoint, or a new LLaVA made of a language model and a vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hidrop.backbones import Backbone, backbone_of
from hidrop.checkpoint_files import in_words
from hidrop.errors import UserError
from hidrop.pretrained import pretrained
from hidrop.training.new_model import NewModel, new_model
from hidrop.training.recipe import LlavaRecipe, Lora, Parts


@dataclass(frozen=True)
class Student:
    """A model in training, with what belongs to it. `model` is the LLaVA, `trained` is it or PEFT's wrapper."""

    model: Any
    trained: Any
    tokenizer: Any
    image_processor: Any


def student(recipe: LlavaRecipe, dtype: torch.dtype) -> Student:
    """Load or assemble the recipe's model, and freeze what is not trained. Raises UserError."""
    torch.manual_seed(recipe.seed)  # for a new projector and LoRA's matrices
    if isinstance(recipe.model, Parts):
        new = new_model(recipe.model)
        model = put_together(new, dtype, recipe.attention)
        tokenizer, image_processor = new.tokenizer, new.image_processor
    else:
        from hidrop.models import load

        name = str(dtype).removeprefix("torch.")
        loaded = load(recipe.model, dtype=name, device="cpu", attention=recipe.attention)
        model, tokenizer, image_processor = loaded.model, loaded.tokenizer, loaded.image_processor
    if problem := unfit(backbone_of(model), tokenizer):
        raise UserError(f"{recipe.name}: model: {problem}")
    tokenizer.padding_side = "right"
    freeze(model, recipe.train)
    return Student(model, adapted(model, recipe.lora) if recipe.lora else model, tokenizer, image_processor)


def unfit(backbone: Backbone, tokenizer: Any) -> str | None:
    """Why a model that can be evaluated cannot be trained here; None when it can."""
    if backbone.geometry.dynamic or not backbone.llava_conversation:
        return (
            f"recipes train LLaVA-1.5, by LLaVA's conversations and on square images, not {backbone.title}. Train it "
            "in a loop of your own, inside a block of reduce()"
        )
    if not getattr(tokenizer, "is_fast", False):
        return "training needs a fast tokenizer (tokenizer.json), which gives the characters of each token"
    for name in ("eos_token", "pad_token"):
        if getattr(tokenizer, name, None) is None:
            return f"the tokenizer has no {name}. Add it to tokenizer_config.json"
    return None


def put_together(new: NewModel, dtype: torch.dtype, attention: str) -> Any:
    """A LLaVA-1.5 with the weights of its parts and a new projector."""
    from transformers import AutoModelForCausalLM, CLIPVisionModel, LlavaForConditionalGeneration

    new.config._attn_implementation = attention
    model = LlavaForConditionalGeneration(new.config).to(dtype)
    backbone = backbone_of(model)
    with in_words(f"{new.language}: the weights cannot be loaded"):
        decoder = pretrained(AutoModelForCausalLM, new.language, dtype=dtype)
        backbone.decoder.load_state_dict(decoder.model.state_dict())
        backbone.head.load_state_dict(decoder.lm_head.state_dict())
    with in_words(f"{new.tower}: the weights cannot be loaded"):
        backbone.tower.load_state_dict(pretrained(CLIPVisionModel, new.tower, dtype=dtype).state_dict())
    if new.rows > new.config.text_config.vocab_size:
        # The rows that are new hold the placeholder, which is never embedded.
        model.resize_token_embeddings(new.rows, mean_resizing=False)
    return model


def freeze(model: Any, train: str) -> None:
    """Freeze the tower, and with "projector" everything except the projector."""
    backbone = backbone_of(model)
    model.requires_grad_(train == "all")
    backbone.tower.requires_grad_(False)
    backbone.projector.requires_grad_(True)


def adapted(model: Any, lora: Lora) -> Any:
    """The model with LoRA on the decoder's linear layers and a fully trained projector. Raises UserError."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("lora needs PEFT, which is not installed: pip install -c constraints.txt peft") from None
    kind = type(backbone_of(model))
    decoder, projector = (path.rsplit(".", 1)[-1] for path in (kind.decoder_at, kind.projector_at))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf".*{decoder}.*\.(?:q|k|v|o|gate|up|down)_proj",
        modules_to_save=[projector],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
