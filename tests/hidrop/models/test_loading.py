"""Checkpoints in transformers' layout: saved, loaded, looked at; and everything that can be wrong with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hidrop.backbones import backbone_of
from hidrop.errors import UserError
from hidrop.models import load, peek, save


@pytest.fixture
def saved(model: Any, tokenizer: Any, image_processor: Any, tmp_path: Path) -> Path:
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return save(model, tokenizer, image_processor, tmp_path / "tiny")


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_saved_model_comes_back_the_same(saved: Path, model: Any, logits: Any) -> None:
    loaded = load(saved)
    assert torch.equal(logits(loaded.model), logits(model))
    assert not loaded.model.training
    assert loaded.geometry == backbone_of(model).geometry
    assert loaded.reducer is None
    assert (loaded.source, loaded.path, loaded.architecture) == (str(saved), saved, "llava")


def test_peek_says_what_load_says(saved: Path) -> None:
    loaded = load(saved)
    assert dataclasses.astuple(peek(saved)) == dataclasses.astuple(
        type(peek(saved))(loaded.geometry, loaded.reducer, loaded.architecture)
    )


def test_peek_needs_no_weights(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    assert peek(saved).geometry.visual_tokens == 16
    with pytest.raises(UserError, match="no weights here"):
        load(saved)


def test_reducer_rides_in_the_config(
    model: Any, tokenizer: Any, image_processor: Any, tmp_path: Path, toy: Any, logits: Any
) -> None:
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    folder = save(model, tokenizer, image_processor, tmp_path / "tiny", toy(layer=2, keep=(5, 1)))
    assert load(folder).reducer == peek(folder).reducer == toy(layer=2, keep=(5, 1))
    assert "hidrop" not in model.config.to_dict()
    again = load(folder)
    second = save(again.model, again.tokenizer, again.image_processor, tmp_path / "again", again.reducer)
    assert load(second).reducer == toy(layer=2, keep=(5, 1))
    assert torch.equal(logits(load(second).model), logits(model))


def test_half_precision_on_disk_is_float32_on_request(
    model: Any, tokenizer: Any, image_processor: Any, tmp_path: Path
) -> None:
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    folder = save(model, tokenizer, image_processor, tmp_path / "half", dtype="float16")
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert model.dtype == torch.float32
    loaded = load(folder)
    assert loaded.model.dtype == torch.float32
    assert torch.equal(loaded.model.lm_head.weight, model.lm_head.weight.half().float())
    assert load(folder, dtype="auto").model.dtype == torch.float16
    assert load(folder, dtype="bfloat16").model.dtype == torch.bfloat16


def test_processor_and_tokenizer_are_ready_for_batched_generation(saved: Path) -> None:
    from PIL import Image

    loaded = load(saved)
    prompts = ["w5 <image> w6 w7", "<image> w6"]
    batch = loaded.processor(images=[Image.new("L", (50, 20))] * 2, text=prompts, padding=True, return_tensors="pt")
    assert (batch["input_ids"] == loaded.model.config.image_token_id).sum(-1).tolist() == [16, 16]
    assert batch["attention_mask"][1].tolist() == [0, 0] + [1] * 17
    assert loaded.model.generate(**batch, max_new_tokens=2, do_sample=False).shape == (2, 21)


def test_folder_without_a_processor_config_works_too(saved: Path, image_processor: Any) -> None:
    (saved / "processor_config.json").unlink()
    image_processor.save_pretrained(saved)
    assert load(saved).processor.patch_size == 8


def test_parts_are_where_the_runtime_looks_for_them(model: Any) -> None:
    backbone = backbone_of(model)
    assert backbone.decoder is model.model.language_model
    assert backbone.tower is model.model.vision_tower
    assert backbone.projector is model.model.multi_modal_projector
    assert backbone.head is model.lm_head


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "architecture 'gpt2' is not supported. Supported: LLaVA"),
        ({"model_type": None, "architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel'"),
        ({"text_config": {"model_type": "qwen2"}}, "'qwen2' decoder is not supported"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "'siglip_vision_model' tower is not supported"),
        ({"hidrop": {"name": "hidorp"}}, r"config\.json: hidrop: unknown method 'hidorp'\. Did you mean 'hidrop'\?"),
        ({"hidrop": "hidrop"}, "hidrop: expected"),
        ({"hidrop": {"name": "toy", "layr": 2}}, "layr: unknown field of toy. Did you mean 'layer'?"),
        ({"hidrop": {"name": "toy", "layer": 40}}, "hidrop: cut after layer 40"),
    ],
)
def test_wrong_config_is_refused_before_any_weight(saved: Path, toy: Any, changes: Any, message: str) -> None:
    (saved / "model.safetensors").unlink()
    edit_config(saved, **changes)
    with pytest.raises(UserError, match=message):
        peek(saved)


def test_broken_config_names_the_file(saved: Path) -> None:
    (saved / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        load(saved)


def test_missing_tensors_are_named_and_never_made_up(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    del tensors["multi_modal_projector.linear_2.bias"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"missing tensors: .*multi_modal_projector\.linear_2\.bias"):
        load(saved)


def test_checkpoint_written_by_transformers_4_loads(saved: Path, model: Any, logits: Any) -> None:
    file = saved / "model.safetensors"
    tensors = {n.replace("vision_tower.", "vision_tower.vision_model."): t for n, t in load_file(file).items()}
    tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, file, metadata={"format": "pt"})
    assert torch.equal(logits(load(saved).model), logits(model))


def test_extra_tensors_are_named(saved: Path) -> None:
    file = saved / "model.safetensors"
    save_file(load_file(file) | {"image_newline": torch.ones(3)}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="extra tensors: .*image_newline"):
        load(saved)


def test_tensors_of_another_shape_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    tensors["multi_modal_projector.linear_2.bias"] = torch.ones(7)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"wrong shapes: model\.multi_modal_projector\.linear_2\.bias is \(7,\), not \(32,\)"
    ):
        load(saved)


def test_truncated_weights_are_a_user_error(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load(saved)


def test_missing_tokenizer_is_a_user_error(saved: Path) -> None:
    for file in saved.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="tokenizer or image processor cannot be loaded"):
        load(saved)


NOT_DEVICES = (
    *("gpu", "mps", "xpu", "meta", "cpu:0", "cpu:3", "CPU", "cpu ", ""),
    *("cuda:", "cuda:-1", "cuda:01", "cuda:1000", "cuda:x", "cuda:\u0661"),
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flash_attention_2"}, "flash-attn is not installed"),
        ({"attention": "spda"}, "attention: unknown value 'spda'. Did you mean 'sdpa'?"),
        ({"dtype": "fp16"}, "dtype: unknown value 'fp16'"),
        *(
            ({"device": name}, f"device: unknown value '{name}'. Known: cpu, cuda, cuda:<number>")
            for name in NOT_DEVICES
        ),
        ({"device": "cuda"}, "sees no CUDA device"),
        ({"device_map": "autos"}, "device_map: unknown value 'autos'. Did you mean 'auto'?"),
        ({"quantization": "4bit"}, "bitsandbytes is not installed"),
        ({"quantization": "4-bit"}, "quantization: unknown value '4-bit'. Did you mean '4bit'?"),
    ],
)
def test_what_this_machine_lacks_is_said_before_anything_is_read(
    options: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        load("no/such-model", **options)


def test_flash_attention_needs_cuda_and_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: object())
    with pytest.raises(UserError, match="CUDA only"):
        load("no/such-model", attention="flash_attention_2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="no float32 kernel"):
        load("no/such-model", attention="flash_attention_2", device="cuda")
    with pytest.raises(UserError, match="there are 1 CUDA devices"):
        load("no/such-model", device="cuda:1")


def test_the_original_layout_is_converted_before_it_is_quantised(
    original: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: object())
    with pytest.raises(UserError, match="run.py convert"):
        load(original(), quantization="8bit")


@pytest.mark.parametrize(("quantization", "far"), [("8bit", 0.1), ("4bit", 1.5)])
def test_quantised_decoder_layers_run_with_every_kind_of_reduction(
    quantization: str, far: float, model: Any, tokenizer: Any, image_processor: Any, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import LlavaForConditionalGeneration

    from hidrop.methods import build
    from hidrop.models import save
    from hidrop.runtime import reduce

    text = model.config.text_config  # its kernels work in blocks of 64
    text.hidden_size, text.intermediate_size, text.head_dim, text.num_hidden_layers = 128, 256, 32, 5
    plain = LlavaForConditionalGeneration(model.config)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    save(plain, tokenizer, image_processor, tmp_path / "whole")
    loaded = [load(tmp_path / "whole"), load(tmp_path / "whole", quantization=quantization)]
    weight = loaded[1].model.model.language_model.layers[0].self_attn.q_proj.weight
    assert weight.dtype in (torch.int8, torch.uint8)
    assert type(loaded[1].model.model.multi_modal_projector.linear_1) is torch.nn.Linear
    image = model.config.image_token_id
    inputs = {"input_ids": torch.tensor([[1, 5, *[image] * 16, 7, 8]]), "pixel_values": torch.randn(1, 3, 32, 32)}
    for name, fields in (
        ("vanilla", {}),
        ("fastv", {"layer": 1, "keep": 5}),
        ("hidrop", {"inject": 2, "filters": [3], "keep": [4], "exit": 5}),
    ):
        logits = []
        for each in loaded:
            with reduce(each.model, build(name, fields)) as reduction, torch.no_grad():
                logits.append(each.model(**inputs).logits[0, -1].float())
                assert reduction.trace.entering == reduction.plan.entering
        assert (logits[0] - logits[1]).abs().max() < far * logits[0].std()


@pytest.mark.cuda
def test_weights_end_up_on_the_device(saved: Path) -> None:
    loaded = load(saved, device="cuda", dtype="float16")
    assert {parameter.device.type for parameter in loaded.model.parameters()} == {"cuda"}


def test_a_device_map_needs_devices_to_choose_from(original: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(saved, device_map="auto").model.device.type == "cpu"  # nothing to spread
    with pytest.raises(UserError, match="device_map: .*run.py convert"):
        load(original(), device_map="auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="spreads a model over all CUDA devices; use device cuda"):
        load(saved, device_map="auto", device="cuda:1")
