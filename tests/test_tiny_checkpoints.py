"""The tiny checkpoints: transformers loads every folder, and processor and model agree on each image's tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hidrop.backbones import BACKBONES
from hidrop.pretrained import pretrained
from tests.tiny_checkpoints import FAMILIES, LAYERS, make_model, make_processor, read_processor

every_family = pytest.mark.parametrize("family", FAMILIES)
SIZES = [(56, 84), (100, 60)]  # height, width


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def asked(processor: Any, *sizes: tuple[int, int]) -> Any:
    """The inputs of one question about pictures of these sizes."""
    parts = [*({"type": "image", "image": one} for one in pictures(*sizes)), {"type": "text", "text": "What differs?"}]
    settings = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    return processor.apply_chat_template([{"role": "user", "content": parts}], **settings)


def test_every_backbone_but_llavas_has_a_tiny_checkpoint() -> None:
    """LLaVA's are in conftest.py. Many tests run on every family of this table."""
    assert {*FAMILIES} == {*BACKBONES} - {"llava", "llava_next"}


@every_family
def test_transformers_reads_the_same_model_out_of_a_folder(family: str, folders: dict[str, Path]) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = pretrained(AutoConfig, folders[family])
    read, report = pretrained(AutoModelForImageTextToText, folders[family], output_loading_info=True)
    made = make_model(family)
    assert config.model_type == family
    assert config.get_text_config().num_hidden_layers == LAYERS
    assert type(read) is type(made)
    assert not any(report.values())
    weights = read.state_dict()
    assert made.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in made.state_dict().items())


@every_family
def test_config_names_the_tokens_of_the_tokenizer(family: str, folders: dict[str, Path]) -> None:
    config = json.loads((folders[family] / "config.json").read_text())
    tokenizer = read_processor(folders[family]).tokenizer
    made = FAMILIES[family]()
    for name, value in made.config.items():
        if "_token_i" in name:
            # A later transformers than 5.17 writes the padding of SmolVLM's decoder alone.
            assert config.get(name, config["text_config"].get(name)) == value
            assert tokenizer.convert_ids_to_tokens(value) in made.tokens, name
    assert len(tokenizer) <= made.config["text_config"]["vocab_size"]
    assert [tokenizer.convert_tokens_to_ids(token) for token in made.tokens] == [made.token_id(t) for t in made.tokens]
    text = "Ünïcode, 2 lines\n\nand a 'quote'"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@every_family
def test_images_of_two_sizes_run_through_processor_and_model(family: str, folders: dict[str, Path]) -> None:
    from transformers import AutoModelForImageTextToText

    model, processor = pretrained(AutoModelForImageTextToText, folders[family]), read_processor(folders[family])
    inputs = asked(processor, *SIZES)
    single = [asked(processor, size) for size in SIZES]
    placeholder = model.config.image_token_id
    for one in [inputs, *single]:
        names = {"pixel_values", "image_grid_thw", "image_sizes", "batch_num_images", "pixel_attention_mask"}
        with torch.no_grad():
            found = model.get_image_features(**{name: one[name] for name in names if name in one}).pooler_output
        features = torch.cat([part.flatten(0, -2) for part in found])
        assert len(features) == (one.input_ids == placeholder).sum() > 0
    with torch.no_grad():
        logits = model(**inputs).logits
        made = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert 3 < logits.abs().max() < 30
    assert made.shape[1] > inputs.input_ids.shape[1]


@every_family
def test_weights_leave_no_layer_with_flat_attention(family: str) -> None:
    """The largest weight of a last token's heads is well above that of uniform attention."""
    model, inputs = make_model(family, attn_implementation="eager"), asked(make_processor(family), SIZES[0])
    with torch.no_grad():
        layers = model(**inputs, output_attentions=True).attentions
    assert len(layers) == LAYERS
    for weights in layers:
        assert weights[0, :, -1].max(-1).values.mean() > 3 / weights.shape[-1]


@every_family
def test_processor_of_a_folder_is_the_made_one(family: str, folders: dict[str, Path]) -> None:
    read, made = asked(read_processor(folders[family]), *SIZES), asked(make_processor(family), *SIZES)
    assert read.keys() == made.keys()
    assert all(torch.equal(torch.as_tensor(read[name]), torch.as_tensor(made[name])) for name in made)


def test_changes_replace_single_fields() -> None:
    model = make_model("qwen2_5_vl", text_config={"num_hidden_layers": 2}, image_token_id=260)
    assert len(model.model.language_model.layers) == 2
    assert model.config.text_config.hidden_size == 64
    assert model.config.image_token_id == 260


def test_auto_processor_reads_the_family_without_videos(folders: dict[str, Path]) -> None:
    """The others need torchvision for it: for their video processors, or because transformers hides the PIL class."""
    from transformers import AutoProcessor

    read = asked(pretrained(AutoProcessor, folders["gemma3"], backend="pil"), *SIZES)
    made = asked(make_processor("gemma3"), *SIZES)
    assert all(torch.equal(read[name], made[name]) for name in made)


def test_seed_decides_the_weights() -> None:
    one, same, other = make_model("internvl"), make_model("internvl"), make_model("internvl", seed=1)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_images_of_tiled_families_have_several_tiles() -> None:
    """56 x 84 pixels: 2 x 3 tiles of 32 pixels (InternVL: 2 x 2) and the whole image."""
    assert asked(make_processor("internvl"), SIZES[0]).pixel_values.shape == (5, 3, 32, 32)
    for family in ("llava_onevision", "smolvlm", "idefics3"):
        assert asked(make_processor(family), SIZES[0]).pixel_values.shape == (1, 7, 3, 32, 32)
