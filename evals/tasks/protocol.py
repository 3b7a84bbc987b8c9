"""The two evaluation protocols: how a question and its images become token ids and pixels.

`llava` is the evaluation that gave LLaVA-1.5's published numbers (its `vicuna_v1` conversation, square padding, its
own question texts). `lmms-eval` is that toolkit's defaults for its class `llava_hf` (its question texts, the
processor's chat template, CLIP preprocessing with a centre crop). lmms-eval's other class, `llava`, runs LLaVA's own
code and comes closer to `llava` here. The same model scores differently, so every table names its protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from evals.tasks.base import LLAVA, LMMS_EVAL, ProtocolName, Task
from evals.tasks.registry import get_task
from hidrop.errors import UserError
from hidrop.prompts import PLACEHOLDER, SYSTEM, pad_to_square, piecewise

if TYPE_CHECKING:
    import torch
    from PIL import Image

# Part of a cell's identity: raise a protocol's version when its prompts, images or scores change for the same model. A
# change of one task has `Task.revisions`, so that the other tasks' finished cells stay valid.
PROTOCOL_VERSION: dict[str, str] = {
    LLAVA: "1",
    LMMS_EVAL: "2",  # 2: images are turned by their EXIF data, and the chat template is the processor's
}

# Questions of more than one word, to try a chat template on.
REHEARSED = ("What is it?", "Where is the cat?\nA. left\nB. right")
GREY = (122, 116, 104)  # CLIP's mean colour


class Protocol:
    """Base of the two protocols. An instance has no state; get one with `protocol(name)`."""

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

    def text(self, tokenizer: Any, question: str, images: int) -> str:
        """The whole prompt, with one `<image>` for each of `images` images."""
        raise NotImplementedError

    def rehearse(self, tokenizer: Any) -> None:
        """Write a prompt on trial. Raises UserError for a tokenizer with which no question can be asked."""
        for question in REHEARSED:
            text = self.text(tokenizer, question, 1)
            if question not in text or text.count(PLACEHOLDER) != 1:
                raise UserError(
                    f"the tokenizer's chat template does not write the question {question!r} with one {PLACEHOLDER}; "
                    "use protocol llava, or remove the template"
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
    """lmms-eval's defaults for transformers models (its class `llava_hf`): the processor's chat template if it has one,
    plain CLIP preprocessing.
    """

    name = LMMS_EVAL
    turns_images = True  # lmms-eval gets its images from datasets, which turns them
    max_new_tokens = 1024

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


PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (LlavaProtocol(), LmmsEvalProtocol())}


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
    if settings is not None:
        return settings
    try:
        return f"lmms-eval {metadata.version('lmms-eval')}"
    except metadata.PackageNotFoundError:
        return "lmms-eval"


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
