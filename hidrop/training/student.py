"""The model that a recipe trains: a checkpoint, or a new LLaVA made of a language model and a vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hidrop.backbones import backbone_of
from hidrop.errors import UserError
from hidrop.models.sources import find
from hidrop.pretrained import pretrained
from hidrop.prompts import PLACEHOLDER
from hidrop.training.recipe import LlavaRecipe, Lora, Parts

# LLaVA-1.5 uses the features before the tower's last layer, without the class token.
FEATURE_LAYER, FEATURE_STRATEGY = -2, "default"


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
        model, tokenizer, image_processor = put_together(recipe.model, dtype, recipe.attention)
    else:
        from hidrop.models import load

        name = str(dtype).removeprefix("torch.")
        loaded = load(recipe.model, dtype=name, device="cpu", attention=recipe.attention)
        model, tokenizer, image_processor = loaded.model, loaded.tokenizer, loaded.image_processor
        if loaded.geometry.anyres:
            raise UserError(f"{recipe.model}: images in tiles (LLaVA-NeXT) are not trained here")
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("training needs a fast tokenizer (tokenizer.json), which gives the characters of each token")
    tokenizer.padding_side = "right"
    freeze(model, recipe.train)
    return Student(model, adapted(model, recipe.lora) if recipe.lora else model, tokenizer, image_processor)


def put_together(parts: Parts, dtype: torch.dtype, attention: str) -> tuple[Any, Any, Any]:
    """A LLaVA-1.5 with a new projector, its tokenizer and its image processor."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
        CLIPImageProcessorPil,
        CLIPVisionModel,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    language, tower = find(parts.language_model), find(parts.vision_tower)
    tokenizer = pretrained(AutoTokenizer, language)
    processor = pretrained(CLIPImageProcessorPil, tower)
    vision = pretrained(AutoConfig, tower)
    vision = getattr(vision, "vision_config", vision)
    text = pretrained(AutoConfig, language)
    tokenizer.add_tokens([PLACEHOLDER], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids(PLACEHOLDER),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy=FEATURE_STRATEGY,
        attn_implementation=attention,
    )
    model = LlavaForConditionalGeneration(config).to(dtype)
    decoder = pretrained(AutoModelForCausalLM, language, dtype=dtype)
    backbone = backbone_of(model)
    backbone.decoder.load_state_dict(decoder.model.state_dict())
    backbone.head.load_state_dict(decoder.lm_head.state_dict())
    backbone.tower.load_state_dict(pretrained(CLIPVisionModel, tower, dtype=dtype).state_dict())
    if len(tokenizer) > text.vocab_size:
        # One row more for the placeholder, which is never embedded. Multiples of 64 keep the matrices fast.
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    return model, tokenizer, processor


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
