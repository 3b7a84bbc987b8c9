"""Qwen3-VL: M-RoPE with interleaved axes, DeepStack, videos whose frames have their seconds as text between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hidrop.backbones.asking import Asking, Resizing
from hidrop.backbones.model_inputs import Vision
from hidrop.backbones.qwen2_vl import Qwen2_5VL, Qwen2VL
from hidrop.videos import Sampling, Video

if TYPE_CHECKING:
    from hidrop.backbones.mrope import Runs


class Qwen3VL(Qwen2VL):
    """transformers' Qwen3VLForConditionalGeneration.

    After each of the first layers the decoder adds features of an earlier layer of the tower to the visual tokens.
    """

    model_type: ClassVar[str] = "qwen3_vl"
    title: ClassVar[str] = "Qwen3-VL"
    config_class: ClassVar[str] = "Qwen3VLConfig"
    model_class: ClassVar[str] = "Qwen3VLForConditionalGeneration"
    processor_class: ClassVar[str] = "Qwen3VLProcessor"
    decoders: ClassVar[tuple[str, ...]] = ("qwen3_vl_text",)
    towers: ClassVar[tuple[str, ...]] = ("qwen3_vl_vision", "qwen3_vl")

    nominal_tokens: ClassVar[int] = 1024
    # Its limits of pixels hold for videos alone: qwen-vl-utils resizes images, and the processor does not.
    asking: ClassVar[Asking | None] = Asking(
        "qwen3_vl",
        longest=128,
        system="You are a helpful assistant.",
        resizing=Resizing(32, least=4 * 32**2, most=16384 * 32**2),
        settings={"do_resize": False},
        limited=("resizing",),
        sampling=Sampling(32, spacing="nearest", multiple=2),
        frame_pixels=(256 * 28**2, 1605632),
    )

    tower_width = staticmethod(Qwen2_5VL.tower_width)
    merged_width = staticmethod(Qwen2_5VL.merged_width)

    @property
    def levels(self) -> int:
        return len(self.model.config.vision_config.deepstack_visual_indexes)

    def film_text(self, processor: Any, video: Video, steps: int, tokens: int) -> str:
        """Each step in time after its seconds: the mean of its first and its last frame's."""
        inside = f"{processor.vision_start_token}{processor.video_token * tokens}{processor.vision_end_token}"
        span, seconds = len(video.frames) // steps, video.seconds
        means = [(seconds[step * span] + seconds[(step + 1) * span - 1]) / 2 for step in range(steps)]
        return "".join(f"<{mean:.1f} seconds>{inside}" for mean in means)

    def runs(self, vision: Vision) -> Runs:
        """Each image is a run, and so is each frame of a video."""
        import torch

        from hidrop.backbones.mrope import Runs

        grids = []
        if (images := vision.inputs.get("image_grid_thw")) is not None:
            grids.append(images)
        if (videos := vision.inputs.get("video_grid_thw")) is not None:
            frames = videos.repeat_interleave(videos[:, 0], 0)
            grids.append(torch.cat([torch.ones_like(frames[:, :1]), frames[:, 1:]], 1))
        frames, rows, columns = torch.cat(grids).unbind(1)
        return Runs(frames, rows // self.merge, columns // self.merge, torch.ones_like(frames, dtype=torch.float64))
