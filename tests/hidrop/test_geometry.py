from __future__ import annotations

import pytest

from hidrop.backbones import geometry_of
from hidrop.geometry import PRESETS, Geometry

# Two key heads for four of the queries', and a head size that is not hidden / heads: no size can stand for another.
ODD = Geometry(layers=3, hidden=20, intermediate=28, heads=4, kv_heads=2, head_dim=6, vocab=50, visual_tokens=9)


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


# Their heads are wider or narrower together than the hidden states.
FREE_HEADS = {"qwen3-vl-4b": 4096, "qwen3-vl-32b": 8192, "gemma3-4b": 2048}


def test_presets_have_consistent_heads():
    for name, geometry in PRESETS.items():
        assert geometry.heads * geometry.head_dim == FREE_HEADS.get(name, geometry.hidden)
        assert geometry.heads % geometry.kv_heads == 0
        assert geometry.with_visual_tokens(10).visual_tokens == 10


@pytest.mark.parametrize(
    ("name", "non_embedding"),
    [
        ("qwen2.5-vl-3b", 2.77e9),  # Qwen2.5-3B, as its model card counts
        ("qwen2.5-vl-7b", 6.53e9),
        ("qwen2.5-vl-32b", 31.0e9),
        ("qwen3-vl-2b", 1.4e9),  # Qwen3-1.7B
        ("qwen3-vl-4b", 3.6e9),
        ("qwen3-vl-8b", 6.95e9),
        ("qwen3-vl-32b", 31.2e9),
    ],
)
def test_presets_have_about_the_parameters_of_their_decoders_model_cards(name, non_embedding):
    geometry = PRESETS[name]
    assert geometry.layers * geometry.layer_weights == pytest.approx(non_embedding, rel=0.01)


@pytest.mark.parametrize(("name", "parameters"), [("llava-1.5-7b", 6_738_415_616), ("llava-1.5-13b", 13_015_864_320)])
def test_presets_have_the_parameters_of_the_published_language_models(name, parameters):
    """LLaMA-2's counts: two embeddings of 32000 words, norms of `hidden` weights, and the layers' projections."""
    geometry = PRESETS[name]
    embeddings, norms = 2 * 32_000 * geometry.hidden, (2 * geometry.layers + 1) * geometry.hidden
    assert geometry.layers * geometry.layer_weights + embeddings + norms == parameters


def test_presets_have_the_tokens_of_square_images_and_padded_vocabularies():
    tower = (336 // 14) ** 2
    own = ("gemma3-4b", "bench-40m-144")
    square = [geometry for name, geometry in PRESETS.items() if not geometry.dynamic and name not in own]
    assert {geometry.visual_tokens for geometry in square} == {tower}
    assert PRESETS["llava-next-7b"].visual_tokens == 5 * tower
    assert all(geometry.vocab % 64 == 0 for geometry in square)


def test_presets_of_tiles_have_the_tokens_of_the_most_tiles_and_the_whole_image():
    onevision, internvl, smolvlm = (384 // 14) ** 2, (448 // 14 // 2) ** 2, (384 // 14 // 3) ** 2
    tokens = {name: PRESETS[name].visual_tokens for name in ("llava-onevision-7b", "internvl3-8b", "smolvlm-2.2b")}
    assert list(tokens.values()) == [(1 + 9) * onevision, (1 + 12) * internvl, (1 + 16) * smolvlm]
    assert PRESETS["gemma3-4b"].visual_tokens == (896 // 14 // 4) ** 2
    assert PRESETS["qwen2.5-vl-7b"].visual_tokens == (1008 // 28) ** 2
    assert PRESETS["qwen3-vl-8b"].visual_tokens == (1024 // 32) ** 2


def test_a_config_of_the_sizes_has_them_under_transformers_names():
    from transformers import LlamaConfig

    config = LlamaConfig(**ODD.text_config())
    found = (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads)
    assert found == (ODD.layers, ODD.hidden, ODD.intermediate, ODD.heads)
    found = (config.num_key_value_heads, config.head_dim, config.vocab_size, config.max_position_embeddings)
    assert found == (ODD.kv_heads, ODD.head_dim, ODD.vocab, 4096)


@pytest.mark.parametrize("causal", [True, False])
def test_operations_of_a_layer_are_those_of_its_products_one_by_one(causal):
    """Each product of a matrix (n, a) with one of (a, b) has n a b multiply-accumulates of two operations."""
    tokens, queries, keys = 7, 4 * 6, 2 * 6
    products = [(20, queries), (20, keys), (20, keys), (queries, 20), (20, 28), (20, 28), (28, 20)]
    operations = sum(2 * tokens * a * b for a, b in products)
    for row in range(tokens):
        seen = row + 1 if causal else tokens
        operations += 4 * seen * 2 * 6  # each of four heads: the product with a key, and with a value
        operations += 4 * seen * 2 * 6
    assert ODD.layer_flops(tokens, causal=causal) == operations
    assert ODD.layer_flops(tokens) == ODD.layer_flops(tokens, causal=True)
    assert ODD.layer_weights == sum(a * b for a, b in products)
    assert ODD.layer_kv_bytes(tokens, 2) == tokens * (keys + keys) * 2


def test_a_word_that_says_nothing_about_counts_is_refused():
    with pytest.raises(ValueError, match="counts: 'Fixed' is not one of 'scaled', 'fixed'"):
        ODD.counted(None, "Fixed")
