"""Videos as inputs of each family, against values by hand and transformers' own towers and processors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evals.tasks.protocol import Prepared, protocol, whole
from hidrop.backbones import backbone_of
from hidrop.backbones.asking import NATIVE
from hidrop.backbones.filming import paired, squares
from hidrop.backbones.pixel_limits import NO_LIMITS, PixelLimits
from hidrop.errors import UserError
from hidrop.runtime import reduce
from hidrop.videos import Video
from tests import tiny_checkpoints

QUESTION = "What moves?"
FILMED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "gemma3")
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SMALL = {name: PixelLimits(most=4 * side**2) for name, side in zip(QWEN, (28, 28, 32), strict=True)}


@cache
def parts(name: str) -> tuple[Any, Any]:
    return backbone_of(tiny_checkpoints.make_model(name)), tiny_checkpoints.make_processor(name)


def picture(seed: int, size: tuple[int, int] = (56, 56)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def film(frames: int = 4, size: tuple[int, int] = (56, 56), rate: float = 4.0) -> Video:
    """Frames 0, 3, 6, ... of a video at `rate` a second."""
    places = tuple(range(0, 3 * frames, 3))
    return Video(tuple(picture(place, size) for place in places), places, 3 * frames, rate)


def asked(name: str, videos: list[Video], images: list[Image.Image] | None = None) -> Prepared:
    backbone, processor = parts(name)
    return whole(backbone, processor, NATIVE, QUESTION, images or [], videos=videos, limits=SMALL.get(name, NO_LIMITS))


def text_of(name: str, prepared: Prepared) -> str:
    return parts(name)[1].tokenizer.decode(prepared.ids)


# ---- which pixels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QWEN)
def test_two_frames_that_are_equal_are_one_image(name: str) -> None:
    """The image processor repeats an image through time, so such a pair has its very patches."""
    _, processor = parts(name)
    side = processor.image_processor.patch_size
    for frame in (picture(1, (8 * side, 4 * side)), picture(2, (2 * side, 6 * side))):
        pixels, grid = paired([frame, frame], processor.image_processor)
        image = processor.image_processor(images=[frame], do_resize=False, return_tensors="pt")
        assert torch.equal(pixels, image["pixel_values"]) and torch.equal(grid, image["image_grid_thw"])


@pytest.mark.parametrize("name", QWEN)
def test_each_frame_is_at_its_place_in_time(name: str) -> None:
    """A patch is colours x time x rows x columns: transformers' Conv3d and its video processor have this order."""
    _, processor = parts(name)
    side = processor.image_processor.patch_size
    greys = [Image.new("RGB", (2 * side, 2 * side), (grey,) * 3) for grey in (10, 20, 30, 40)]
    pixels, grid = paired(greys, processor.image_processor)
    assert grid.tolist() == [[2, 2, 2]]
    mean = torch.tensor(processor.image_processor.image_mean)
    deviation = torch.tensor(processor.image_processor.image_std)
    found = pixels.view(2, 4, 3, 2, side * side) * deviation[:, None, None] + mean[:, None, None]
    wanted = torch.tensor([[10, 20], [30, 40]]) / 255
    assert torch.allclose(found, wanted[:, None, None, :, None].expand_as(found), atol=1e-5)


def test_frames_of_one_square_are_what_the_image_processor_makes_of_a_whole_image() -> None:
    """LLaVA-OneVision's first tile, and InternVL's image without tiles, are the whole image at the tower's size."""
    frames = [picture(1, (70, 40)), picture(2, (70, 40))]
    one = parts("llava_onevision")[1].image_processor
    whole_images = one(images=[[frame] for frame in frames], return_tensors="pt")["pixel_values"][:, 0]
    assert torch.allclose(squares(frames, one), whole_images, atol=1e-6)
    two = parts("internvl")[1].image_processor
    tiles = two(images=frames, crop_to_patches=False, return_tensors="pt")["pixel_values"]
    assert torch.allclose(squares(frames, two), tiles, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "frames", "size", "limits", "wanted"),
    [
        # 768 tokens a frame at most: 1080 x 1920 shrinks to 20 x 36 tokens, of 28 or 32 pixels.
        ("qwen2_5_vl", 4, (1920, 1080), NO_LIMITS, (1008, 560)),
        ("qwen3_vl", 4, (1920, 1080), NO_LIMITS, (1152, 640)),
        # 128 tokens a frame at least: 8 x 16 tokens.
        ("qwen2_5_vl", 4, (128, 64), NO_LIMITS, (448, 224)),
        # 115,200 tokens for 768 frames, of which two share theirs: 300 tokens a frame.
        ("qwen2_5_vl", 768, (1920, 1080), NO_LIMITS, (644, 336)),
        # A user's limits.
        ("qwen2_5_vl", 4, (1920, 1080), PixelLimits(most=100 * 28**2), (364, 196)),
        ("qwen3_vl", 4, (64, 64), PixelLimits(least=16 * 32**2), (128, 128)),
    ],
)
def test_the_size_of_a_frame_by_hand(
    name: str, frames: int, size: tuple[int, int], limits: PixelLimits, wanted: tuple[int, int]
) -> None:
    backbone, _ = parts(name)
    assert backbone.frame_resizing(frames, NATIVE, limits)(Image.new("RGB", size)).size == wanted


# ---- which text ------------------------------------------------------------------------------------------------------


def test_qwen2_5_has_one_run_of_placeholders_and_the_seconds_of_a_step() -> None:
    prepared = asked("qwen2_5_vl", [film()])
    start, pad, end = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"
    assert f"{start}{pad * 8}{end}{QUESTION}" in text_of("qwen2_5_vl", prepared)
    assert prepared.inputs is not None and prepared.visual_tokens == 8 and prepared.videos == (4,)
    assert prepared.inputs["video_grid_thw"].tolist() == [[2, 4, 4]]
    # 4 of 12 frames at 4 a second are 1.333 a second; a step is two of them.
    assert prepared.inputs["second_per_grid_ts"].tolist() == [1.5]


def test_qwen3_writes_the_mean_seconds_of_each_step_before_it() -> None:
    """Frames 0, 3, 6, 9 at 4 a second: 0 s, 0.75 s, 1.5 s, 2.25 s. The template's own marks stay around all."""
    pads = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    text = text_of("qwen3_vl", asked("qwen3_vl", [film()]))
    assert f"<|vision_start|><0.4 seconds>{pads}<1.9 seconds>{pads}<|vision_end|>{QUESTION}" in text


def test_internvl_numbers_its_frames() -> None:
    prepared = asked("internvl", [film(2)])
    count = prepared.visual_tokens // 2
    inside = f"<img>{'<IMG_CONTEXT>' * count}</img>"
    assert f"Frame1: {inside}\nFrame2: {inside}\n{QUESTION}" in text_of("internvl", prepared)
    assert prepared.inputs is not None and len(prepared.inputs["pixel_values"]) == 2


def test_onevision_pools_its_frames_and_ends_with_a_line_end() -> None:
    """5 x 5 tokens a frame become 3 x 3."""
    prepared = asked("llava_onevision", [film(4)])
    assert prepared.visual_tokens == 4 * 9 + 1
    assert prepared.inputs is not None and prepared.inputs["pixel_values_videos"].shape == (1, 4, 3, 32, 32)


def test_gemma_sees_frames_as_images() -> None:
    video = film(2)
    prepared = asked("gemma3", [video])
    images = whole(*parts("gemma3"), NATIVE, QUESTION, video.frames)
    assert prepared.ids == images.ids and prepared.videos == (2,)
    assert prepared.inputs is not None and images.inputs is not None
    assert torch.equal(prepared.inputs["pixel_values"], images.inputs["pixel_values"])


# ---- what the model makes of it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILMED)
@pytest.mark.parametrize("frames", (2, 4))
def test_the_tower_makes_as_many_features_as_there_are_placeholders(name: str, frames: int) -> None:
    backbone, _ = parts(name)
    prepared = asked(name, [film(frames), film(frames)] if name != "gemma3" else [film(frames)])
    vision = backbone.vision(prepared.inputs or {})
    assert vision is not None and sum(vision.sizes) == prepared.visual_tokens
    with torch.no_grad():
        assert sum(len(one) for one in backbone.features(vision)) == prepared.visual_tokens


@pytest.mark.parametrize("name", [name for name in FILMED if name not in ("internvl", "gemma3")])
def test_an_image_and_a_video_in_one_prompt(name: str) -> None:
    backbone, _ = parts(name)
    prepared = asked(name, [film(2)], [picture(5)])
    vision = backbone.vision(prepared.inputs or {})
    assert vision is not None and sum(vision.sizes) == prepared.visual_tokens
    assert prepared.images == 1 and prepared.videos == (2,)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("internvl", "gemma3"))
def test_an_image_and_a_video_with_the_same_placeholder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="an image and a video in one prompt: .* same placeholder for both"):
        asked(name, [film(2)], [picture(5)])


@pytest.mark.parametrize("name", ("qwen2_5_vl", "llava_onevision", "internvl"))
def test_a_question_with_a_videos_mark_is_refused(name: str) -> None:
    backbone, processor = parts(name)
    with pytest.raises(ValueError, match="the question itself contains"):
        whole(backbone, processor, NATIVE, f"What is {processor.video_token}?", [], videos=[film(2)])


def test_a_template_without_videos_is_refused() -> None:
    backbone, _ = parts("qwen2_5_vl")
    processor = tiny_checkpoints.make_processor("qwen2_5_vl")
    processor.chat_template = processor.chat_template.replace("'video'", "'film'")
    with pytest.raises(UserError, match=r"the chat template writes 0 <\|video_pad\|> for 1 videos"):
        whole(backbone, processor, NATIVE, QUESTION, [], videos=[film(2)])


def test_families_without_videos_are_refused_in_words() -> None:
    for name in ("smolvlm",):
        with pytest.raises(UserError, match="SmolVLM: videos are not supported for this family"):
            protocol("native").sampling(parts(name)[0])


def test_a_frame_that_is_too_long_is_one_line() -> None:
    with pytest.raises(ValueError, match="more than 200 times as long as wide"):
        asked("qwen2_5_vl", [film(2, (402, 2))])


def test_downsample_has_no_rule_for_videos() -> None:
    def smaller(rows: int, columns: int) -> tuple[int, int]:
        return rows, columns

    with pytest.raises(
        UserError, match="downsample: makes images smaller before the model, and has no rule for videos"
    ):
        whole(*parts("qwen2_5_vl"), NATIVE, QUESTION, [], smaller, videos=[film(2)])


# ---- prompts by hand -------------------------------------------------------------------------------------------------


def given(name: str, ids: list[int], prepared: Prepared) -> dict[str, torch.Tensor]:
    """The arguments of the model's forward."""
    backbone, _ = parts(name)
    rows = torch.tensor([ids])
    inputs = {"input_ids": rows, "attention_mask": torch.ones_like(rows), **(prepared.inputs or {})}
    return {**inputs, "mm_token_type_ids": backbone.kinds(rows)} if name in QWEN else inputs


def with_video_first(name: str, prepared: Prepared) -> list[int]:
    """The ids of a prompt with its video's placeholders, and what is around them, before those of its image."""
    backbone, processor = parts(name)
    text = processor.tokenizer.decode(prepared.ids)
    image = processor.image_token * prepared.ids.count(backbone.model.config.image_token_id)
    video = "<video>" * prepared.ids.count(backbone.model.config.video_token_id)
    if name == "qwen3_vl":
        image = f"<|vision_start|>{image}<|vision_end|>"
        start = text.index("<|vision_start|><0.")
        video = text[start : text.index(QUESTION)]
    assert image in text and video in text
    before, after = text.split(image)
    return processor.tokenizer(before + after.replace(video, video + image)).input_ids


@pytest.mark.parametrize("name", ("qwen3_vl", "llava_onevision"))
def test_a_video_before_an_image_is_what_transformers_makes_of_it(name: str) -> None:
    backbone, _ = parts(name)
    prepared = asked(name, [film(4)], [picture(5)])
    inputs = given(name, with_video_first(name, prepared), prepared)
    model = backbone.model.eval()
    with torch.no_grad():
        wanted = model(**inputs).logits
        with reduce(model, "vanilla"):
            found = model(**inputs).logits
        other = model(**given(name, prepared.ids, prepared)).logits
    assert torch.allclose(found, wanted, atol=2e-5)
    assert not torch.allclose(other[:, -1], wanted[:, -1], atol=1e-2)  # the order matters


@pytest.mark.parametrize("name", ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"))
def test_a_prompt_that_was_cut_inside_a_video_is_one_line(name: str) -> None:
    backbone, _ = parts(name)
    prepared = asked(name, [film(4)])
    last = max(place for place, kind in enumerate(backbone.kinds(torch.tensor([prepared.ids]))[0].tolist()) if kind)
    with reduce(backbone.model, "vanilla"), pytest.raises(ValueError) as error, torch.no_grad():
        backbone.model(**given(name, prepared.ids[:last], prepared))
    assert "\n" not in str(error.value) and "placeholder" in str(error.value)
