"""A tiny LLaVA with its tokenizer and image processor, and the same model written in LLaVA's original layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hidrop import methods
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer

ROWS = 97  # the vocabulary without the image token


@dataclass(frozen=True)
class Toy(Reducer):
    """A method that exists for these tests only."""

    name = "toy"
    layer: int
    keep: tuple[int, ...] = (4,)

    def schedule(self, geometry: Any) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, self.keep[0]),))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    """Toy, registered as a method."""
    monkeypatch.setitem(methods.METHODS, "toy", f"{__name__}:Toy")
    return Toy


@pytest.fixture
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, ROWS)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture
def image_processor() -> Any:
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture
def model() -> Any:
    """Random, float32, 16 visual tokens; the image token is the last row of the vocabulary."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=ROWS + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_theta=500.0,
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=1,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=ROWS, image_seq_length=16)
    model = LlavaForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        # Away from the initial zeros and ones, so that a tensor in the wrong place shows.
        torch.nn.init.normal_(weight, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.1)
    return model


@pytest.fixture
def logits() -> Callable[[Any], torch.Tensor]:
    """Logits of a model over one prompt with an image in it, without the rows that are no words."""
    return _logits


def _logits(model: Any) -> torch.Tensor:
    image_token = model.config.image_token_id
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[1, 5, 6, *[image_token] * 16, 7, 8, 9]])
    pixels = torch.randn(1, 3, 32, 32, generator=generator).to(model.dtype)
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits[..., :ROWS]


Edit = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture
def original(model: Any, tokenizer: Any, image_processor: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write `model` as LLaVA's trainer does: `original(tower="inside", shards=2, ...)` -> folder."""

    def write(
        name: str = "llava-v1.5-tiny",
        *,
        model_type: str = "llava_llama",
        suffix: str = "bin",
        shards: int = 2,
        tower: str = "inside",
        projector: str = "inside",
        edit: Edit = lambda state: None,
        **config: Any,
    ) -> Path:
        folder, clip = tmp_path / name, tmp_path / "clip-tiny"
        folder.mkdir()
        state = dict(_original_names(model))
        if tower != "inside":
            _move(state, "model.vision_tower.", {})
        if tower != "lost":
            model.model.vision_tower.save_pretrained(clip)
            image_processor.save_pretrained(clip)
        if projector == "apart":
            apart: dict[str, torch.Tensor] = {}
            _move(state, "model.mm_projector.", apart)
            torch.save(apart, folder / "mm_projector.bin")
        edit(state)
        _write_weights(folder, state, suffix, shards)
        tokenizer.save_pretrained(folder)
        text = model.config.text_config
        raw = {
            "model_type": model_type,
            "architectures": ["LlavaLlamaForCausalLM"],
            "vocab_size": ROWS,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": 500.0,
            "max_position_embeddings": 2048,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "float32",
            "tie_word_embeddings": False,
            "use_cache": True,
            "pretraining_tp": 1,
            "mm_vision_tower": "./checkpoints/clip-tiny",
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "mm_use_im_start_end": False,
            "mm_use_im_patch_token": False,
            **config,
        }
        (folder / "config.json").write_text(json.dumps(raw))
        return folder

    return write


def _original_names(model: Any) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in model.state_dict().items():
        value = value.clone()
        if name.startswith("model.vision_tower."):
            name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        elif "projector" in name:
            name = name.replace("multi_modal_projector.linear_1", "mm_projector.0")
            name = name.replace("multi_modal_projector.linear_2", "mm_projector.2")
        else:
            name = name.replace("model.language_model.", "model.")
        state[name] = value[:ROWS].clone() if name in ("model.embed_tokens.weight", "lm_head.weight") else value
    return state


def _move(state: dict[str, torch.Tensor], prefix: str, where: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        where[name] = state.pop(name)


def _write_weights(folder: Path, state: dict[str, torch.Tensor], suffix: str, shards: int) -> None:
    from safetensors.torch import save_file

    stem = "pytorch_model" if suffix == "bin" else "model"
    names = list(state)
    where = {}
    for number in range(shards):
        file = f"{stem}-{number + 1:05}-of-{shards:05}.{suffix}" if shards > 1 else f"{stem}.{suffix}"
        part = {name: state[name] for name in names[number::shards]}
        where |= dict.fromkeys(part, file)
        if suffix == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file)
    if shards > 1:
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": where}))
