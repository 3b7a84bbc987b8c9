"""`bench` on a checkpoint of every family, and on models of known sizes with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evals import cli
from evals.bench import inference as bench
from evals.bench.document import BENCH
from evals.bench.inference import Asked
from evals.bench.models import referenced, sized
from evals.profiling import ceilings as ceilings_module
from evals.profiling.architectures import ARCHITECTURES, Architecture
from evals.profiling.point import Point
from evals.profiling.prompt import build_request, named_ids
from evals.profiling.random_model import build
from evals.profiling.vision import RecordedFeatures
from hidrop.backbones import BACKBONES, backbone_class, backbone_of
from hidrop.errors import UserError
from hidrop.geometry import PRESETS
from hidrop.hidrop import HiDrop
from hidrop.methods import build as build_method
from hidrop.runtime import reduce
from tests.hidrop.backbones.families import FAMILIES, model_of
from tests.tiny_checkpoints import FAMILIES as CHECKPOINTS
from tests.tiny_checkpoints import make_model, write

POINT = Point(batch=2, text_tokens=9, new_tokens=2, repeats=1, warmup=0)
OTHERS = [name for name in CHECKPOINTS if name in BACKBONES]


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings_module, "COPY_BYTES", {"cpu": 1 << 12})
    monkeypatch.setattr(ceilings_module, "MATRIX", {"cpu": 16})
    monkeypatch.setattr(ceilings_module, "SECONDS", 0.0)


@pytest.mark.parametrize("family", OTHERS)
def test_a_checkpoint_of_every_family_is_timed(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if family.startswith("qwen"):
        monkeypatch.setattr(backbone_class(family), "nominal_tokens", 60)  # of the image, for speed
    folder = write(family, tmp_path / family)
    command = (
        f"bench --model {folder} --methods pdrop,fastv,text_only --budget 50% --text 12 --images 2 --new 9 --steps 2"
    )
    assert cli.main([*command.split(), *f"--repeats 1 --warmup 0 --json --out {tmp_path / 'out'}".split()]) == 0
    printed = capsys.readouterr()
    (path,) = (tmp_path / "out").glob("*.json")
    document = BENCH.read(path)
    assert json.loads(printed.out) == document and "tower ms" in printed.err
    vanilla, pdrop, fastv, text_only = document["rows"]
    tokens = vanilla["entering"][0]
    assert tokens == 2 * backbone_of(make_model(family)).pixel_tokens
    assert vanilla["entering"] == [tokens] * 6 and text_only["entering"] == [0] * 6
    assert fastv["entering"][-1] < tokens and pdrop["entering"] == sorted(pdrop["entering"], reverse=True)
    for row in document["rows"]:
        assert row["kv_bytes"] == row["kv_bytes_planned"] and row["prefill_source"] == "features"
        assert row["vision_share"] == pytest.approx(row["vision_ms"]["p50"] / row["ttft_ms"]["p50"])
    for row in (pdrop, fastv):
        assert row["average_tokens"] == pytest.approx(0.5 * tokens, abs=max(1.5, 0.03 * tokens))
        assert row["ideal_speed_up"]["layerwise"] is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_outside_of_the_layers_is_the_way_from_embeddings_to_logits(family: str) -> None:
    model = model_of(family)
    decoder, layers = backbone_of(model).decoder, backbone_of(model).decoder.layers
    with torch.inference_mode():
        prompt = build_request(model, backbone_of(model).geometry, POINT)
        found = bench.without_layers(model, bench.plain_prefill(model, prompt))()
        embedded = model.get_input_embeddings()(prompt.input_ids_BS[:, -1:])
        wanted = model.lm_head(decoder.norm(embedded))
    assert decoder.layers is layers and len(layers) > 0
    assert torch.equal(found.logits, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_own_forward_is_timed_on_the_same_prompt(family: str) -> None:
    """Its logits are those of the unreduced runtime: same positions, same masks, and features from before."""
    model = model_of(family)
    prompt = build_request(model, backbone_of(model).geometry, POINT)
    with torch.inference_mode():
        theirs = bench.plain_prefill(model, prompt)
        with reduce(model, build_method("vanilla"), features=RecordedFeatures()):
            ours = model(**prompt.prefill_inputs()).logits
        torch.testing.assert_close(theirs().logits, ours, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_word_of_the_prompt_is_a_special_token(family: str) -> None:
    model = model_of(family)
    point = Point(text_tokens=400, new_tokens=400)
    prompt = build_request(model, backbone_of(model).geometry, point)
    kinds = backbone_of(model).kinds(prompt.input_ids_BS)
    special = torch.tensor(sorted(named_ids(model.config.to_dict())))
    assert (kinds > 0).sum() == prompt.visual_tokens
    assert not torch.isin(prompt.input_ids_BS[kinds == 0], special).any()
    assert not torch.isin(prompt.continuation_BN, special).any()


def test_layers_that_differ_are_timed_as_they_are_used() -> None:
    """Gemma's layers: each with the RoPE of its kind, and an image whose tokens see each other both ways."""
    model, seen = make_model("gemma3"), list[dict[str, Any]]()
    for layer in model.model.language_model.layers:
        layer.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    with torch.inference_mode():
        bench.timed_layers(model, text=5, visual=4, batch=1)()
        model(input_ids=torch.arange(40, 49)[None])
    for timed, own in zip(seen[:6], seen[6:], strict=True):
        for ours, theirs in zip(timed["position_embeddings"], own["position_embeddings"], strict=True):
            assert torch.equal(ours, theirs)
    there = seen[0]["attention_mask"][0, 0]
    allowed = there if there.dtype == torch.bool else there >= 0
    wanted = torch.ones(9, 9).tril().bool()
    wanted[2:6, 2:6] = True
    assert torch.equal(allowed, wanted)


# ---- known sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", OTHERS)
def test_a_model_of_given_sizes_is_built_and_timed(family: str) -> None:
    stated = CHECKPOINTS[family]().config
    text = {
        key: stated["text_config"][key] for key in ("model_type", "rope_parameters") if key in stated["text_config"]
    }
    top = {key: stated[key] for key in stated if key.startswith(("scale", "downsample", "mm_tokens", "image_grid"))}
    if family == "gemma3":
        text = dict(sliding_window=512, query_pre_attn_scalar=16)
    if family == "qwen3_vl":
        stated["text_config"]["head_dim"] = 32
    reference = replace(backbone_of(make_model(family)).geometry, intermediate=32)
    sizes = replace(reference, visual_tokens=16 if family == "gemma3" else 48)
    vision = {"model_type": "siglip_vision_model", **stated["vision_config"]} if "siglip" in str(stated) else None
    parts = Architecture(family, vision or stated["vision_config"], text, top)
    loaded = build(sizes, parts, dtype=torch.float32, device=torch.device("cpu"))
    assert loaded.geometry == referenced(sizes)
    methods = {"vanilla": build_method("vanilla"), "hidrop": HiDrop(2, (2,), (loaded.geometry.visual_tokens // 3,), 4)}
    found = bench.bench_point(loaded, {label: Asked(method) for label, method in methods.items()}, POINT)
    assert [row["entering"][1] > row["entering"][2] for row in found.rows] == [False, True]
    assert all(row["kv_bytes"] == row["kv_bytes_planned"] for row in found.rows)


def test_an_image_with_the_reference_tokens_is_timed() -> None:
    """Qwen's with exactly as many where they make a rectangle; LLaVA-OneVision's in no more tiles than needed."""
    for name, tokens, tiles in (
        ("qwen2-vl-7b", 1280, None), ("qwen2.5-vl-7b", 1296, None), ("qwen3-vl-8b", 1024, None),
        ("llava-onevision-7b", 729 + 81 * 82, 10), ("internvl3-8b", 3328, 13), ("smolvlm-2.2b", 1377, 17),
        ("gemma3-4b", 256, None),
    ):  # fmt: skip
        config = ARCHITECTURES[name].config(PRESETS[name])
        backbone = backbone_class(config.model_type).of_config(config)  # type: ignore[union-attr]
        assert backbone.counting(PRESETS[name].visual_tokens).pixel_tokens == tokens
        assert tiles is None or backbone.pixel_shape[0] == tiles


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen2.5-vl-7b", 8.29), ("qwen3-vl-8b", 8.77), ("gemma3-4b", 4.30), ("smolvlm-2.2b", 2.25)],
)
def test_parameters_add_up_to_what_model_cards_state(name: str, billions: float) -> None:
    import transformers

    config = ARCHITECTURES[name].config(PRESETS[name])
    with torch.device("meta"):
        model = getattr(transformers, backbone_class(config.model_type).model_class)(config)  # type: ignore[union-attr]
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_preset_is_sized_with_its_image_as_the_reference(name: str) -> None:
    config = ARCHITECTURES[name].config(PRESETS[name])
    assert sized(name) == (name, replace(PRESETS[name], referenced=True))
    assert backbone_class(config.model_type).of_config(config).geometry.layers == PRESETS[name].layers  # type: ignore[union-attr]
    with pytest.raises(UserError, match=f"--geometry {name}: unknown"):
        sized(name, llava=True)  # training is LLaVA's


def test_a_preset_whose_tower_is_not_known_is_refused() -> None:
    with pytest.raises(UserError, match=r"--geometry qwen2.5-vl-32b: unknown\..* Known: .*qwen2.5-vl-7b"):
        sized("qwen2.5-vl-32b")


def test_sizes_that_a_family_cannot_have_are_refused() -> None:
    wrong = replace(PRESETS["qwen3-vl-8b"], hidden=2048)
    with pytest.raises(ValueError, match="out_hidden_size 4096 is not the decoder's hidden_size"):
        ARCHITECTURES["qwen3-vl-8b"].config(wrong)
    with pytest.raises(ValueError, match="Qwen3-VL reads .*rope_axes=3.* and not .*rope_axes=1"):
        ARCHITECTURES["qwen3-vl-8b"].config(replace(PRESETS["qwen3-vl-8b"], rope_axes=1))
