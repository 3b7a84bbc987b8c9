from __future__ import annotations

from hidrop.backbones import geometry_of
from hidrop.geometry import PRESETS, Geometry


def test_sizes_are_read_off_the_config(tiny_llava):
    assert geometry_of(tiny_llava(kv_heads=2).config) == Geometry(
        layers=6,
        hidden=32,
        intermediate=64,
        heads=4,
        kv_heads=2,
        head_dim=8,
        vocab=100,
        visual_tokens=16,
        max_positions=512,
    )


def test_a_tower_that_keeps_its_class_token_gives_one_more(tiny_llava):
    config = tiny_llava().config
    config.vision_feature_select_strategy = "full"
    assert geometry_of(config).visual_tokens == 17


def test_presets_have_consistent_heads():
    for geometry in PRESETS.values():
        assert geometry.heads * geometry.head_dim == geometry.hidden
        assert geometry.heads % geometry.kv_heads == 0
        assert geometry.with_visual_tokens(10).visual_tokens == 10
