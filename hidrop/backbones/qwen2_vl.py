"""Qwen2-VL and Qwen2.5-VL: images of any size, M-RoPE in sections, videos as one run of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from hidrop.backbones.base import Backbone
from hidrop.backbones.model_inputs import IMAGE, VIDEO, Grid, Places, Rope, Vision
from hidrop.geometry import Geometry

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.mrope import Runs

# The tokens of the image that counts are planned for, where nobody states another one.
NOMINAL_TOKENS = 1296
SIDES = 3  # numbers in a grid: frames, rows and columns of patches


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
    decoders: ClassVar[tuple[str, ...]] = ("qwen2_vl_text", "qwen2_vl")
    towers: ClassVar[tuple[str, ...]] = ("qwen2_vl_vision", "qwen2_vl")

    decoder_at: ClassVar[str] = "model.language_model"
    head_at: ClassVar[str] = "lm_head"
    tower_at: ClassVar[str] = "model.visual"
    projector_at: ClassVar[str] = "model.visual.merger"

    image_inputs: ClassVar[tuple[str, ...]] = (
        "pixel_values",
        "image_grid_thw",
        "pixel_values_videos",
        "video_grid_thw",
    )
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_values_videos")
    derived_inputs: ClassVar[tuple[str, ...]] = ("mm_token_type_ids",)
    placeholders: ClassVar[Mapping[str, int]] = {"image_token_id": IMAGE, "video_token_id": VIDEO}

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        sizes = Geometry.of_decoder(config.text_config, NOMINAL_TOKENS)
        return replace(sizes, dynamic=True, rope_axes=3, referenced=False)

    # ---- images and videos ------------------------------------------------------------------------------------------

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
        for name in ("image_grid_thw", "video_grid_thw"):
            if name in vision.inputs:
                sizes = vision.inputs[name].tolist()
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
            levels = [level.split(sizes) for level in getattr(made, "deepstack_features", None) or ()]
            found += [torch.cat(parts, dim=-1) for parts in zip(made.pooler_output, *levels, strict=True)]
        return found

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

        rows, columns = self._nominal
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
        rows, columns = self._nominal
        numbers = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return rows * columns * self.merge**2, numbers

    @property
    def pixel_tokens(self) -> int:
        rows, columns = self._nominal
        return rows * columns

    @property
    def _nominal(self) -> tuple[int, int]:
        """Rows and columns of tokens of an image with about the geometry's number of tokens."""
        from math import isqrt

        rows = max(1, isqrt(self.geometry.visual_tokens))
        return rows, max(1, self.geometry.visual_tokens // rows)


class Qwen2_5VL(Qwen2VL):  # the model's own name
    """transformers' Qwen2_5_VLForConditionalGeneration: frames of a video are apart as their seconds are."""

    model_type: ClassVar[str] = "qwen2_5_vl"
    title: ClassVar[str] = "Qwen2.5-VL"
    config_class: ClassVar[str] = "Qwen2_5_VLConfig"
    model_class: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    processor_class: ClassVar[str] = "Qwen2_5_VLProcessor"
    decoders: ClassVar[tuple[str, ...]] = ("qwen2_5_vl_text", "qwen2_5_vl")
    towers: ClassVar[tuple[str, ...]] = ("qwen2_5_vl_vision", "qwen2_5_vl")

    image_inputs: ClassVar[tuple[str, ...]] = (*Qwen2VL.image_inputs, "second_per_grid_ts")

    def interval(self, seconds: torch.Tensor | None, one: torch.Tensor) -> torch.Tensor:
        """tokens_per_second numbers a second. Without seconds a grid's frame counts as one second."""
        each = one if seconds is None else seconds.to(one)
        return each * self.model.config.vision_config.tokens_per_second
