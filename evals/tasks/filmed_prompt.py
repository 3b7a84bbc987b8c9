"""Videos in a prompt: the template's mark of each becomes the placeholders of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hidrop.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from hidrop.backbones import Backbone
    from hidrop.backbones.asking import Asking
    from hidrop.backbones.pixel_limits import PixelLimits
    from hidrop.videos import Video


def frames_as_images(
    backbone: Backbone, images: Sequence[Image.Image], videos: Sequence[Video]
) -> tuple[Sequence[Image.Image], Sequence[Video]]:
    """Images and videos as the family is shown them. Raises ValueError where it cannot tell the two apart."""
    if not videos:
        return images, videos
    if images and len(backbone.placeholders) == 1:
        raise ValueError(
            f"an image and a video in one prompt: {backbone.title} has the same placeholder for both, so that their "
            "order would be lost"
        )
    if backbone.frames_are_images:
        return [frame for video in videos for frame in video.frames], ()
    return images, videos


def expanded(
    backbone: Backbone, processor: Any, asking: Asking, text: str, videos: Sequence[Video], limits: PixelLimits
) -> tuple[str, dict[str, torch.Tensor]]:
    """The template's text with the placeholders of all frames, and the model's inputs for the videos.

    Raises UserError for a template that does not write a mark for each video.
    """
    mark = processor.video_token
    if text.count(mark) != len(videos):
        raise UserError(
            f"the chat template writes {text.count(mark)} {mark} for {len(videos)} videos. Copy the template that "
            "belongs to the model"
        )
    films = [backbone.film(processor, video, asking, limits) for video in videos]
    first, *rest = text.split(mark)
    parts = [film.text + after for film, after in zip(films, rest, strict=True)]
    return first + "".join(parts), backbone.joined([film.inputs for film in films])
