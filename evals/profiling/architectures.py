"""What a known model's config states besides the decoder's sizes: its tower, in transformers' own fields.

Sources, per model: the defaults of transformers 5.17's config class of the tower, where they are the release's sizes
(Qwen2-VL, InternVL3, LLaVA-OneVision); the release's config.json (Qwen2.5-VL, Qwen3-VL); the report and code of Gemma 3
(SigLIP So400m on 896 pixels); SmolVLM's model card (the same tower on 384 pixels, 3 x 3 patches a token). Presets
whose tower could not be verified are not listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hidrop.backbones import backbone_class
from hidrop.geometry import Geometry


@dataclass(frozen=True)
class Architecture:
    """A family by its model_type, and fields of its config: of the tower, of the decoder, and at the top."""

    family: str
    vision: Mapping[str, Any]
    text: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)

    def config(self, geometry: Geometry) -> Any:
        """A config of transformers with these sizes, for a model that is yet to be made.

        Raises ValueError if the family reads other sizes from it than `geometry` has.
        """
        import transformers

        family = backbone_class(self.family)
        assert family is not None
        made = getattr(transformers, family.config_class)(
            text_config={**geometry.text_config(), **self.text}, vision_config=dict(self.vision), **self.top
        )
        # The last rows of the vocabulary, whatever its size.
        for place, name in enumerate(family.placeholders, start=1):
            setattr(made, name, geometry.vocab - place)
        made.text_config.pad_token_id = None
        found = family.geometry_of(made)
        wanted = replace(geometry, visual_tokens=found.visual_tokens, referenced=found.referenced)
        if found != wanted:
            raise ValueError(f"{family.title} reads {found} from its config, and not {wanted}")
        if (problems := list(family.size_problems(made))) != []:
            raise ValueError(f"{family.title}: {'; '.join(problems)}")
        return made


def mrope(*section: int, theta: float = 1e6, **more: Any) -> dict[str, Any]:
    """RoPE of three axes; `section`: the numbers of a head's half for each."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": list(section), **more}}


def qwen2_5(hidden: int) -> Architecture:
    """32 blocks with windows of 112 pixels, four of which see the whole image; `hidden`: of the decoder."""
    tower: dict[str, Any] = dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, patch_size=14)
    tower |= dict(window_size=112, fullatt_block_indexes=[7, 15, 23, 31], tokens_per_second=2, out_hidden_size=hidden)
    return Architecture("qwen2_5_vl", tower, mrope(16, 24, 24))


def qwen3(hidden: int, **tower: Any) -> Architecture:
    """Patches of 16 pixels and three levels of DeepStack; `hidden`: of the decoder."""
    shared = dict(num_heads=16, patch_size=16, num_position_embeddings=2304, out_hidden_size=hidden)
    return Architecture("qwen3_vl", {**shared, **tower}, mrope(24, 20, 20, theta=5e6, mrope_interleaved=True))


SMALL_QWEN3 = dict(depth=24, hidden_size=1024, intermediate_size=4096, deepstack_visual_indexes=[5, 11, 17])
LARGE_QWEN3 = dict(depth=27, hidden_size=1152, intermediate_size=4304, deepstack_visual_indexes=[8, 16, 24])
SO400M = dict(hidden_size=1152, intermediate_size=4304, num_attention_heads=16, patch_size=14)
QWEN2 = {"model_type": "qwen2"}

# Towers for benches on a CPU, in proportion to the decoder.
BENCH_QWEN2_5 = dict(depth=6, hidden_size=384, intermediate_size=1024, num_heads=6, patch_size=14, window_size=112)
BENCH_QWEN3 = dict(depth=6, hidden_size=384, intermediate_size=1536, num_heads=6, patch_size=16)
NO_ENDS = {"bos_token_id": None, "eos_token_id": None}  # transformers' own are beyond a small vocabulary

ARCHITECTURES: dict[str, Architecture] = {
    "bench-qwen2.5-vl": Architecture(
        "qwen2_5_vl",
        dict(BENCH_QWEN2_5, fullatt_block_indexes=[2, 5], tokens_per_second=2, out_hidden_size=1024),
        mrope(16, 24, 24) | NO_ENDS,
    ),
    "bench-qwen3-vl": Architecture(
        "qwen3_vl",
        dict(BENCH_QWEN3, num_position_embeddings=2304, out_hidden_size=1024, deepstack_visual_indexes=[1, 3, 5]),
        mrope(24, 20, 20, theta=5e6, mrope_interleaved=True) | NO_ENDS,
    ),
    "qwen2-vl-7b": Architecture(
        "qwen2_vl",
        dict(depth=32, embed_dim=1280, hidden_size=3584, mlp_ratio=4, num_heads=16, patch_size=14),
        mrope(16, 24, 24),
    ),
    "qwen2.5-vl-3b": qwen2_5(2048),
    "qwen2.5-vl-7b": qwen2_5(3584),
    "qwen3-vl-2b": qwen3(2048, **SMALL_QWEN3),
    "qwen3-vl-4b": qwen3(2560, **SMALL_QWEN3),
    "qwen3-vl-8b": qwen3(4096, **LARGE_QWEN3),
    "qwen3-vl-32b": qwen3(5120, **LARGE_QWEN3),
    # The last of the tower's 27 layers is left out in the release.
    "llava-onevision-7b": Architecture(
        "llava_onevision",
        dict(SO400M, model_type="siglip_vision_model", num_hidden_layers=26, image_size=384, vision_use_head=False),
        QWEN2,
    ),
    "internvl3-8b": Architecture(
        "internvl",
        dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
        | dict(image_size=[448, 448], patch_size=[14, 14], attention_bias=True),
        QWEN2,
        {"tie_word_embeddings": False},
    ),
    "smolvlm-2.2b": Architecture(
        "smolvlm", dict(SO400M, num_hidden_layers=27, image_size=384), {"model_type": "llama"}, {"scale_factor": 3}
    ),
    "gemma3-4b": Architecture(
        "gemma3",
        dict(SO400M, num_hidden_layers=27, image_size=896, vision_use_head=False),
        dict(sliding_window=1024, query_pre_attn_scalar=256),
        {"mm_tokens_per_image": 256},
    ),
}
