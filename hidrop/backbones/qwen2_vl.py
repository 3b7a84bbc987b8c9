"""Qwen2-VL and Qwen2.5-VL: images of any size, M-RoPE in sections, videos as one run of tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isqrt, prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hidrop.backbones.asking import Asking, Resizing
from hidrop.backbones.base import Backbone
from hidrop.backbones.config_fields import (
    ConfigFields,
    DecoderFields,
    Fields,
    Heads,
    Layers,
    Pixels,
    Positive,
    Text,
    TokenId,
    Tokens,
    Width,
    decoder_problems,
    head_problems,
    token_problems,
)
from hidrop.backbones.model_inputs import IMAGE, VIDEO, Grid, Places, Rope, Vision
from hidrop.backbones.pixel_limits import MOST_PIXELS, PixelLimits
from hidrop.errors import UserError
from hidrop.geometry import Geometry
from hidrop.videos import Sampling, Video

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.attended import Attended
    from hidrop.backbones.filming import Filmed
    from hidrop.backbones.mrope import Runs

SECTION = (16, 24, 24)  # what transformers takes where a config states none
# qwen-vl-utils' limits of a video, in tokens: of a frame (two of them share theirs), and of all frames together.
FRAME_TOKENS = 128, 768
VIDEO_TOKENS = 0.9 * 128_000

Merged = Annotated[int, Field(strict=True, ge=1, le=16)]
Block = Annotated[int, Field(strict=True, ge=0, le=255)]


class TowerFields(Fields):
    """The vision tower's config of all of Qwen's families."""

    model_type: Text | None = None
    depth: Layers = 1
    hidden_size: Width = 1
    embed_dim: Width | None = None
    intermediate_size: Width = 1
    mlp_ratio: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    out_hidden_size: Width | None = None
    num_heads: Heads = 1
    in_channels: Literal[3] = 3
    in_chans: Literal[3] = 3
    patch_size: Pixels = 1
    spatial_merge_size: Merged = 1
    temporal_patch_size: Merged = 1
    window_size: Pixels | None = None
    fullatt_block_indexes: list[Block] | tuple[Block, ...] = ()
    deepstack_visual_indexes: list[Block] | tuple[Block, ...] = ()
    tokens_per_second: Positive | None = None
    num_position_embeddings: Tokens | None = None
    hidden_act: Text = ""


class QwenFields(DecoderFields, ConfigFields):
    """A config.json. Those on the Hub have the decoder's fields at the top, those of transformers 5 a `text_config`."""

    text_config: DecoderFields | None = None
    vision_config: TowerFields | None = None  # type: ignore[assignment]
    video_token_id: TokenId = 0


class Qwen2VL(Backbone):
    """transformers' Qwen2VLForConditionalGeneration.

    `pixel_values` are (patches, numbers of a patch) of all images, one after the other, and `image_grid_thw` (images,
    3) their frames, rows and columns of patches. The tower merges 2 x 2 patches into one token. The same for videos.
    """

    model_type: ClassVar[str] = "qwen2_vl"
    title: ClassVar[str] = "Qwen2-VL"
    config_class: ClassVar[str] = "Qwen2VLConfig"
    model_class: ClassVar[str] = "Qwen2VLForConditionalGeneration"
    processor_class: ClassVar[str] = "Qwen2VLProcessor"
    image_processor_class: ClassVar[str] = "Qwen2VLImageProcessorPil"
    image_processor_folder: ClassVar[str] = "qwen2_vl"
    fields: ClassVar[type[ConfigFields]] = QwenFields
    decoders: ClassVar[tuple[str, ...]] = ("qwen2_vl_text", "qwen2_vl")
    towers: ClassVar[tuple[str, ...]] = ("qwen2_vl_vision", "qwen2_vl")

    decoder_at: ClassVar[str] = "model.language_model"
    head_at: ClassVar[str] = "lm_head"
    tower_at: ClassVar[str] = "model.visual"
    projector_at: ClassVar[str] = "model.visual.merger"

    asking: ClassVar[Asking | None] = Asking(
        "qwen2_vl",
        longest=128,
        system="You are a helpful assistant.",
        removed=("<image>",),
        jpeg=85,
        resizing=Resizing(28, least=3136, most=602112),
        settings={"min_pixels": 3136, "max_pixels": 602112},
        limited=("resizing", "settings"),
        sampling=Sampling(32, multiple=2),
        frame_pixels=(3136, 602112),
        stops=True,
        strips=True,
    )
    image_inputs: ClassVar[tuple[str, ...]] = (
        "pixel_values",
        "image_grid_thw",
        "pixel_values_videos",
        "video_grid_thw",
    )
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_values_videos")
    sized_by: ClassVar[Mapping[str, str]] = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
    derived_inputs: ClassVar[tuple[str, ...]] = ("mm_token_type_ids",)
    placeholders: ClassVar[Mapping[str, int]] = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    shows_videos: ClassVar[bool] = True
    # The model cards' two frames a second.
    native_sampling: ClassVar[Sampling] = Sampling(768, fps=2, spacing="nearest", multiple=2, least=4)

    # Tokens of the image that plans are printed for, where nobody states another one: a setting of published tables.
    nominal_tokens: ClassVar[int] = 1280

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        sizes = Geometry.of_decoder(config.text_config, cls.nominal_tokens)
        return replace(sizes, dynamic=True, rope_axes=3, referenced=False)

    @classmethod
    def size_problems(cls, config: Any) -> Iterator[str]:
        text, vision = config.text_config, config.vision_config
        yield from decoder_problems(text)
        section = tuple((text.rope_parameters or {}).get("mrope_section") or SECTION)
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        if sum(section) != head_dim // 2:
            yield f"rope_parameters.mrope_section: {list(section)} does not add up to half of a head ({head_dim // 2})"
        width, name = cls.tower_width(vision)
        yield from head_problems(width, vision.num_heads, name, "num_heads")
        if width % vision.num_heads == 0 and (head := width // vision.num_heads) % 4:
            yield f"vision_config: heads of {head} cannot be rotated; their size is a multiple of 4"
        made, name = cls.merged_width(vision)
        if made != text.hidden_size:
            yield f"vision_config: {name} {made} is not the decoder's hidden_size ({text.hidden_size})"
        for key in ("fullatt_block_indexes", "deepstack_visual_indexes"):
            blocks = getattr(vision, key, ())
            if outside := [block for block in blocks if block >= vision.depth]:
                yield f"vision_config.{key}: {outside[0]}, but the tower has {vision.depth} blocks"
            if len(set(blocks)) < len(blocks):
                yield f"vision_config.{key}: {list(blocks)} names a block twice"
        if len(levels := getattr(vision, "deepstack_visual_indexes", ())) > text.num_hidden_layers:
            yield f"vision_config.deepstack_visual_indexes: {len(levels)}, more than the decoder has layers"
        unit = vision.spatial_merge_size * vision.patch_size
        if (window := getattr(vision, "window_size", unit)) < unit:
            yield f"vision_config.window_size: {window} pixels, less than a token's {unit}"
        if isqrt(places := getattr(vision, "num_position_embeddings", 1)) ** 2 != places:
            yield f"vision_config.num_position_embeddings: {places} is no square"
        yield from token_problems(config, cls.placeholders)

    @staticmethod
    def tower_width(vision: Any) -> tuple[int, str]:
        """The hidden size of the tower's blocks, and its field."""
        return vision.embed_dim, "embed_dim"

    @staticmethod
    def merged_width(vision: Any) -> tuple[int, str]:
        """The size of what the tower makes for the decoder, and its field."""
        return vision.hidden_size, "hidden_size"

    # ---- the image processor ----------------------------------------------------------------------------------------

    @classmethod
    def image_tokens_of(cls, config: Any, height: int, width: int, image_processor: Any) -> int:
        """By the image processor's resizing: sides become multiples of a token's, between `min` and `max` pixels.

        Raises ValueError for an image that is more than 200 times as long as it is wide.
        """
        return image_processor.get_number_of_image_patches(height, width) // config.vision_config.spatial_merge_size**2

    @property
    def token_side(self) -> int:
        return self.merge * self.patch_size

    @classmethod
    def token_grid(cls, config: Any, height: int, width: int, image_processor: Any) -> tuple[int, int]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        side, size = isqrt(cls.token_pixels(config)), image_processor.size
        rows, columns = smart_resize(height, width, side, size.shortest_edge, size.longest_edge)
        return rows // side, columns // side

    @classmethod
    def processor_problems(cls, config: Any, image_processor: Any) -> Iterator[str]:
        vision = config.vision_config
        for name, wanted in (
            ("patch_size", vision.patch_size),
            ("merge_size", vision.spatial_merge_size),
            ("temporal_patch_size", vision.temporal_patch_size),
        ):
            if (stated := getattr(image_processor, name, None)) != wanted:
                yield f"the image processor's {name} is {stated!r}, but the vision tower's is {wanted}"
        least, most = (getattr(image_processor.size, edge, 0) for edge in ("shortest_edge", "longest_edge"))
        for name, pixels in (("shortest_edge (min_pixels)", least), ("longest_edge (max_pixels)", most)):
            if type(pixels) is not int or not 0 < pixels <= MOST_PIXELS:
                yield f"the image processor's size.{name} is {pixels!r} pixels"
                return
        if least > most:
            yield f"the image processor's size has min_pixels {least} above max_pixels {most}"
        if most < (unit := cls.token_pixels(config)):
            yield f"the image processor's size has max_pixels {most}, less than a token's {unit}"

    @classmethod
    def limit_pixels(cls, config: Any, image_processor: Any, limits: PixelLimits) -> None:
        if limits.field is None:
            return
        size, token = image_processor.size, cls.token_pixels(config)
        least, most = limits.within(size.shortest_edge, size.longest_edge, token)
        if most < token:
            raise UserError(f"max_pixels: {most} is less than the {token} pixels of one visual token")
        if most // token >= (longest := config.text_config.max_position_embeddings):
            stated = "reference_tokens" if limits.tokens else "max_pixels" if limits.most else "min_pixels"
            raise UserError(
                f"{stated}: an image may have {most // token} visual tokens, but the model has only {longest} positions"
            )
        image_processor.size = replace(size, shortest_edge=least, longest_edge=most)

    @classmethod
    def with_settings(cls, image_processor: Any, settings: Mapping[str, Any]) -> Any:
        """transformers writes `min_pixels` and `max_pixels` into `size`; without resizing there are no limits."""
        changed, size = copy.copy(image_processor), image_processor.size
        least, most = (
            (1, MOST_PIXELS) if settings.get("do_resize") is False else (size.shortest_edge, size.longest_edge)
        )
        least, most = settings.get("min_pixels", least), settings.get("max_pixels", most)
        changed.size = replace(size, shortest_edge=least, longest_edge=most)
        return changed

    @staticmethod
    def token_pixels(config: Any) -> int:
        """Pixels of one visual token."""
        return (config.vision_config.patch_size * config.vision_config.spatial_merge_size) ** 2

    @property
    def pixel_unit(self) -> tuple[int, ...]:
        return self.pixel_shape[-1:]

    @property
    def pixel_rows(self) -> int:
        return 0

    @property
    def trial_size(self) -> tuple[int, int]:
        """Two and four tokens, and some pixels that have to be resized away."""
        side = self.merge * self.model.config.vision_config.patch_size
        return 2 * side + 1, 4 * side + 3

    # ---- images and videos ------------------------------------------------------------------------------------------

    def film(self, processor: Any, video: Video, asking: Asking, limits: PixelLimits) -> Filmed:
        """Frames of qwen-vl-utils' size, two of them a step in time."""
        from hidrop.backbones.filming import Filmed, paired

        config = self.model.config
        resized = self.frame_resizing(len(video.frames), asking, limits)
        pixels, grid = paired([resized(frame) for frame in video.frames], processor.image_processor)
        steps, rows, columns = grid[0].tolist()
        tokens = rows * columns // config.vision_config.spatial_merge_size**2
        return Filmed(
            self.film_text(processor, video, steps, tokens),
            {"pixel_values_videos": pixels, "video_grid_thw": grid, **self.film_timing(video)},
        )

    def frame_resizing(self, frames: int, asking: Asking, limits: PixelLimits) -> Resizing:
        """How each of so many frames is resized: the more frames there are, the fewer pixels one may have."""
        vision = self.model.config.vision_config
        token = self.token_pixels(self.model.config)
        own = asking.frame_pixels or (FRAME_TOKENS[0] * token, FRAME_TOKENS[1] * token)
        least, most = limits.within(*own, token)
        share = int(VIDEO_TOKENS * token * vision.temporal_patch_size / frames)
        most = min(most, max(min(FRAME_TOKENS[1] * token, share), int(1.05 * least)))
        return Resizing(vision.patch_size * vision.spatial_merge_size, least, most)

    def film_text(self, processor: Any, video: Video, steps: int, tokens: int) -> str:
        """The placeholders of a video of so many steps in time with so many tokens each."""
        return processor.video_token * (steps * tokens)

    def film_timing(self, video: Video) -> dict[str, torch.Tensor]:
        """The model's inputs that say when frames are shown."""
        return {}

    @property
    def merge(self) -> int:
        """Patches on a side of a token."""
        return self.model.config.vision_config.spatial_merge_size

    def media(self, inputs: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        images, videos = (len(inputs.get(name, ())) for name in ("image_grid_thw", "video_grid_thw"))
        return images, videos

    def medium(self, inputs: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        images, _ = self.media(inputs)
        video = number >= images
        number -= images if video else 0
        pixels, grid = ("pixel_values_videos", "video_grid_thw") if video else ("pixel_values", "image_grid_thw")
        sizes = inputs[grid].prod(-1).tolist()
        start = sum(sizes[:number])
        found = {pixels: inputs[pixels][start : start + sizes[number]], grid: inputs[grid][number : number + 1]}
        if video and "second_per_grid_ts" in inputs:
            found["second_per_grid_ts"] = inputs["second_per_grid_ts"][number : number + 1]
        return found

    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        found: list[tuple[Grid, ...]] = []
        for pixels, name in self.sized_by.items():
            if name in vision.inputs:
                sizes = vision.inputs[name].tolist()
                wanted, there = sum(map(prod, sizes)), len(vision.inputs.get(pixels, ()))
                if wanted != there:
                    raise ValueError(f"{name} is of {wanted} patches, but {pixels} holds {there}: give both as made")
                found += [((frames, rows // self.merge, columns // self.merge),) for frames, rows, columns in sizes]
        return tuple(found)

    def features(self, vision: Vision) -> list[torch.Tensor]:
        import torch

        found: list[torch.Tensor] = []
        for pixels, grid in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
            if pixels not in vision.inputs:
                continue
            made = self.model.model.get_image_features(vision.inputs[pixels], vision.inputs[grid], return_dict=True)
            sizes = [len(one) for one in made.pooler_output]
            levels = [
                # One tensor for all media (transformers 5.17), or one for each (later).
                level.split(sizes) if isinstance(level, torch.Tensor) else level
                for level in getattr(made, "deepstack_features", None) or ()
            ]
            found += [torch.cat(parts, dim=-1) for parts in zip(made.pooler_output, *levels, strict=True)]
        return found

    @property
    def whole_block(self) -> int:
        """The number (0-based) of the tower's last block that sees the whole image."""
        return len(self.tower.blocks) - 1

    def attended(self, vision: Vision) -> list[Attended]:
        import torch
        from transformers.models.llama.modeling_llama import rotate_half

        from hidrop.backbones.attended import Attended, reading, received

        attention = self.tower.blocks[self.whole_block].attn

        def read(hidden_states: torch.Tensor, *, position_embeddings: Rope, **_: Any) -> tuple[torch.Tensor, ...]:
            query, key, _ = attention.qkv(hidden_states).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
            cos, sin = (part.float()[:, None] for part in position_embeddings)
            turned = (made.float() * cos + rotate_half(made.float()) * sin for made in (query, key))
            return tuple(made.to(hidden_states.dtype) for made in turned)

        with reading(attention, read) as calls:
            features = self.features(vision)
        patches = torch.cat([query for query, _ in calls]), torch.cat([key for _, key in calls])
        media = self.grids(vision)
        sizes = [len(one) * self.merge**2 for one in features]
        found = []
        for made, ((frames, rows, columns),), query, key in zip(
            features, media, *(part.split(sizes) for part in patches), strict=True
        ):
            frame_wise = [part.unflatten(0, (frames, -1)) for part in (query, key)]
            seen = torch.cat(
                [received(q[None], k[None], attention.scaling)[0] for q, k in zip(*frame_wise, strict=True)]
            )
            seen_K, key_Kd = (
                part.unflatten(0, (len(made), -1)).mean(1) for part in (seen, key.float().mean(1))
            )  # over heads, then over the patches of a token
            place = self.tower_order(frames, rows, columns).argsort().to(made.device)
            found.append(Attended(made, seen_K[place], key_Kd[place]))
        return found

    def tower_order(self, frames: int, rows: int, columns: int) -> torch.Tensor:
        """The number of each token of a grid, in the order in which the tower has their patches."""
        import torch

        return torch.arange(frames * rows * columns)

    def content(self, image: Vision) -> list[torch.Tensor]:
        """Pixels and grid: seconds between frames change positions, and no feature."""
        return [value for name, value in image.inputs.items() if name != "second_per_grid_ts"]

    # ---- the decoder's input ----------------------------------------------------------------------------------------

    def places(self, valid_BS: torch.Tensor, kind_BS: torch.Tensor, vision: Vision | None) -> Places:
        from hidrop.backbones.mrope import three_axes

        return three_axes(valid_BS, kind_BS, None if vision is None else self.runs(vision))

    def runs(self, vision: Vision) -> Runs:
        """The runs of visual tokens: each image and each video is one."""
        import torch

        from hidrop.backbones.mrope import Runs

        grids = [vision.inputs[name] for name in ("image_grid_thw", "video_grid_thw") if name in vision.inputs]
        frames, rows, columns = torch.cat(grids).unbind(1)
        images, videos = self.media(vision.inputs)
        interval = torch.ones(images + videos, dtype=torch.float64, device=frames.device)
        interval[images:] = self.interval(vision.inputs.get("second_per_grid_ts"), interval[images:])
        return Runs(frames, rows // self.merge, columns // self.merge, interval)

    def interval(self, seconds: torch.Tensor | None, one: torch.Tensor) -> torch.Tensor:
        """Position numbers from one frame of each video to the next; `one` is a tensor of ones for them."""
        return one

    def rope(self, hidden: torch.Tensor, position_PBN: torch.Tensor) -> Rope:
        return self.decoder.rotary_emb(hidden, position_ids=position_PBN.expand(3, -1, -1))

    # ---- synthetic images -------------------------------------------------------------------------------------------

    def inputs_for(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        rows, columns = self.pixel_grid
        grid = torch.tensor([[1, rows * self.merge, columns * self.merge]], device=pixel_values.device)
        return {"pixel_values": pixel_values.flatten(0, 1), "image_grid_thw": grid.repeat(len(pixel_values), 1)}

    def joined(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        import torch

        names = [name for name in self.image_inputs if any(name in one for one in images)]
        return {name: torch.cat([one[name] for one in images if name in one]) for name in names}

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """Patches of a nominal image, and the numbers of a patch."""
        vision = self.model.config.vision_config
        rows, columns = self.pixel_grid
        numbers = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return rows * columns * self.merge**2, numbers

    @property
    def pixel_tokens(self) -> int:
        rows, columns = self.pixel_grid
        return rows * columns

    @property
    def pixel_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of an image with the geometry's tokens, or a few less; at most twice as wide."""
        tokens, side = self.geometry.visual_tokens, max(1, isqrt(self.geometry.visual_tokens))
        rows = next((n for n in range(side, side // 2, -1) if tokens % n == 0 and tokens // n <= 2 * n), side)
        return rows, max(1, tokens // rows)


class Qwen2_5VL(Qwen2VL):  # the model's own name
    """transformers' Qwen2_5_VLForConditionalGeneration: frames of a video are apart as their seconds are."""

    model_type: ClassVar[str] = "qwen2_5_vl"
    title: ClassVar[str] = "Qwen2.5-VL"
    config_class: ClassVar[str] = "Qwen2_5_VLConfig"
    model_class: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    processor_class: ClassVar[str] = "Qwen2_5_VLProcessor"
    decoders: ClassVar[tuple[str, ...]] = ("qwen2_5_vl_text", "qwen2_5_vl")
    towers: ClassVar[tuple[str, ...]] = ("qwen2_5_vl_vision", "qwen2_5_vl")

    image_processor_aliases: ClassVar[tuple[str, ...]] = ("Qwen2_5_VLImageProcessor",)

    asking: ClassVar[Asking | None] = Asking(
        "qwen2_5_vl",
        longest=128,
        resizing=Resizing(28, least=4 * 28**2, most=16384 * 28**2),
        settings={"min_pixels": 256 * 28**2, "max_pixels": 1605632},
        sampling=Sampling(32, spacing="nearest", multiple=2),
        frame_pixels=(256 * 28**2, 1605632),
    )
    image_inputs: ClassVar[tuple[str, ...]] = (*Qwen2VL.image_inputs, "second_per_grid_ts")
    nominal_tokens: ClassVar[int] = 1296

    @staticmethod
    def tower_width(vision: Any) -> tuple[int, str]:
        return vision.hidden_size, "hidden_size"

    @staticmethod
    def merged_width(vision: Any) -> tuple[int, str]:
        return vision.out_hidden_size, "out_hidden_size"

    def film_timing(self, video: Video) -> dict[str, torch.Tensor]:
        import torch

        seconds = self.model.config.vision_config.temporal_patch_size / video.sampled_rate
        return {"second_per_grid_ts": torch.tensor([seconds])}

    def interval(self, seconds: torch.Tensor | None, one: torch.Tensor) -> torch.Tensor:
        """tokens_per_second numbers a second. Without seconds a grid's frame counts as one second."""
        each = one if seconds is None else seconds.to(one)
        return each * self.model.config.vision_config.tokens_per_second

    @property
    def whole_block(self) -> int:
        return max(self.model.config.vision_config.fullatt_block_indexes)

    def tower_order(self, frames: int, rows: int, columns: int) -> torch.Tensor:
        """Window after window, row by row within it; windows at the right and at the bottom may be smaller."""
        import torch

        vision = self.model.config.vision_config
        side = vision.window_size // self.merge // vision.patch_size
        frame, row, column = torch.meshgrid(
            torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij"
        )
        window = (frame * rows + row // side) * columns + column // side
        return window.flatten().argsort(stable=True)
