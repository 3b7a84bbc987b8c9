"""The evaluation protocols: how a question and its images become token ids and a model's inputs.

`llava` is the evaluation that gave LLaVA-1.5's published numbers (its `vicuna_v1` conversation, square padding, its
own question texts). `lmms-eval` is what lmms-eval's own model class for the family does with its defaults (its question
texts, prompt, sizes of images and generation settings): for LLaVA the class `llava_hf`, for other families see
`hidrop.backbones.asking`. `native` asks lmms-eval's question texts by the chat template and the processor of the
checkpoint, and nothing else. The same model scores differently, so every table names its protocol.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from evals.tasks.base import LLAVA, LMMS_EVAL, NATIVE, ProtocolName, Task
from evals.tasks.filmed_prompt import expanded, frames_as_images
from evals.tasks.registry import get_task
from hidrop.backbones.asking import NATIVE as AS_THE_TEMPLATE
from hidrop.backbones.asking import Asking
from hidrop.backbones.model_inputs import TEXT
from hidrop.backbones.pixel_limits import NO_LIMITS, PixelLimits
from hidrop.checkpoint_files import in_words
from hidrop.errors import UserError
from hidrop.prompts import PLACEHOLDER, SYSTEM, pad_to_square, piecewise
from hidrop.videos import Sampling, Video

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from hidrop.backbones import Backbone
    from hidrop.models import Loaded

# Part of a cell's identity: raise a protocol's version when its prompts, images or scores change for the same model. A
# change of one task has `Task.revisions`, so that the other tasks' finished cells stay valid.
PROTOCOL_VERSION: dict[str, str] = {
    LLAVA: "1",
    LMMS_EVAL: "2",  # 2: images are turned by their EXIF data, and the chat template is the processor's
    NATIVE: "1",
}

# Rows and columns of an image's visual tokens, to those of the smaller image that takes its place.
Smaller = Callable[[int, int], tuple[int, int]]
LLAVA_HF = "llava_hf"  # lmms-eval's class for LLaVA in transformers' layout
# Questions of more than one word, to try a chat template on.
REHEARSED = ("What is it?", "Where is the cat?\nA. left\nB. right")
GREY = (122, 116, 104)  # CLIP's mean colour


@dataclass(frozen=True)
class Prepared:
    """A question with its images: token ids, the model's inputs for the images (None without any), visual tokens.

    `videos`: the frames of each video.
    """

    ids: list[int]
    inputs: Mapping[str, torch.Tensor] | None
    images: int
    visual_tokens: int
    videos: tuple[int, ...] = ()


class Protocol:
    """Base of the protocols. An instance has no state; get one with `protocol(name)`."""

    name: ProtocolName
    # Whether an image is turned as its EXIF orientation says.
    turns_images: bool
    # The longest answer if neither the task nor the caller sets one.
    max_new_tokens: int

    def generation(self, task: Task) -> dict[str, Any] | None:
        """The decoding settings of a task whose question text is `task.question`.

        None: lmms-eval's own question text and decoding.
        """
        return None

    def asking(self, backbone: Backbone) -> Asking | None:
        """How the family's processor as a whole is asked; None: by the tokenizer and the image processor (LLaVA)."""
        return None

    def limited(self, backbone: Backbone, limits: PixelLimits) -> Asking | None:
        """`asking` with a user's limits of pixels."""
        asking = self.asking(backbone)
        if asking is None or limits.field is None:
            return asking
        return asking.limiting(limits, backbone.token_pixels(backbone.model.config))

    def counting(
        self, backbone: Backbone, image_processor: Any, limits: PixelLimits
    ) -> Callable[[int, int], tuple[int, tuple[int, int] | None]]:
        """A function of an image's height and width: its visual tokens in a prompt, with a user's `limits` of pixels.

        It also returns their rows and columns, in a family with a `token_side`. Raises ValueError for an image that
        cannot be asked.
        """
        asking, config = self.limited(backbone, limits), backbone.model.config
        counts = backbone.with_settings(image_processor, asking.settings) if asking else image_processor

        def count(height: int, width: int) -> tuple[int, tuple[int, int] | None]:
            size = asking.seen_size(height, width) if asking else (height, width)
            grid = backbone.token_grid(config, *size, counts) if backbone.token_side else None
            return backbone.image_tokens(*size, counts), grid

        return count

    def check(self, backbone: Backbone) -> None:
        """Raises UserError for a family that this protocol is not for."""

    def sampling(self, backbone: Backbone, frames: int | None = None, fps: float | None = None) -> Sampling:
        """Which frames of a video are shown, with what a user states.

        Raises UserError for a family that is shown no videos, and for impossible numbers.
        """
        asking = self.asking(backbone)
        if asking is None or not backbone.shows_videos:
            raise UserError(f"{backbone.title}: videos are not supported for this family. Take tasks of images")
        return (asking.sampling or backbone.native_sampling).stated(frames, fps)

    def prepare(
        self,
        loaded: Loaded,
        question: str,
        images: Sequence[Image.Image],
        smaller: Smaller | None = None,
        videos: Sequence[Video] = (),
    ) -> Prepared:
        """The prompt with RGB images of any size, and with videos after them.

        Raises ValueError for a question, images or videos that cannot be asked.

        `smaller`: see `Reducer.smaller`, for a family with a `token_side`. The visual tokens that are counted are still
        those of the whole images.
        """
        limits = loaded.pixel_limits
        if (asking := self.limited(loaded.backbone, limits)) is not None:
            return whole(loaded.backbone, loaded.processor, asking, question, images, smaller, videos, limits)
        tokens = tuple(loaded.image_tokens(image.height, image.width) for image in images)
        ids = self.ids(loaded.tokenizer, question, tokens, image_token_id=loaded.backbone.placeholder_id)
        shapes = loaded.backbone.shapes_images
        inputs = self.pixels(loaded.image_processor, images, shapes_images=shapes) if images else None
        return Prepared(ids, inputs, len(images), sum(tokens))

    def text(self, tokenizer: Any, question: str, images: int) -> str:
        """The whole prompt, with one `<image>` for each of `images` images."""
        raise NotImplementedError

    def rehearse(self, backbone: Backbone, tokenizer: Any, processor: Any) -> None:
        """Write a prompt on trial. Raises UserError for a family or a template with which no question can be asked."""
        self.check(backbone)
        asking = self.asking(backbone)
        mark = backbone.prompt_placeholder(tokenizer, processor) if asking else PLACEHOLDER
        for question in REHEARSED:
            text = templated(processor, asking, question, 1) if asking else self.text(tokenizer, question, 1)
            if question not in text or text.count(mark) != 1:
                way = "copy the one that belongs to it" if asking else "use protocol llava, or remove the template"
                raise UserError(
                    f"the tokenizer's chat template does not write the question {question!r} with one {mark}; {way}"
                )

    def ids(self, tokenizer: Any, question: str, images: Sequence[int], *, image_token_id: int) -> list[int]:
        """Token ids of the prompt. `images` gives the number of copies of `image_token_id` for each image.

        Raises ValueError when the question itself contains the placeholder.
        """
        raise NotImplementedError

    def pixels(
        self, image_processor: Any, images: Sequence[Image.Image], *, shapes_images: bool = False
    ) -> dict[str, torch.Tensor]:
        """The model's inputs for RGB images of any size, by name (see `hidrop.backbones.base.Vision`).

        shapes_images: the processor brings an image to a shape by itself, as with anyres or with a model of
        `image_aspect_ratio: square` (`Backbone.shapes_images`), so that no protocol pads it before.
        """
        return dict(image_processor(images=list(images), return_tensors="pt"))

    def seen(self, image: Image.Image) -> Image.Image:
        """The part of an RGB image that the model's square of patches covers without anyres, for people to see."""
        raise NotImplementedError


class LlavaProtocol(Protocol):
    """LLaVA's own evaluation: `vicuna_v1` with its system sentence, images padded to a square (LLaVA-NeXT: tiles)."""

    name = LLAVA
    turns_images = False  # LLaVA opens a file with PIL and does not look at its EXIF data
    max_new_tokens = 128

    def check(self, backbone: Backbone) -> None:
        if not backbone.llava_conversation:
            raise UserError(
                f"protocol: llava is LLaVA's own evaluation, with its conversation and square images, on which "
                f"{backbone.title} was not trained. Use native or lmms-eval"
            )

    def generation(self, task: Task) -> dict[str, Any]:
        longest = task.max_new_tokens or self.max_new_tokens
        return {"max_new_tokens": longest, "do_sample": False, "num_beams": 1, "temperature": 0.0, "until": []}

    def text(self, tokenizer: Any, question: str, images: int) -> str:
        return f"{SYSTEM} USER: {_with_images(question, images)} ASSISTANT:"

    def ids(self, tokenizer: Any, question: str, images: Sequence[int], *, image_token_id: int) -> list[int]:
        return piecewise(tokenizer, self.text(tokenizer, question, len(images)), images, image_token_id)

    def pixels(
        self, image_processor: Any, images: Sequence[Image.Image], *, shapes_images: bool = False
    ) -> dict[str, torch.Tensor]:
        if shapes_images:
            return super().pixels(image_processor, images)
        fill = tuple(int(255 * mean) for mean in image_processor.image_mean)
        return super().pixels(image_processor, [pad_to_square(image, fill) for image in images])

    def seen(self, image: Image.Image) -> Image.Image:
        return pad_to_square(image, GREY)


class LmmsEvalProtocol(Protocol):
    """lmms-eval's defaults for a family (`Backbone.asking`).

    For LLaVA they are the processor's chat template, if it has one, and plain CLIP preprocessing.
    """

    name = LMMS_EVAL
    turns_images = True  # lmms-eval gets its images from datasets, which turns them
    max_new_tokens = 1024

    def asking(self, backbone: Backbone) -> Asking | None:
        return backbone.asking

    def text(self, tokenizer: Any, question: str, images: int) -> str:
        """The chat template's text; without a template, transformers' `USER: <image>\\n... ASSISTANT:`.

        `Loaded.tokenizer` has the processor's template.

        Raises UserError for a template that loses the images, ValueError for a question with a placeholder in it.
        """
        if PLACEHOLDER in question:
            raise ValueError(f"the question itself contains {PLACEHOLDER}")
        if not getattr(tokenizer, "chat_template", None):
            return f"USER: {_with_images(question, images)} ASSISTANT:"
        # Some templates take a list of parts, older ones a string. The form that keeps an image is the right one.
        for parts in (True, False):
            probe = _templated(tokenizer, "probe", 1, parts)
            if probe.count(PLACEHOLDER) == 1 and "probe" in probe:
                return _templated(tokenizer, question, images, parts)
        raise UserError(
            f"the tokenizer's chat template does not keep an image's {PLACEHOLDER}; "
            "use protocol llava, or remove the template"
        )

    def ids(self, tokenizer: Any, question: str, images: Sequence[int], *, image_token_id: int) -> list[int]:
        text = self.text(tokenizer, question, len(images))
        if images and tokenizer.convert_tokens_to_ids(PLACEHOLDER) != image_token_id:
            return piecewise(tokenizer, text, images, image_token_id)  # the tokenizer does not know the placeholder
        bos = getattr(tokenizer, "bos_token", None)
        ids = tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids
        sizes = iter(images)
        return [i for t in ids for i in ([t] * next(sizes) if t == image_token_id else [t])]

    def seen(self, image: Image.Image) -> Image.Image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))


class NativeProtocol(Protocol):
    """The checkpoint's chat template and processor as they are, without a system prompt of anybody else's. Answers are
    greedy, and the checkpoint's generation_config.json gives nothing but the tokens that end them.
    """

    name = NATIVE
    turns_images = True
    max_new_tokens = 1024

    def asking(self, backbone: Backbone) -> Asking:
        return AS_THE_TEMPLATE

    def seen(self, image: Image.Image) -> Image.Image:
        return image


def imitated_class(name: str, family: type[Backbone]) -> str | None:
    """The model class of lmms-eval that a protocol imitates for a family; None: it imitates none."""
    return None if name != LMMS_EVAL else family.asking.name if family.asking else LLAVA_HF


PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (LlavaProtocol(), LmmsEvalProtocol(), NativeProtocol())}


def protocol(name: str) -> Protocol:
    """The protocol called `name`. Raises UserError for another name."""
    if name not in PROTOCOLS:
        raise UserError(f"protocol: unknown protocol '{name}'. Known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def protocol_version(name: str, task: str) -> str:
    """The version of a protocol's prompts, images and scores in a task, for a cell's identity: "1", or "1.2"."""
    revision = get_task(task).revisions.get(protocol(name).name, 0)
    return f"{PROTOCOL_VERSION[name]}.{revision}" if revision else PROTOCOL_VERSION[name]


def decoding(name: str, task: str) -> dict[str, Any] | str:
    """A task's decoding settings under a protocol, for a cell's identity. lmms-eval's follow from its version."""
    settings = protocol(name).generation(get_task(task))
    return _lmms_eval() if settings is None else settings


@functools.cache  # every cell of a matrix asks
def _lmms_eval() -> str:
    try:
        return f"lmms-eval {metadata.version('lmms-eval')}"
    except metadata.PackageNotFoundError:
        return "lmms-eval"


def whole(
    backbone: Backbone,
    processor: Any,
    asking: Asking,
    question: str,
    images: Sequence[Image.Image],
    smaller: Smaller | None = None,
    videos: Sequence[Video] = (),
    limits: PixelLimits = NO_LIMITS,
) -> Prepared:
    """A prompt that the processor makes of text and images together. Raises ValueError like `Protocol.prepare`."""
    if smaller is not None and videos:
        raise UserError("downsample: makes images smaller before the model, and has no rule for videos. Leave it out")
    question = asking.question(question)
    shown, (images, videos) = videos, frames_as_images(backbone, images, videos)
    marks = {backbone.prompt_placeholder(processor.tokenizer, processor)}
    marks |= {backbone.placeholder_of(processor.tokenizer, processor)}
    marks |= {processor.video_token} if videos else set()
    if found := [mark for mark in marks if mark in question]:
        raise ValueError(f"the question itself contains {found[0]}")
    text, films = templated(processor, asking, question, len(images), len(videos)), dict[str, Any]()
    if videos:
        text, films = expanded(backbone, processor, asking, text, videos, limits)
    seen = [asking.seen(image) for image in images]
    settings, uncut = dict(asking.settings), 0
    if smaller is not None and seen:
        seen, uncut = shrunk(backbone, processor, asking, seen, smaller)
        settings = {"do_resize": False}
    given: dict[str, Any] = {"images": [seen] if asking.together else seen} if seen else {}
    # As transformers does it: a template that writes the token of the beginning is not given a second one.
    bos = getattr(processor.tokenizer, "bos_token", None)
    special = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
    # A processor takes the placeholders of frames for those of images where the two are the same.
    make = processor.tokenizer if videos and not seen else processor
    made = make(text=[text], return_tensors="pt", **given, **special, **(settings if seen else {}))
    ids = made["input_ids"][0].tolist()
    inputs = {name: made[name] for name in backbone.image_inputs if name in made} | films
    visual = uncut or int((backbone.kinds(made["input_ids"]) != TEXT).sum())
    return Prepared(ids, inputs or None, len(images), visual, tuple(len(video.frames) for video in shown))


def shrunk(
    backbone: Backbone, processor: Any, asking: Asking, images: Sequence[Image.Image], smaller: Smaller
) -> tuple[list[Image.Image], int]:
    """Images at the pixels of fewer tokens, by the processor's own filter, and the tokens that they have whole."""
    from PIL.Image import Resampling

    config, side = backbone.model.config, backbone.token_side
    image_processor = backbone.with_settings(processor.image_processor, asking.settings)
    assert side is not None
    found, tokens = [], 0
    for image in images:
        rows, columns = backbone.token_grid(config, image.height, image.width, image_processor)
        tokens += rows * columns
        rows, columns = smaller(rows, columns)
        found.append(image.resize((columns * side, rows * side), Resampling(int(image_processor.resample))))
    return found, tokens


def templated(processor: Any, asking: Asking, question: str, images: int, videos: int = 0) -> str:
    """The chat template's text for one question after its images and videos.

    Raises UserError for a template that fails.
    """
    turns: list[dict[str, Any]] = []
    if asking.system is not None:
        turns.append({"role": "system", "content": [{"type": "text", "text": asking.system}]})
    media = [{"type": "image"}] * images + [{"type": "video"}] * videos
    turns.append({"role": "user", "content": [*media, {"type": "text", "text": question}]})
    if not getattr(processor, "chat_template", None):
        raise UserError("the checkpoint has no chat template; copy its chat_template.jinja or chat_template.json")
    with in_words("the chat template cannot be used", "Copy the one that belongs to the model"):
        return processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def _with_images(question: str, images: int) -> str:
    return f"{PLACEHOLDER}\n" * images + question


def _templated(tokenizer: Any, question: str, images: int, parts: bool) -> str:
    """The chat template's text for one user turn, its content as a list of parts or as a string; "" if it fails."""
    listed: list[dict[str, str]] = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    turn = {"role": "user", "content": listed if parts else _with_images(question, images)}
    try:
        return tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    except Exception:  # a template is a program, and can raise anything
        return ""
