"""Checkpoints in LLaVA's original layout, fabricated from a tiny model in transformers' layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hidrop.errors import UserError
from hidrop.methods import build
from hidrop.models import convert, load, peek

Original = Callable[..., Path]
Logits = Callable[[Any], torch.Tensor]


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tower", ["inside", "apart"])
def test_original_layout_gives_the_logits_of_its_source(
    original: Original, model: Any, logits: Logits, suffix: str, shards: int, tower: str
) -> None:
    loaded = load(original(suffix=suffix, shards=shards, tower=tower))
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-5, rtol=0)


def test_tower_is_rebuilt_from_shapes_when_its_folder_is_lost(original: Original, model: Any, logits: Logits) -> None:
    folder = original()
    shutil.rmtree(folder.parent / "clip-tiny")
    assert peek(folder).geometry.visual_tokens == 16
    loaded = load(folder)
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-5, rtol=0)
    assert loaded.image_processor.crop_size == {"height": 32, "width": 32}


def test_tower_may_lie_in_the_folder_of_a_whole_clip(original: Original, model: Any, logits: Logits) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

    folder = original(tower="apart")
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
    )
    vision = model.config.vision_config
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
    clip.vision_model.load_state_dict(model.model.vision_tower.state_dict())
    clip.save_pretrained(folder.parent / "clip-tiny")
    torch.testing.assert_close(logits(load(folder).model), logits(model), atol=1e-5, rtol=0)


def test_projector_may_lie_in_its_own_file(original: Original, model: Any, logits: Logits) -> None:
    loaded = load(original(projector="apart"))
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-5, rtol=0)
    assert "mm_projector.bin" in {file.name for file in loaded.weight_files}


def test_buffers_that_old_versions_wrote_are_ignored(original: Original) -> None:
    def edit(state: dict[str, torch.Tensor]) -> None:
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        state["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)

    load(original(edit=edit))


def test_image_token_gets_an_id_of_its_own_and_new_rows_never_win(original: Original, model: Any) -> None:
    loaded = load(original())
    rows, image = loaded.model.config.text_config.vocab_size, loaded.model.config.image_token_id
    assert loaded.tokenizer.convert_tokens_to_ids("<image>") == image == 97
    assert rows == loaded.geometry.vocab == 128
    assert loaded.model.lm_head.weight.shape[0] == rows
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(3))
    assert loaded.model.lm_head(hidden).argmax(-1).max() < 97


def test_processor_writes_one_image_token_per_visual_token(original: Original) -> None:
    from PIL import Image

    loaded = load(original())
    batch = loaded.processor(images=Image.new("RGB", (40, 32)), text="w5 <image> w6", return_tensors="pt")
    assert (batch["input_ids"] == loaded.model.config.image_token_id).sum() == loaded.geometry.visual_tokens == 16


def test_convert_round_trips(original: Original, model: Any, logits: Logits, tmp_path: Path) -> None:
    source = original(suffix="bin", tower="apart", projector="apart")
    folder = convert(source, tmp_path / "converted")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llava"
    loaded = load(folder)
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-5, rtol=0)
    assert loaded.tokenizer.convert_tokens_to_ids("<image>") == loaded.model.config.image_token_id
    assert loaded.geometry == peek(source).geometry == load(source).geometry


def test_convert_on_the_command_line_says_what_it_wrote(
    original: Original, model: Any, logits: Logits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evals import cli

    source, target = original(shards=2), tmp_path / "converted"
    assert cli.main(["convert", str(source), str(target)]) == cli.DONE
    assert f"written: {target} (" in capsys.readouterr().out
    torch.testing.assert_close(logits(load(target).model), logits(model), atol=1e-5, rtol=0)
    assert cli.main(["convert", str(source), str(target)]) == cli.USER
    assert "already there" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "nothing"), str(tmp_path / "new")]) == cli.USER


def test_convert_keeps_the_stored_type(original: Original, tmp_path: Path) -> None:
    def edit(state: dict[str, torch.Tensor]) -> None:
        state.update({name: value.to(torch.bfloat16) for name, value in state.items()})

    folder = convert(original(edit=edit, torch_dtype="bfloat16"), tmp_path / "converted")
    assert load(folder, dtype="auto").model.dtype == torch.bfloat16
    assert load(folder).model.dtype == torch.float32


def test_convert_writes_over_nothing(original: Original, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="there and not empty"):
        convert(original(), tmp_path / "there")
    folder = convert(tmp_path / "llava-v1.5-tiny", tmp_path / "new")
    with pytest.raises(UserError, match="nothing to convert"):
        convert(folder, tmp_path / "newer")


def _drop(state: dict[str, torch.Tensor]) -> None:
    del state["model.layers.1.mlp.up_proj.weight"]


def _add(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.9.mlp.up_proj.weight"] = torch.ones(2, 2)


def _bend(state: dict[str, torch.Tensor]) -> None:
    state["model.mm_projector.0.weight"] = torch.ones(3, 3)


def _shorten(state: dict[str, torch.Tensor]) -> None:
    state["lm_head.weight"] = state["lm_head.weight"][:90].clone()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_drop, r"missing tensors: model\.layers\.1\.mlp\.up_proj\.weight"),
        (_add, r"extra tensors: model\.layers\.9\.mlp\.up_proj\.weight"),
        (_bend, r"model\.mm_projector\.0\.weight is \(3, 3\), the config asks for \(32, 64\)"),
        (_shorten, r"lm_head\.weight is \(90, 32\), the config asks for \(97, 32\)"),
        (lambda state: state.pop("model.embed_tokens.weight"), "no language model"),
    ],
)
def test_wrong_tensors_are_named_as_the_checkpoint_names_them(original: Original, edit: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(original(edit=edit))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear' is not supported, only 'mlp2x_gelu'"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"model_type": "llava_mpt"}, "'llava_mpt' is not supported. Supported: LLaVA"),
    ],
)
def test_what_transformers_cannot_express_is_refused(original: Original, config: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        peek(original(**config))


def test_bin_that_would_run_code_is_refused(original: Original) -> None:
    folder = original(shards=1)
    torch.save({"model.norm.weight": _Surprise()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: broken, or holds more than tensors"):
        load(folder)
    assert not _Surprise.ran


class _Surprise:
    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (_Surprise, "ran", True))


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_truncated_weights_name_their_file(original: Original, suffix: str) -> None:
    folder = original(shards=1, suffix=suffix)
    file = next(folder.glob(f"*model.{suffix}"))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=file.name):
        load(folder)


def test_missing_shard_is_named(original: Original) -> None:
    folder = original(shards=3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(UserError, match=r"shards missing: pytorch_model-00002-of-00003\.bin"):
        load(folder)


def test_tower_in_the_hub_cache_without_weights_says_how_to_get_them(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any, logits: Logits
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = original(tower="apart", mm_vision_tower="someone/clip-hub")
    cached = tmp_path / "cache" / "models--someone--clip-hub"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    shutil.copytree(tmp_path / "clip-tiny", cached / "snapshots" / "abc")
    weights = cached / "snapshots" / "abc" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert peek(folder).geometry.visual_tokens == 16
    with pytest.raises(UserError, match="hf download someone/clip-hub"):
        load(folder)
    weights.write_bytes(content)
    torch.testing.assert_close(logits(load(folder).model), logits(model), atol=1e-5, rtol=0)


def test_missing_tower_says_how_to_get_it(original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = original(tower="lost", mm_vision_tower="openai/clip-vit-large-patch14-336")
    with pytest.raises(UserError, match="hf download openai/clip-vit-large-patch14-336"):
        load(folder)
    copied = original("copied", tower="lost", mm_vision_tower="/elsewhere/clip-vit-large-patch14-336")
    with pytest.raises(UserError, match="hf download openai/clip-vit-large-patch14-336"):
        peek(copied)


@pytest.mark.parametrize("counts", [[8, 2], "[8,2]", [16, 8, 2]])
def test_hidrop_schedule_is_read_from_the_config(original: Original, counts: Any) -> None:
    folder = original(
        model_type="llava_llama_exit_topk",
        num_hidden_layers=8,
        late_entry_layer=3,
        early_exit_layer=7,
        layer_list="[4,5]",
        image_token_keep_list=counts,
    )
    assert peek(folder).reducer == build("hidrop", {"inject": 3, "filters": [4, 5], "keep": [8, 2], "exit": 7})


def test_hidrop_checkpoint_without_a_schedule_leaves_it_to_the_matrix(original: Original) -> None:
    loaded = load(original(model_type="llava_llama_exit_topk"))
    assert loaded.reducer is None
    assert loaded.architecture == "llava_llama_exit_topk"


def test_pdrop_schedule_is_read_from_the_config_and_survives_conversion(original: Original, tmp_path: Path) -> None:
    folder = original(model_type="llava_llama_pdrop", layer_list=[1, 2], image_token_ratio_list=[1.0, 0.5, 0.25])
    expected = build("pdrop", {"layers": [1, 2], "ratios": [0.5, 0.25]})
    assert load(folder).reducer == peek(folder).reducer == expected
    assert peek(convert(folder, tmp_path / "converted")).reducer == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [([1, 99], "99"), ("[1,", "not a list"), (["x"], "not a list of numbers")],
)
def test_schedule_that_does_not_fit_the_decoder_is_a_user_error(original: Original, layers: Any, message: str) -> None:
    folder = original(model_type="llava_llama_pdrop", layer_list=layers, image_token_ratio_list=[0.5, 0.25])
    with pytest.raises(UserError, match=rf"config\.json: its token schedule: .*{message}"):
        peek(folder)
