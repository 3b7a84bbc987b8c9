"""The parts of a new LLaVA-1.5: a language model, a vision tower, and what follows from their files."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hidrop.backbones import Backbone, family_of, geometry_of
from hidrop.backbones.config_fields import ClipFields, DecoderFields, TowerFields, check_fields, check_sizes
from hidrop.backbones.llava import Llava
from hidrop.backbones.rehearsal import rehearse
from hidrop.backbones.runnable import check_runs
from hidrop.checkpoint_files import check_folder, in_words
from hidrop.errors import UserError, shown
from hidrop.models.headers import check_weights
from hidrop.models.saving import quiet
from hidrop.models.sources import find, read_config
from hidrop.models.vocabulary import add_placeholder, grown
from hidrop.pretrained import pretrained
from hidrop.training.recipe import Parts

# LLaVA-1.5 uses the features before the tower's last layer, without the class token.
FEATURE_LAYER, FEATURE_STRATEGY = -2, "default"


@dataclass(frozen=True)
class NewModel:
    """What a new LLaVA has before its weights. `rows`: the vocabulary that it grows to."""

    language: Path
    tower: Path
    config: Any
    tokenizer: Any
    image_processor: Any
    rows: int

    @property
    def backbone(self) -> Backbone:
        """A backbone without a model, with the grown vocabulary."""
        grown = copy.deepcopy(self.config)
        grown.text_config.vocab_size = self.rows
        return Llava.of_config(grown)


def new_model(parts: Parts) -> NewModel:
    """Read and check the files of both parts, without their weights' values.

    Raises UserError for whatever would keep them from being one model: broken files, another architecture, weights that
    do not belong to their config, an image processor of another size.
    """
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, LlavaConfig

    language, tower = find(parts.language_model), find(parts.vision_tower)
    with quiet():
        text = _config(language, LlamaConfig, {"llama": DecoderFields})
        vision = _config(tower, CLIPVisionConfig, {"clip": ClipFields, "clip_vision_model": TowerFields})
        check_weights(language, "LlamaForCausalLM", text)
        check_weights(tower, "CLIPVisionModel", vision, part=True)
        with in_words(f"{language}: the tokenizer cannot be loaded"):
            tokenizer = pretrained(AutoTokenizer, language)
            placeholder = add_placeholder(tokenizer)
        with in_words(f"{tower}: the image processor cannot be loaded"):
            image_processor = pretrained(CLIPImageProcessorPil, tower)
        config = LlavaConfig(
            text_config=text,
            vision_config=vision,
            image_token_index=placeholder,
            image_seq_length=(vision.image_size // vision.patch_size) ** 2,
            vision_feature_layer=FEATURE_LAYER,
            vision_feature_select_strategy=FEATURE_STRATEGY,
        )
        rows = grown(len(tokenizer)) if len(tokenizer) > text.vocab_size else text.vocab_size
        found = NewModel(language, tower, config, tokenizer, image_processor, rows)
        place = f"{language} with {tower}"
        family_of(config.to_dict(), place)
        check_sizes(found.backbone.model.config, place)
        check_runs(Llava, found.backbone.model.config, f"{language}/config.json")
        geometry_of(config)
        with in_words(f"{place}: no processor can be made of them"):
            processor = Llava.processor_of(config, tokenizer, image_processor)
        rehearse(found.backbone, tokenizer, image_processor, processor, place)
    return found


def _config(folder: Path, kind: Any, known: dict[str, Any]) -> Any:
    raw, place = read_config(folder), f"{folder}/config.json"
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{place}: model_type {shown(name)} is not supported here, only {' or '.join(known)}")
    check_folder(folder)
    check_fields(raw, place, known[name])
    with in_words(f"{place}: transformers cannot read it"):
        return pretrained(kind, folder)
