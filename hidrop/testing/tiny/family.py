"""What describes a tiny random checkpoint of a family: one `Family`, and the sizes that all of them share.

Weights are larger than usual, and biases and norms are random too: logits reach 7 to 12 and attention is not uniform,
so that a missing part changes the output. Tokenizers know bytes and the family's special tokens. An image of 56 x 84
pixels has between 4 and about 200 visual tokens, and several tiles in families with tiles.

transformers' video processors need torchvision, which the project does not install. Their settings are therefore
written by hand (`video`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hidrop.testing.tiny.family_tokenizers import qwen_tokenizer

LAYERS = 6
HIDDEN = 64
VOCAB = 384  # rows of the embedding; no tokenizer fills them, as in most releases
SPREAD = 0.25  # of weight matrices
JITTER = 0.2  # of biases and norms around their initial value

# What all decoders share: grouped-query attention, and room for prompts of bytes.
TEXT = dict(
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    intermediate_size=96,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
)
TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)

# Mean and standard deviation of red, green and blue.
CLIP = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
HALF = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


@dataclass(frozen=True)
class Family:
    """Everything in a family's folder except the weights.

    `config` has the fields of config.json. `tokens` are the special tokens in the order of their ids, and `named` are
    those that the processor looks up by name on the tokenizer. `images` and `video` are the settings of the image and
    video processors, `processor` those of the processor itself. `generation` has fields of generation_config.json.
    """

    model_class: str
    processor_class: str
    image_processor: tuple[str, str]  # model type whose folder of transformers has the class, and its name
    config: dict[str, Any]
    tokens: list[str]
    bos: str | None
    eos: str
    pad: str
    template: str
    images: dict[str, Any]
    named: dict[str, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    tokenizer: Callable[[Family], Any] = field(default_factory=lambda: qwen_tokenizer)

    def token_id(self, token: str) -> int:
        """Special tokens follow the bytes."""
        return 256 + self.tokens.index(token)


def video(kind: str, **settings: Any) -> dict[str, Any]:
    """A video processor's section of processor_config.json, with the fields that all of them write."""
    steps: dict[str, Any] = dict(do_convert_rgb=True, do_normalize=True, do_rescale=True, do_resize=True)
    steps |= dict(do_sample_frames=False, resample=3, rescale_factor=1 / 255, return_metadata=False)
    return {"video_processor_type": kind, **steps, **settings}
