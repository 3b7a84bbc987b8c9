"""Every family's checkpoints: loaded, saved, their images counted; and all that can be wrong with their files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hidrop.backbones import REFUSED, family_of
from hidrop.errors import UserError
from hidrop.models import Loaded, check, load, peek, save
from tests import tiny_checkpoints
from tests.edited_checkpoint import Edit, edited
from tests.hidrop.backbones.families import with_own

every_family = pytest.mark.parametrize("name", tiny_checkpoints.FAMILIES)
QUESTION = "What differs?"


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Loaded]:
    return {name: load(folder) for name, folder in folders.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a family's checkpoint with edited JSON files: `copy("gemma3", config=lambda c: c.update(...))`."""

    def make(name: str, **edits: Edit) -> Path:
        return edited(folders[name], tmp_path / name, edits)

    return make


def picture(height: int, width: int) -> Image.Image:
    noise = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))


def asked(processor: Any, sizes: list[tuple[int, int]]) -> Any:
    """The inputs of one question about pictures of these sizes (height, width)."""
    content = [*({"type": "image"} for _ in sizes), {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(images=[[picture(*size) for size in sizes]] if sizes else None, text=text, return_tensors="pt")


# ---- what holds -----------------------------------------------------------------------------------------------------


@every_family
def test_a_checkpoint_loads_with_its_weights_and_peek_says_what_load_says(
    name: str, folders: dict[str, Path], loaded: dict[str, Loaded]
) -> None:
    one, found = loaded[name], peek(folders[name])
    assert (found.geometry, found.architecture) == (one.geometry, one.architecture) == (one.backbone.geometry, name)
    wanted = tiny_checkpoints.make_model(name).state_dict()
    assert all(torch.equal(weight, wanted[key]) for key, weight in one.model.state_dict().items())
    assert one.processor.chat_template == one.tokenizer.chat_template


@every_family
@pytest.mark.parametrize("sizes", [[], [(56, 84)], [(100, 60), (33, 70)]], ids=["text", "one", "two"])
def test_a_loaded_processor_makes_what_transformers_own_makes(
    name: str, sizes: list[tuple[int, int]], loaded: dict[str, Loaded]
) -> None:
    made, wanted = asked(loaded[name].processor, sizes), asked(tiny_checkpoints.make_processor(name), sizes)
    assert made.keys() == wanted.keys()
    assert all(torch.equal(torch.as_tensor(made[key]), torch.as_tensor(wanted[key])) for key in wanted)


@every_family
def test_the_tokens_of_an_image_of_any_size_are_its_placeholders_and_the_towers(
    name: str, loaded: dict[str, Loaded]
) -> None:
    one, numbers = loaded[name], np.random.default_rng(7)
    sizes = [(1, 1), (1, 30), (30, 1), (32, 32), (33, 32), (48, 48), (14, 700), (700, 14), (199, 200)]
    sizes += [tuple(map(int, numbers.integers(8, 220, 2))) for _ in range(25)]  # type: ignore[misc]
    for size in sizes:
        inputs = asked(one.processor, [size])
        written = int((inputs["input_ids"] == one.backbone.placeholder_id).sum())
        vision = one.backbone.vision(inputs)
        assert vision is not None
        assert one.image_tokens(*size) == written == sum(vision.sizes), size


@every_family
def test_the_tokens_of_several_images_in_one_prompt_are_their_placeholders(
    name: str, loaded: dict[str, Loaded]
) -> None:
    one, numbers = loaded[name], np.random.default_rng(8)
    for count in (1, 2, 2, 3, 4):
        sizes = [tuple(map(int, numbers.integers(16, 150, 2))) for _ in range(count)]
        inputs = asked(one.processor, sizes)  # type: ignore[arg-type]
        written = int((inputs["input_ids"] == one.backbone.placeholder_id).sum())
        tokens = one.prompt_tokens(sizes)  # type: ignore[arg-type]
        vision = one.backbone.vision(inputs)
        assert vision is not None
        assert len(tokens) == count and sum(tokens) == written == sum(vision.sizes), sizes


@every_family
def test_a_saved_checkpoint_comes_back_the_same(name: str, loaded: dict[str, Loaded], tmp_path: Path) -> None:
    one = loaded[name]
    again = load(save(one.model, one.tokenizer, one.image_processor, tmp_path / "again"))
    assert again.geometry == one.geometry
    state = again.model.state_dict()
    assert all(torch.equal(weight, state[key]) for key, weight in one.model.state_dict().items())
    inputs, wanted = asked(again.processor, [(56, 84)]), asked(one.processor, [(56, 84)])
    assert all(torch.equal(torch.as_tensor(inputs[key]), torch.as_tensor(wanted[key])) for key in wanted)


@every_family
def test_a_folder_of_older_files_works_too(name: str, copy: Any, loaded: dict[str, Loaded]) -> None:
    """Checkpoints of transformers 4 have the image processor in a file of its own, and not always a processor's."""
    folder = copy(name)
    file = folder / "processor_config.json"
    stated = json.loads(file.read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(stated["image_processor"]))
    file.unlink()
    made, wanted = asked(load(folder).processor, [(56, 84)]), asked(loaded[name].processor, [(56, 84)])
    assert all(torch.equal(torch.as_tensor(made[key]), torch.as_tensor(wanted[key])) for key in wanted)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_the_flat_config_of_the_hub_is_the_same_model(name: str, copy: Any, loaded: dict[str, Loaded]) -> None:
    def flatten(config: dict[str, Any]) -> None:
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text |= {"rope_theta": rope["rope_theta"], "use_sliding_window": False, "sliding_window": 32768}
        text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        for key in ("model_type", "layer_types", "dtype"):
            text.pop(key, None)
        config.update({**text, **config})
        config["vision_config"]["in_chans"] = config["vision_config"].pop("in_channels")

    folder = copy(name, config=flatten)
    again = load(folder)
    assert again.geometry == loaded[name].geometry
    inputs = asked(again.processor, [(56, 84)])
    with torch.no_grad():
        assert torch.equal(again.model(**inputs).logits, loaded[name].model(**inputs).logits)


@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_a_tower_with_the_model_type_of_older_files_is_the_same_model(name: str, copy: Any, loaded: Any) -> None:
    """transformers 4 first wrote the family's own model type into vision_config."""
    folder = copy(name, config=lambda config: config["vision_config"].update(model_type=name))
    again, inputs = load(folder), asked(loaded[name].processor, [(56, 84)])
    with torch.no_grad():
        assert torch.equal(again.model(**inputs).logits, loaded[name].model(**inputs).logits)


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(folder)
    said = str(caught.value)
    assert str(folder) in said and len(said) < 2500 and said.replace("\n", "").isprintable()
    assert message in said


TEXT, VISION, ROPE = "text_config", "vision_config", "text_config.rope_parameters"


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("qwen2_5_vl", f"{TEXT}.num_hidden_layers", 2**31, "text_config.num_hidden_layers: input should be less"),
        ("qwen2_5_vl", f"{TEXT}.hidden_size", "64", "text_config.hidden_size: input should be a valid integer"),
        (
            "qwen2_5_vl",
            f"{ROPE}.mrope_section",
            [2, 3, 4],
            "mrope_section: [2, 3, 4] does not add up to half of a head",
        ),
        ("qwen2_5_vl", f"{ROPE}.mrope_section", [2, 3], "rope_parameters.mrope_section"),
        ("qwen2_5_vl", f"{ROPE}.mrope_section", [-2, 5, 5], "rope_parameters.mrope_section"),
        ("qwen2_5_vl", f"{ROPE}.rope_theta", -1.0, "rope_parameters.rope_theta"),
        ("qwen2_5_vl", f"{VISION}.depth", 0, "vision_config.depth: "),
        ("qwen2_5_vl", f"{VISION}.num_heads", 3, "hidden_size 32 is not a multiple of num_heads (3)"),
        ("qwen2_5_vl", f"{VISION}.num_heads", 16, "heads of 2 cannot be rotated"),
        ("qwen2_5_vl", f"{VISION}.out_hidden_size", 32, "out_hidden_size 32 is not the decoder's hidden_size (64)"),
        ("qwen2_5_vl", f"{VISION}.fullatt_block_indexes", [3], "fullatt_block_indexes: 3, but the tower has 3 blocks"),
        ("qwen2_5_vl", f"{VISION}.window_size", 14, "window_size: 14 pixels, less than a token's 28"),
        ("qwen2_5_vl", f"{VISION}.spatial_merge_size", 0, "vision_config.spatial_merge_size: "),
        ("qwen2_5_vl", f"{VISION}.patch_size", "14", "vision_config.patch_size: "),
        ("qwen2_5_vl", f"{VISION}.in_channels", 1, "vision_config.in_channels: "),
        ("qwen2_5_vl", f"{VISION}.tokens_per_second", 0, "vision_config.tokens_per_second: "),
        ("qwen2_5_vl", "image_token_id", 384, "image_token_id: 384, but there are 384 ids"),
        ("qwen2_5_vl", "image_token_id", 65, "image_token_id is 65 (the tokenizer's "),
        ("qwen2_5_vl", "video_token_id", 268, "video_token_id: 268, which is also image_token_id"),
        ("qwen2_5_vl", f"{TEXT}.layer_types", ["sliding_attention"] * 6, "is not supported"),
        ("qwen2_5_vl", f"{TEXT}.model_type", "mamba", "Qwen2.5-VL with a 'mamba' decoder is not supported"),
        ("qwen2_vl", f"{VISION}.embed_dim", 33, "embed_dim 33 is not a multiple of num_heads (2)"),
        ("qwen2_vl", f"{VISION}.hidden_size", 32, "hidden_size 32 is not the decoder's hidden_size (64)"),
        (
            "qwen3_vl",
            f"{VISION}.deepstack_visual_indexes",
            [1, 2, 5],
            "deepstack_visual_indexes: 5, but the tower",
        ),
        ("qwen3_vl", f"{VISION}.deepstack_visual_indexes", [1, 1, 2], "names a block twice"),
        ("qwen3_vl", f"{VISION}.deepstack_visual_indexes", [-1], "vision_config.deepstack_visual_indexes"),
        ("qwen3_vl", f"{VISION}.num_position_embeddings", 35, "num_position_embeddings: 35 is no square"),
        ("llava_onevision", "image_grid_pinpoints", [[8, 8]], "image_grid_pinpoints: none has room for a tile"),
        ("llava_onevision", "image_grid_pinpoints", [[32, 2**20]], "image_grid_pinpoints"),
        ("llava_onevision", "image_grid_pinpoints", [], "image_grid_pinpoints"),
        ("llava_onevision", "image_grid_pinpoints", [[32, 32], [64, 64]], "the image processor's image_grid_pinpoints"),
        ("llava_onevision", "vision_aspect_ratio", "pad", "vision_aspect_ratio: "),
        ("llava_onevision", "vision_feature_select_strategy", "default", "vision_feature_select_strategy: "),
        ("llava_onevision", "vision_feature_layer", -9, "vision_feature_layer: -9, but the tower has 2 layers"),
        ("llava_onevision", "video_token_index", 999, "video_token_index: 999, but there are 384 ids"),
        ("llava_onevision", f"{VISION}.patch_size", 40, "patch_size 40 is larger than image_size (32)"),
        ("internvl", f"{VISION}.image_size", [32, 64], "is no square of patches"),
        ("internvl", f"{VISION}.image_size", [32], "vision_config.image_size"),
        ("internvl", f"{VISION}.patch_size", [0, 0], "vision_config.patch_size"),
        ("internvl", "downsample_ratio", 0.3, "downsample_ratio: 0.3 makes 2.4 tokens of 8 patches"),
        ("internvl", "downsample_ratio", 0, "downsample_ratio: "),
        ("internvl", "vision_feature_select_strategy", "full", "vision_feature_select_strategy: "),
        ("internvl", "image_token_id", -1, "image_token_id: -1, but there are 384 ids"),
        ("internvl", f"{TEXT}.model_type", "qwen3_moe", "InternVL3 with a 'qwen3_moe' decoder is not supported"),
        ("smolvlm", "scale_factor", 3, "scale_factor: 8 patches on a side are not a multiple of 3"),
        ("smolvlm", "scale_factor", 0, "scale_factor: "),
        ("smolvlm", f"{VISION}.num_attention_heads", 3, "is not a multiple of num_attention_heads (3)"),
        ("gemma3", "mm_tokens_per_image", 15, "mm_tokens_per_image: 15 is no square"),
        ("gemma3", "mm_tokens_per_image", 9, "mm_tokens_per_image: 9 is no square whose side divides the 8 patches"),
        ("gemma3", f"{ROPE}.full_attention.rope_theta", 0, "rope_parameters.full_attention.rope_theta: "),
        ("gemma3", f"{ROPE}.sliding_attention.rope_theta", 1e-300, "not finite"),
        ("gemma3", f"{TEXT}.layer_types", ["full_attention"], "layer_types"),
        ("gemma3", f"{TEXT}.layer_types", ["chunked_attention"] * 6, "layer_types: chunked_attention is not supported"),
        ("gemma3", f"{TEXT}.final_logit_softcapping", 30.0, "text_config.final_logit_softcapping: "),
        ("gemma3", f"{TEXT}.sliding_window", 20, "tokens, but the model has only 20 positions"),
        ("gemma3", "image_token_index", 384, "image_token_index: 384, but there are 384 ids"),
        ("gemma3", "image_token_index", 263, "image_token_index is 263 (the tokenizer's '<start_of_image>')"),
    ],
)
def test_a_field_of_a_config_that_cannot_be_is_named(
    copy: Any, name: str, field: str, value: Any, message: str
) -> None:
    def edit(config: dict[str, Any]) -> None:
        *path, last = field.split(".")
        for key in path:
            config = config[key]
        config[last] = value

    refused(copy(name, config=edit), message)


def size(**changes: Any) -> Edit:
    return lambda file: file["image_processor"]["size"].update(changes)


def images(**changes: Any) -> Edit:
    return lambda file: file["image_processor"].update(changes)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("qwen2_5_vl", size(shortest_edge=10**9), "size.shortest_edge (min_pixels) is 1000000000 pixels"),
        ("qwen2_5_vl", size(longest_edge=3000), "min_pixels 3136 above max_pixels 3000"),
        ("qwen2_5_vl", size(longest_edge=500, shortest_edge=400), "max_pixels 500, less than a token's 784"),
        ("qwen2_5_vl", size(longest_edge="x"), "size.longest_edge (max_pixels) is 'x' pixels"),
        ("qwen2_5_vl", images(patch_size=16), "the image processor's patch_size is 16, but the vision tower's is 14"),
        ("qwen2_5_vl", images(merge_size=1), "the image processor's merge_size is 1, but the vision tower's is 2"),
        ("qwen2_5_vl", images(temporal_patch_size=1), "temporal_patch_size is 1, but the vision tower's is 2"),
        ("qwen2_5_vl", images(image_std=[1e9] * 3), "makes the same pixels of every image"),
        ("qwen2_5_vl", images(image_std=[0] * 3), "are not finite"),
        ("qwen2_5_vl", images(image_processor_type="CLIPImageProcessor"), "but Qwen2.5-VL takes a Qwen2"),
        ("qwen2_5_vl", images(image_processor_type=3), "image_processor_type is 3"),
        ("qwen3_vl", images(do_resize=False), "image processor cannot be used"),
        ("llava_onevision", images(image_grid_pinpoints=[[32, 32]]), "the image processor's image_grid_pinpoints"),
        ("llava_onevision", images(image_grid_pinpoints=[3, None]), "the image processor cannot be used"),
        ("llava_onevision", images(size={"height": 64, "width": 64}), "makes images of 3 x 64 x 64"),
        ("llava_onevision", lambda file: file.update(num_image_tokens=36), "placeholders for an image that has"),
        ("llava_onevision", lambda file: file.update(vision_aspect_ratio="anyres_max_1"), "placeholders for an image"),
        ("internvl", images(max_patches=0), "min_patches 1, max_patches 0 are no range"),
        ("internvl", images(size={"height": 64, "width": 64}), "makes images of 3 x 64 x 64"),
        ("internvl", lambda file: file.update(image_seq_length=15), "placeholders for an image that has 48 visual"),
        ("internvl", lambda file: file.update(image_seq_length="x"), "the processor cannot be used"),
        ("smolvlm", images(max_image_size={"longest_edge": 64}), "makes images of 3 x 64 x 64"),
        ("smolvlm", images(max_image_size={"longest_edge": 10**9}), "max_image_size is 1000000000 pixels"),
        ("smolvlm", lambda file: file.update(image_seq_len=17), "placeholders for an image that has"),
        ("gemma3", images(do_pan_and_scan=True), "do_pan_and_scan"),
        ("gemma3", images(size={"height": 64, "width": 64}), "makes images of 3 x 64 x 64"),
        ("gemma3", lambda file: file.update(image_seq_length=64), "64 placeholders for an image that has 16"),
        ("gemma3", lambda file: file.update(image_processor=[3]), "image_processor is [3], not an object"),
    ],
)
def test_a_processor_of_another_model_is_refused_with_both_values(
    copy: Any, name: str, edit: Edit, message: str
) -> None:
    refused(copy(name, processor_config=edit), message)


@every_family
def test_a_checkpoint_without_a_tokenizer_or_an_image_processor_is_refused(name: str, copy: Any) -> None:
    folder = copy(name)
    (folder / "processor_config.json").unlink()
    refused(folder, "tokenizer or image processor cannot be loaded")
    shutil.rmtree(folder)
    folder = copy(name)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    refused(folder, f"{folder}: ")


@every_family
def test_a_tokenizer_that_knows_no_placeholder_is_refused(name: str, copy: Any, loaded: dict[str, Loaded]) -> None:
    placeholder = loaded[name].tokenizer.convert_ids_to_tokens(loaded[name].backbone.placeholder_id)

    def rename(tokenizer: dict[str, Any]) -> None:
        for added in tokenizer["added_tokens"]:
            added["content"] = added["content"].replace(placeholder, "<picture>")
        vocab = tokenizer["model"]["vocab"]
        vocab["<picture>"] = vocab.pop(placeholder)

    refused(copy(name, tokenizer=rename), "")


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_family_that_was_looked_at_is_refused_with_the_reason(model_type: str) -> None:
    with pytest.raises(UserError) as caught:
        family_of({"model_type": model_type}, "config.json")
    assert f"architecture '{model_type}' is not supported: {REFUSED[model_type]}" in str(caught.value)


def test_geometry_is_the_decoders(loaded: dict[str, Loaded]) -> None:
    for one in loaded.values():
        found = dataclasses.asdict(one.geometry)
        assert (found["layers"], found["hidden"], found["kv_heads"]) == (tiny_checkpoints.LAYERS, 64, 2)


# ---- pixels ---------------------------------------------------------------------------------------------------------

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.mark.parametrize("name", QWEN)
def test_limits_of_pixels_decide_the_tokens_of_images(name: str, folders: dict[str, Path]) -> None:
    unit = 28**2 if name != "qwen3_vl" else 32**2
    one = load(folders[name], min_pixels=10 * unit, max_pixels=20 * unit)
    for size in ((20, 20), (56, 84), (400, 300), (30, 500)):
        tokens = one.image_tokens(*size)
        assert 10 <= tokens <= 20
        assert tokens == int((asked(one.processor, [size])["input_ids"] == one.backbone.placeholder_id).sum())
    fixed = load(folders[name], resolution="fixed", reference_tokens=400)
    assert all(360 <= fixed.image_tokens(*size) <= 440 for size in ((56, 56), (300, 300), (300, 400), (2000, 1500)))
    assert fixed.geometry.visual_tokens == 400 and fixed.geometry.referenced
    only = load(folders[name], max_pixels=2 * unit)  # the checkpoint's own minimum, 4 tokens, gives way
    assert only.image_tokens(300, 300) <= 2


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_pixels": 9000, "max_pixels": 8000}, "min_pixels: 9000 is above max_pixels (8000)"),
        ({"min_pixels": 0}, "min_pixels: 0 is not a number of pixels"),
        ({"max_pixels": 2**40}, "max_pixels: 1099511627776 is not a number of pixels from 1"),
        ({"max_pixels": "x"}, "max_pixels: 'x' is not a number of pixels"),
        ({"max_pixels": 500}, "max_pixels: 500 is less than the 784 pixels of one visual token"),
        ({"max_pixels": 4096 * 784}, "may have 4096 visual tokens, but the model has only 4096 positions"),
        ({"min_pixels": 5000 * 784}, "min_pixels: an image may have 5000 visual tokens, but the model has only 4096"),
        ({"resolution": "fixed"}, "resolution: fixed needs reference_tokens"),
        ({"resolution": "fixed", "reference_tokens": 9, "min_pixels": 1}, "min_pixels: leave it out with resolution"),
        ({"resolution": "fixed", "reference_tokens": 4096}, "reference_tokens: an image may have 4096 visual tokens"),
        ({"resolution": "dynamic"}, "resolution: unknown value 'dynamic'. Known: fixed"),
    ],
)
def test_limits_that_cannot_be_are_told(limits: dict[str, Any], message: str, folders: dict[str, Path]) -> None:
    with pytest.raises(UserError) as caught:
        load(folders["qwen2_5_vl"], **limits)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", [name for name in tiny_checkpoints.FAMILIES if name not in with_own("limit_pixels")])
@pytest.mark.parametrize(
    "limits", [{"min_pixels": 9000}, {"max_pixels": 9000}, {"resolution": "fixed", "reference_tokens": 16}]
)
def test_families_without_limits_of_pixels_say_so(name: str, limits: dict[str, Any], folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(limits))}: .* has no limits of pixels"):
        load(folders[name], **limits)


def test_llavas_have_no_limits_of_pixels(original: Any) -> None:
    for source in ("mini:vanilla", original()):
        with pytest.raises(UserError, match="max_pixels: LLaVA has no limits of pixels"):
            load(source, max_pixels=9000)


def test_a_tile_cutter_that_is_off_in_its_own_file_is_on_in_the_processor(copy: Any) -> None:
    """As in InternVL's checkpoints: the processor has images cut whatever the image processor's file says."""
    folder = copy("internvl", processor_config=lambda file: file["image_processor"].update(crop_to_patches=False))
    one = load(folder)
    assert one.image_tokens(56, 84) == 5 * 16
    assert int((asked(one.processor, [(56, 84)])["input_ids"] == one.backbone.placeholder_id).sum()) == 5 * 16
