"""The sizes of a model that a token plan, a FLOPs count or a KV cache depends on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

# What an absolute number of tokens means for a prompt with another number than the reference image.
#   scaled: the same share of it.
#   fixed:  the same number, or all that there are.
Counts = Literal["scaled", "fixed"]


@dataclass(frozen=True)
class Geometry:
    """Sizes of a multimodal decoder. Counts are per sequence; nothing here needs weights.

    `visual_tokens` is the number of visual tokens of ONE image at the model's own resolution. In a `dynamic` family
    each image has its own number, and this is that of a reference image: LLaVA-NeXT's largest one, line ends left out,
    as its tables count; elsewhere the one that the user states (`reference_tokens`). Methods state their counts for
    that number, and a prompt with more or fewer scales them (with `fixed_counts` each prompt keeps that many).

    `rope_axes`: numbers in one RoPE position. Positions of several axes (M-RoPE) cannot be renumbered.
    `tiled`: an image is seen in tiles whose rows end with a token of their own (anyres).
    `referenced`: whether absolute counts have a meaning, because `visual_tokens` was published or stated.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    visual_tokens: int
    max_positions: int = 4096
    dynamic: bool = False
    tiled: bool = False
    rope_axes: int = 1
    referenced: bool = True
    fixed_counts: bool = False

    @classmethod
    def of_decoder(cls, config: Any, visual_tokens: int) -> Geometry:
        """Sizes of a decoder by its config of transformers, fed with `visual_tokens` an image."""
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocab=config.vocab_size,
            visual_tokens=visual_tokens,
            max_positions=config.max_position_embeddings,
        )

    def text_config(self) -> dict[str, int]:
        """The decoder's sizes under transformers' names, for a config of one that is yet to be made."""
        return {
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
        }

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's projections: q, k, v, o and the three of the MLP."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads) + 3 * self.hidden * self.intermediate

    def layer_flops(self, tokens: int, *, causal: bool = True) -> int:
        """Operations of one layer on one sequence; a multiply-accumulate is two.

        `causal` counts the n (n + 1) / 2 query-key pairs that a causal kernel computes; False counts the full square.
        """
        pairs = tokens * (tokens + 1) // 2 if causal else tokens * tokens
        return 2 * tokens * self.layer_weights + 4 * self.heads * self.head_dim * pairs

    def layer_kv_bytes(self, tokens: int, element_bytes: int) -> int:
        """Bytes of one layer's keys and values of one sequence."""
        return 2 * tokens * self.kv_heads * self.head_dim * element_bytes

    def counted(self, reference_tokens: int | None, counts: Counts = "scaled") -> Geometry:
        """The same with the image that absolute counts are of; None keeps it. See `Counts`.

        Raises ValueError for another number than every image has, and for a number or a word that there is not.
        """
        if reference_tokens is not None and not self.dynamic and reference_tokens != self.visual_tokens:
            raise ValueError(
                f"reference_tokens: {reference_tokens}, but every image of this model has {self.visual_tokens} tokens; "
                "leave it out"
            )
        if counts not in get_args(Counts):
            raise ValueError(f"counts: {counts!r} is not one of {', '.join(map(repr, get_args(Counts)))}")
        if reference_tokens is not None and reference_tokens < 1:
            raise ValueError(f"reference_tokens: {reference_tokens} is too few; at least 1")
        return replace(
            self,
            visual_tokens=reference_tokens or self.visual_tokens,
            referenced=self.referenced or reference_tokens is not None,
            fixed_counts=counts == "fixed",
        )

    @property
    def counting(self) -> dict[str, Any]:
        """The arguments of `counted` that give this geometry's counts."""
        return {"reference_tokens": self.visual_tokens, "counts": "fixed" if self.fixed_counts else "scaled"}

    def with_visual_tokens(self, count: int) -> Geometry:
        """The same decoder fed with `count` visual tokens (several images, or another resolution)."""
        return replace(self, visual_tokens=count)


# Published architectures, so that plans and FLOPs can be printed without a checkpoint on disk.
# Sources: the models' config.json; MobileLLaMA-2.7B as used by MobileVLM and by HiDrop's table of schedules.
PRESETS: dict[str, Geometry] = {
    "llava-1.5-7b": Geometry(32, 4096, 11008, 32, 32, 128, 32064, 576),
    "llava-1.5-13b": Geometry(40, 5120, 13824, 40, 40, 128, 32064, 576),
    "mobilellama-2.7b": Geometry(32, 2560, 6912, 32, 32, 80, 32064, 576, max_positions=2048),
    "llava-next-7b": Geometry(32, 4096, 11008, 32, 32, 128, 32064, 2880, dynamic=True, tiled=True),
    # Sizes for benches on a CPU: LLaVA's shape, and Qwen's with fewer KV heads. bench-40m shows what grows with the
    # number of visual tokens.
    "bench-400m": Geometry(24, 1024, 2816, 16, 16, 64, 32064, 576),
    "bench-40m": Geometry(12, 512, 1408, 8, 8, 64, 32064, 576),
    "bench-40m-144": Geometry(12, 512, 1408, 8, 8, 64, 32064, 144),
    "bench-qwen2.5-vl": Geometry(24, 1024, 2816, 8, 2, 128, 32064, 576, dynamic=True, rope_axes=3, referenced=False),
    "bench-qwen3-vl": Geometry(24, 1024, 2816, 8, 4, 128, 32064, 576, dynamic=True, rope_axes=3, referenced=False),
    # Each image of the models below has its own number of tokens. The number here only reads a budget of tokens.
    # Qwen: 256 to 1280 tokens is the range that Qwen2-VL's README recommends; 1296 and 1024 are settings of published
    # tables (results/reference).
    "qwen2-vl-7b": Geometry(
        28, 3584, 18944, 28, 4, 128, 152064, 1280, 32768, dynamic=True, rope_axes=3, referenced=False
    ),
    "qwen2.5-vl-3b": Geometry(
        36, 2048, 11008, 16, 2, 128, 151936, 1296, 128000, dynamic=True, rope_axes=3, referenced=False
    ),
    "qwen2.5-vl-7b": Geometry(
        28, 3584, 18944, 28, 4, 128, 152064, 1296, 128000, dynamic=True, rope_axes=3, referenced=False
    ),
    "qwen2.5-vl-32b": Geometry(
        64, 5120, 27648, 40, 8, 128, 152064, 1296, 128000, dynamic=True, rope_axes=3, referenced=False
    ),
    "qwen3-vl-2b": Geometry(
        28, 2048, 6144, 16, 8, 128, 151936, 1024, 262144, dynamic=True, rope_axes=3, referenced=False
    ),
    "qwen3-vl-4b": Geometry(
        36, 2560, 9728, 32, 8, 128, 151936, 1024, 262144, dynamic=True, rope_axes=3, referenced=False
    ),
    "qwen3-vl-8b": Geometry(
        36, 4096, 12288, 32, 8, 128, 151936, 1024, 262144, dynamic=True, rope_axes=3, referenced=False
    ),
    "qwen3-vl-32b": Geometry(
        64, 5120, 25600, 64, 8, 128, 151936, 1024, 262144, dynamic=True, rope_axes=3, referenced=False
    ),
    # The whole image and the most tiles, line ends left out: 1 + 9 of 729 tokens; 1 + 12 of 256; 1 + 16 of 81.
    "llava-onevision-7b": Geometry(
        28, 3584, 18944, 28, 4, 128, 152128, 7290, 32768, dynamic=True, tiled=True, referenced=False
    ),
    "internvl3-8b": Geometry(28, 3584, 18944, 28, 4, 128, 151674, 3328, 32768, dynamic=True, referenced=False),
    "smolvlm-2.2b": Geometry(24, 2048, 8192, 32, 32, 64, 49155, 1377, 16384, dynamic=True, referenced=False),
    # An image without crops, in prompts within the window of its layers.
    "gemma3-4b": Geometry(34, 2560, 10240, 8, 4, 256, 262208, 256, 1024),
}
