"""LLaVA's conversations: the text around turns and images, its token ids, and the square that an image is padded to.

Evaluation asks by them and training teaches by them, so they are here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

PLACEHOLDER = "<image>"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# A chat template for LLaVA's conversations. A system turn has no name in front of it. A turn's content is a text with
# placeholders, or transformers' list of parts, whose images come first. Other roles and parts are errors.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: "
    "{% elif message['role'] != 'system' %}"
    "{{ raise_exception('unknown role ' + message['role'] + ': use system, user or assistant') }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] not in ('image', 'text') %}"
    "{{ raise_exception('unknown part ' + part['type'] + ': use image or text') }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{{ message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') }}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# What LLaVA's question files ask for at the end of a question.
SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."


def piecewise(tokenizer: Any, text: str, images: Sequence[int], image_token_id: int) -> list[int]:
    """Tokenise the text between the placeholders piece by piece and put the images in between, as LLaVA does.

    Each piece is tokenised as if it were a text of its own, so a sentencepiece tokenizer starts it with its word
    boundary: after the image come the boundary and then the newline. Tokenising the whole string, with `<image>` as
    a special token, may give other ids there. The tokenizer's BOS is kept once, at the very start. With LLaMA's own
    tokenizer the `vicuna_v1` prompt puts 35 ids before the image.

    Raises ValueError when `text` does not hold one placeholder for each of `images` (their numbers of tokens).
    """
    pieces = text.split(PLACEHOLDER)
    if len(pieces) != len(images) + 1:
        raise ValueError(f"the question itself contains {PLACEHOLDER}")
    bos, ids = getattr(tokenizer, "bos_token_id", None), []
    for number, piece in enumerate(pieces):
        part = list(tokenizer(piece).input_ids) if piece or not number else []
        if number:
            ids += [image_token_id] * images[number - 1]
            part = part[1:] if part and part[0] == bos else part
        ids += part
    return ids


def pad_to_square(image: Image.Image, fill: tuple[int, ...]) -> Image.Image:
    """The image in the middle of a square of its longer side, the rest filled with the RGB colour `fill`."""
    from PIL import Image as Images

    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Images.new("RGB", (side, side), fill)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
