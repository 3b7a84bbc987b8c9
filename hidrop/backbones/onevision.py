"""LLaVA-OneVision: LLaVA-NeXT's tiles, scaled down where there are many, a SigLIP tower, a Qwen2 decoder, videos."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hidrop.backbones.asking import Asking
from hidrop.backbones.base import Backbone
from hidrop.backbones.config_fields import ConfigFields, TokenId, size_problems, token_problems
from hidrop.backbones.llava_next import pinpoint_problems, tiled
from hidrop.backbones.model_inputs import IMAGE, VIDEO, Grid, Vision
from hidrop.backbones.pixel_limits import PixelLimits
from hidrop.geometry import Geometry
from hidrop.videos import Video

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.filming import Filmed

# How much larger than allowed an image's tiles may be before they are scaled down.
TOLERANCE = 1.1


class OneVisionFields(ConfigFields):
    """A config.json."""

    video_token_index: TokenId = 0
    vision_aspect_ratio: Annotated[str, Field(pattern=r"^anyres_max_[1-9]\d?$")] = "anyres_max_9"
    vision_feature_select_strategy: Literal["full"] = "full"  # "default" leaves out a class token, and SigLIP has none


class OneVision(Backbone):
    """transformers' LlavaOnevisionForConditionalGeneration.

    `pixel_values` are (images, tiles, 3, height, width), the whole image first, `image_sizes` (images, 2) heights and
    widths in pixels, `batch_num_images` (prompts,) how many images each prompt has: one of several is seen whole, and
    not in tiles. `pixel_values_videos` are (videos, frames, 3, height, width): tokens of frames are pooled 2 x 2.
    """

    model_type: ClassVar[str] = "llava_onevision"
    title: ClassVar[str] = "LLaVA-OneVision"
    config_class: ClassVar[str] = "LlavaOnevisionConfig"
    model_class: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    processor_class: ClassVar[str] = "LlavaOnevisionProcessor"
    image_processor_class: ClassVar[str] = "LlavaOnevisionImageProcessorPil"
    image_processor_folder: ClassVar[str] = "llava_onevision"
    fields: ClassVar[type[ConfigFields]] = OneVisionFields
    decoders: ClassVar[tuple[str, ...]] = ("qwen2",)
    towers: ClassVar[tuple[str, ...]] = ("siglip_vision_model",)
    line_ends: ClassVar[bool] = True
    aspects: ClassVar[tuple[str | None, ...]] = (None, "anyres", "anyres_max_9")

    decoder_at: ClassVar[str] = "model.language_model"
    head_at: ClassVar[str] = "lm_head"
    tower_at: ClassVar[str] = "model.vision_tower"
    projector_at: ClassVar[str] = "model.multi_modal_projector"

    # lmms-eval's class llava_onevision runs LLaVA's own code; this is the one for transformers' checkpoints.
    asking: ClassVar[Asking | None] = Asking("llava_hf", longest=1024)
    image_inputs: ClassVar[tuple[str, ...]] = (
        "pixel_values",
        "image_sizes",
        "batch_num_images",
        "pixel_values_videos",
        "image_sizes_videos",
    )
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_values_videos")
    sized_by: ClassVar[Mapping[str, str]] = {"pixel_values": "image_sizes"}
    vision_settings: ClassVar[tuple[str, ...]] = (
        "vision_feature_layer",
        "vision_feature_select_strategy",
        "vision_aspect_ratio",
    )
    placeholders: ClassVar[Mapping[str, int]] = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    shows_videos: ClassVar[bool] = True

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        """Plans are printed for the image of the most tiles, without line ends, where nobody states another one."""
        tiles = 1 + int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        sizes = Geometry.of_decoder(config.text_config, tiles * cls.side_of(config) ** 2)
        return replace(sizes, dynamic=True, tiled=True, referenced=False)

    @staticmethod
    def side_of(config: Any) -> int:
        return config.vision_config.image_size // config.vision_config.patch_size

    @classmethod
    def size_problems(cls, config: Any) -> Iterator[str]:
        yield from size_problems(config)
        yield from token_problems(config, ("video_token_id",))

    @classmethod
    def processor_settings(cls, config: Any) -> dict[str, Any]:
        return {
            "num_image_tokens": cls.side_of(config) ** 2,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "vision_aspect_ratio": config.vision_aspect_ratio,
        }

    @classmethod
    def image_tokens_of(cls, config: Any, height: int, width: int, image_processor: Any) -> int:
        """The whole image, then its tiles without padding, with a line end for each row."""
        rows, columns = cls.of_config(config).scaled(height, width, config.vision_aspect_ratio)
        return cls.side_of(config) ** 2 + rows * (columns + 1)

    @classmethod
    def prompt_tokens_of(cls, config: Any, sizes: Sequence[tuple[int, int]], image_processor: Any) -> tuple[int, ...]:
        """One of several images is seen whole only, with one line end."""
        if len(sizes) > 1:
            return (cls.side_of(config) ** 2 + 1,) * len(sizes)
        return super().prompt_tokens_of(config, sizes, image_processor)

    @classmethod
    def processor_problems(cls, config: Any, image_processor: Any) -> Iterator[str]:
        yield from super().processor_problems(config, image_processor)
        yield from pinpoint_problems(config, image_processor)

    # ---- images and videos ------------------------------------------------------------------------------------------

    def film(self, processor: Any, video: Video, asking: Asking, limits: PixelLimits) -> Filmed:
        """Frames without tiles, whose tokens are pooled 2 x 2, and one line end after the last one."""
        from hidrop.backbones.filming import Filmed, squares

        pixels = squares(video.frames, processor.image_processor)
        pooled = math.ceil(self.side_of(self.model.config) / 2)
        tokens = len(video.frames) * pooled**2 + 1
        return Filmed(processor.video_token * tokens, {"pixel_values_videos": pixels[None]})

    def vision(self, inputs: Mapping[str, Any]) -> Vision | None:
        """`batch_num_images` becomes `whole` (images,): whether an image is seen whole only, as one of several."""
        import torch

        vision = super().vision(inputs)
        if vision is None or "pixel_values" not in vision.inputs:
            return vision
        given = dict(vision.inputs)
        counts, sizes = given.pop("batch_num_images", None), given["image_sizes"]
        given["whole"] = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
        if counts is not None:
            counts = torch.as_tensor(counts, device=sizes.device)
            given["whole"] = (counts > 1).repeat_interleave(counts)
        if given["pixel_values"].dim() == 4:  # the tiles of all images in one row
            tiles = given["pixel_values"].split(self.tile_counts(given))
            given["pixel_values"] = torch.nn.utils.rnn.pad_sequence(list(tiles), batch_first=True)
        return replace(vision, inputs=given)

    def media(self, inputs: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        return len(inputs.get("pixel_values", ())), len(inputs.get("pixel_values_videos", ()))

    def medium(self, inputs: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        images, _ = self.media(inputs)
        if number >= images:
            return {"pixel_values_videos": inputs["pixel_values_videos"][number - images :][:1]}
        names = ("pixel_values", "image_sizes", "whole")
        return {name: inputs[name][number : number + 1] for name in names if name in inputs}

    def chosen(self, inputs: Mapping[str, torch.Tensor], numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Images in a row that are seen whole only count as those of one prompt, others as one image each."""
        import torch

        found = super().chosen(inputs, numbers)
        if (whole := found.pop("whole", None)) is not None:
            runs = [(alone, len([*run])) for alone, run in groupby(whole.tolist())]
            counts = [count for alone, size in runs for count in ([size] if alone else [1] * size)]
            found["batch_num_images"] = whole.new_tensor(counts, dtype=torch.long)
        return found

    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        side = self.side_of(self.model.config)
        found: list[tuple[Grid, ...]] = []
        if "pixel_values" in vision.inputs:
            whole = vision.inputs["whole"].tolist()
            for (height, width), alone in zip(vision.inputs["image_sizes"].tolist(), whole, strict=True):
                end: Grid = (1, 1, 1)  # one line end after an image that is seen whole only
                if not alone and self.tiles_of(height, width) > 1:
                    rows, columns = self.scaled(height, width, vision.settings["vision_aspect_ratio"])
                    end = (1, rows, columns + 1)
                found.append(((1, side, side), end))
        if (videos := vision.inputs.get("pixel_values_videos")) is not None:
            found += [((videos.shape[1], self.pooled_side, self.pooled_side), (1, 1, 1))] * len(videos)
        return tuple(found)

    @property
    def pooled_side(self) -> int:
        """Tokens on a side of a video's frame."""
        return math.ceil(self.side_of(self.model.config) / 2)

    def scaled(self, height: int, width: int, aspect: str) -> tuple[int, int]:
        """Rows and columns of tokens that an image of `height` x `width` pixels has in its tiles."""
        rows, columns = tiled(self.model.config, height, width)
        most = int(aspect.removeprefix("anyres_max_")) * self.side_of(self.model.config) ** 2
        ratio = math.sqrt(rows * columns / most)
        return (int(rows // ratio), int(columns // ratio)) if ratio > TOLERANCE else (rows, columns)

    def tile_counts(self, inputs: Mapping[str, torch.Tensor]) -> list[int]:
        """Tiles of each image, the whole one included."""
        sizes, whole = inputs["image_sizes"].tolist(), inputs["whole"].tolist()
        return [1 if alone else self.tiles_of(*size) for size, alone in zip(sizes, whole, strict=True)]

    def tiles_of(self, height: int, width: int) -> int:
        """Tiles of an image of `height` x `width` pixels, the whole one included."""
        from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

        config = self.model.config
        return image_size_to_num_patches([height, width], config.image_grid_pinpoints, config.vision_config.image_size)

    def features(self, vision: Vision) -> list[torch.Tensor]:
        import torch

        inner, settings, found = self.model.model, vision.settings, list[torch.Tensor]()
        reading = {name: settings[name] for name in ("vision_feature_layer", "vision_feature_select_strategy")}
        if "pixel_values" in vision.inputs:
            sizes, counts = vision.inputs["image_sizes"], self.tile_counts(vision.inputs)
            tiles = torch.cat([image[:count] for image, count in zip(vision.pixel_values, counts, strict=True)])
            made = inner.multi_modal_projector(self._read(tiles, **reading)).split(counts)
            aspect = settings["vision_aspect_ratio"]
            found += inner.pack_image_features(made, sizes, inner.image_newline, vision_aspect_ratio=aspect)[0]
        if (videos := vision.inputs.get("pixel_values_videos")) is not None:
            made = inner.get_video_features(videos, **reading, return_dict=True).pooler_output
            # transformers 5.17 gives the tokens of the frames alone, a later one with the line end after them.
            tokens = videos.shape[1] * self.pooled_side**2
            found += [torch.cat([one[:tokens], inner.image_newline[None].to(one)]) for one in made]
        return found

    def _read(
        self, tiles: torch.Tensor, vision_feature_layer: int | list[int], vision_feature_select_strategy: str
    ) -> torch.Tensor:
        """What the projector gets: states of one of the tower's layers, or of several side by side."""
        import torch

        states = self.tower(tiles, output_hidden_states=True, return_dict=True).hidden_states
        layers = [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer
        read = torch.cat([states[layer] for layer in layers], dim=-1)
        return read[:, 1:] if vision_feature_select_strategy == "default" else read

    def content(self, image: Vision) -> list[torch.Tensor]:
        """Tiles that only fill up a batch are left out."""
        if "pixel_values" not in image.inputs:
            return [image.inputs["pixel_values_videos"]]
        (count,) = self.tile_counts(image.inputs)
        return [image.pixel_values[:, :count], image.inputs["image_sizes"]]

    def joined(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The images of each prompt; one with fewer tiles than others of the batch is filled up with empty ones."""
        import torch

        found: dict[str, torch.Tensor] = {}
        there = [one for one in images if "pixel_values" in one]
        if there:
            most = max(one["pixel_values"].shape[1] for one in there)
            filled = [
                torch.nn.functional.pad(p, (0, 0) * 3 + (0, most - p.shape[1]))
                for p in (one["pixel_values"] for one in there)
            ]
            found["pixel_values"] = torch.cat(filled)
            found["image_sizes"] = torch.cat([one["image_sizes"] for one in there])
            counts = [one.get("batch_num_images", torch.tensor([len(one["image_sizes"])])) for one in there]
            found["batch_num_images"] = torch.cat([torch.as_tensor(count) for count in counts])
        videos = [one["pixel_values_videos"] for one in images if "pixel_values_videos" in one]
        return {**found, **({"pixel_values_videos": torch.cat(videos)} if videos else {})}

    # ---- synthetic images -------------------------------------------------------------------------------------------

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        vision = self.model.config.vision_config
        tiles = self.tiles_of(*self._nominal)
        return tiles, vision.num_channels, vision.image_size, vision.image_size

    @property
    def pixel_tokens(self) -> int:
        return self.image_tokens_of(self.model.config, *self._nominal, None)

    def inputs_for(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        sizes = torch.tensor([self._nominal] * len(pixel_values), device=pixel_values.device)
        return {"pixel_values": pixel_values, "image_sizes": sizes}

    @property
    def _nominal(self) -> tuple[int, int]:
        """Height and width of an image with about the geometry's tokens (to 2 or 3 %), in as few tiles as that takes.

        Larger images have as many tokens, scaled down from more tiles.
        """
        config, wanted = self.model.config, self.geometry.visual_tokens

        def distance(size: tuple[int, int]) -> tuple[int, int]:
            return round(20 * abs(self.image_tokens_of(config, *size, None) / wanted - 1)), self.tiles_of(*size)

        return min(((height, width) for height, width in config.image_grid_pinpoints), key=distance)
