"""The table of families: of each a small random float32 model, and inputs as the family's own processor makes them.

A new family is a row in FAMILIES; models.py has the models of all families but LLaVA's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from hidrop.backbones import Backbone, backbone_of
from hidrop.testing.tiny.llava import IMAGE as LLAVA_IMAGE
from hidrop.testing.tiny.llava import make_llava, make_llava_next
from hidrop.testing.tiny.models import make_model, make_processor

Size = tuple[int, int]


@dataclass(frozen=True)
class Family:
    """A family's row.

    `sizes`: heights and widths of images, with the visual tokens that they have alone in a prompt. `videos`: of each
    video its frames, rows and columns of visual tokens. `exact`: whether transformers' own positions of videos are
    right, so that its forward is a reference without positions from the test. For Qwen2.5-VL 5.17 rounds down a video's
    seconds, and 5.24 still gives the text after a video numbers that its later frames have.
    """

    make: Callable[..., Any]
    sizes: dict[Size, int]
    videos: tuple[tuple[int, int, int], ...] = ()
    exact: bool = True


FAMILIES: dict[str, Family] = {
    # 32 x 32 pixels in patches of 8, whatever the image.
    "llava": Family(lambda **more: make_llava(kv_heads=2, **more), {(32, 32): 16, (20, 90): 16}),
    # The whole image (16), then the patches of its tiles that are no padding, and a line end for each row of them.
    "llava_next": Family(make_llava_next, {(64, 64): 16 + 8 * 9, (40, 64): 16 + 6 * 9, (32, 32): 16 + 4 * 5}),
    # 25 tokens a tile; 150 x 150 pixels are 5 x 5 tiles, scaled down to 14 x 14 tokens (at most 9 tiles).
    "llava_onevision": Family(
        functools.partial(make_model, "llava_onevision"),
        {(30, 60): 25 + 5 * 11, (150, 150): 25 + 14 * 15, (32, 32): 25 + 5 * 6},
        videos=((3, 3, 3),),
    ),
    # 16 tokens a tile, and the whole image where there is more than one tile.
    "internvl": Family(functools.partial(make_model, "internvl"), {(32, 64): 3 * 16, (60, 60): 5 * 16, (30, 30): 16}),
    # The longer side becomes 96 pixels, in tiles of 32, and the whole image.
    "smolvlm": Family(functools.partial(make_model, "smolvlm"), {(40, 100): 7 * 16, (90, 90): 10 * 16}),
    # As SmolVLM; the second image is one row of tiles.
    "idefics3": Family(functools.partial(make_model, "idefics3"), {(40, 100): 7 * 16, (30, 96): 4 * 16}),
    # 28 x 28 pixels a token; 4 to 64 tokens.
    "qwen2_vl": Family(
        functools.partial(make_model, "qwen2_vl"),
        {(84, 112): 12, (140, 56): 10, (28, 500): 18},
        videos=((3, 2, 4),),
    ),
    "qwen2_5_vl": Family(
        functools.partial(make_model, "qwen2_5_vl"),
        {(84, 112): 12, (140, 56): 10, (28, 500): 18},
        videos=((3, 2, 4),),
        exact=False,
    ),
    # 32 x 32 pixels a token.
    "qwen3_vl": Family(
        functools.partial(make_model, "qwen3_vl"), {(96, 128): 12, (160, 64): 10, (32, 512): 16}, videos=((3, 2, 4),)
    ),
    "gemma3": Family(functools.partial(make_model, "gemma3"), {(60, 30): 16, (32, 32): 16}),
}


@functools.cache
def model_of(name: str) -> Any:
    """The family's model, shared by tests that leave it as it is."""
    return FAMILIES[name].make()


@functools.cache
def processor_of(name: str) -> Any:
    return make_processor(name)


def picture(size: Size, seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())


def words(count: int, seed: int) -> list[int]:
    """Ids of ordinary words in every family's vocabulary."""
    return torch.randint(33, 90, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def row_of(
    name: str, sizes: Sequence[Size], seed: int, videos: Sequence[tuple[int, int, int]] = ()
) -> tuple[list[int], dict[str, torch.Tensor]]:
    """One prompt: ids and the model's inputs for its images (of these sizes) and videos, which come after them."""
    backbone = backbone_of(model_of(name))
    pictures = [picture(size, 100 * seed + number) for number, size in enumerate(sizes)]
    if name in ("llava", "llava_next"):
        return _llava_row(backbone, pictures, sizes, seed)
    start, ids, inputs = words(3 + seed % 5, seed), list[int](), dict[str, torch.Tensor]()
    if pictures:
        parts = [*({"type": "image", "image": one} for one in pictures)]
        settings = dict(add_generation_prompt=False, tokenize=True, return_dict=True, return_tensors="pt")
        made = processor_of(name).apply_chat_template([{"role": "user", "content": parts}], **settings)
        ids = made["input_ids"][0].tolist()
        inputs = {key: torch.as_tensor(made[key]) for key in backbone.image_inputs if key in made}
    for number, video in enumerate(videos):
        tokens, more = video_of(name, backbone, video, seed=1000 * seed + number)
        ids += words(2, seed + 50) + tokens
        inputs |= {key: torch.cat([inputs[key], value]) if key in inputs else value for key, value in more.items()}
    return start + ids + words(4 + 2 * (seed % 5), seed + 90), inputs


def video_of(
    name: str, backbone: Backbone, video: tuple[int, int, int], seed: int
) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Placeholders and inputs of one video, written by hand: transformers' own processors need torchvision."""
    frames, rows, columns = video
    config, generator = backbone.model.config, torch.Generator().manual_seed(seed)
    if name == "llava_onevision":
        side = config.vision_config.image_size
        pixels = torch.randn(1, frames, 3, side, side, generator=generator)
        return [config.video_token_id] * (frames * rows * columns + 1), {"pixel_values_videos": pixels}
    numbers = backbone.pixel_shape[-1]
    pixels = torch.randn(4 * frames * rows * columns, numbers, generator=generator)
    found = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[frames, 2 * rows, 2 * columns]])}
    inside = [config.vision_start_token_id, *[config.video_token_id] * (rows * columns), config.vision_end_token_id]
    if name == "qwen3_vl":  # each frame by itself, after its second
        return [number for frame in range(frames) for number in (*words(3, seed + frame), *inside)], found
    if name == "qwen2_5_vl":
        found["second_per_grid_ts"] = torch.tensor([1.5])
    return [inside[0], *[config.video_token_id] * (frames * rows * columns), inside[-1]], found


def _llava_row(
    backbone: Backbone, pictures: Sequence[Image.Image], sizes: Sequence[Size], seed: int
) -> tuple[list[int], dict[str, torch.Tensor]]:
    """LLaVA's processors are made from the config: tests of LLaVA have no files."""
    import transformers

    side = backbone.model.config.vision_config.image_size
    options: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if grid := getattr(backbone.model.config, "image_grid_pinpoints", None):
        options["image_grid_pinpoints"] = grid
    processor = getattr(transformers, backbone.image_processor_class)(**options)
    made = [dict(processor(images=[one], return_tensors="pt")) for one in pictures]
    ids = [1, *words(3 + seed % 5, seed)]
    for (height, width), number in zip(sizes, range(len(sizes)), strict=True):
        ids += [LLAVA_IMAGE] * backbone.image_tokens(height, width) + words(4, 10 * seed + number)
    return ids + ([] if sizes else words(4, seed + 5)), backbone.joined(made)


def batch_of(
    name: str,
    rows: Sequence[Sequence[Size]],
    side: str = "left",
    videos: Sequence[Sequence[tuple[int, int, int]]] | None = None,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """A padded batch; each row has images of the given sizes, and the given videos after them."""
    backbone = backbone_of(model_of(name))
    films = videos or [()] * len(rows)
    made = [row_of(name, sizes, seed + number, films[number]) for number, sizes in enumerate(rows)]
    longest = max(len(ids) for ids, _ in made)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
    for ids, _ in made:
        fill, ones = [0] * (longest - len(ids)), [1] * len(ids)
        batch["input_ids"].append(fill + ids if side == "left" else ids + fill)
        batch["attention_mask"].append(fill + ones if side == "left" else ones + fill)
    inputs = {key: torch.tensor(value) for key, value in batch.items()}
    return {**inputs, **backbone.joined([one for _, one in made if one]), **derived(backbone, inputs["input_ids"])}


def derived(backbone: Backbone, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs that transformers' own forward takes and a reduced one works out by itself."""
    return {name: backbone.kinds(ids) for name in backbone.derived_inputs}
