"""What methods that choose by the tower's attention share: the attention, places, counts and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from baselines.chosen import Chosen
from baselines.class_attention import class_attention
from baselines.fastervlm import FasterVLM
from baselines.holov import HoloV
from baselines.vispruner import VisPruner
from hidrop.backbones import backbone_class, backbone_of
from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.methods import build, method_class
from hidrop.runtime import reduce
from tests.baselines.slow_tower_rules import slow_fastervlm, slow_holov, slow_vispruner
from tests.conftest import make_llava
from tests.hidrop.backbones.families import FAMILIES, batch_of, model_of, with_own


def slow_fastervlm_of(seen: list[float], x: list[torch.Tensor], keep: int) -> list[int]:
    return slow_fastervlm(seen, keep)


def slow_vispruner_of(seen: list[float], x: list[torch.Tensor], keep: int) -> list[int]:
    return slow_vispruner(seen, x, keep, 0.4, 2)


def slow_holov_of(seen: list[float], x: list[torch.Tensor], keep: int) -> list[int]:
    return slow_holov(seen, x, keep, 3, 0.5, True)


# Of each method its class, fields besides `keep`, and its slow rule.
METHODS: dict[str, tuple[type[Chosen], dict[str, Any], Callable[..., list[int]]]] = {
    "fastervlm": (FasterVLM, {}, slow_fastervlm_of),
    "vispruner": (VisPruner, dict(important=0.4, step=2), slow_vispruner_of),
    "holov": (HoloV, dict(crops=3, pick="score", alpha=0.5), slow_holov_of),
}
every_method = pytest.mark.parametrize("row", METHODS)


def method_of(row: str, keep: int) -> Chosen:
    cls, fields, _ = METHODS[row]
    return cls(keep, **fields)


def test_the_attention_is_that_of_the_layer_whose_output_the_features_are(pixels):
    model = make_llava(attention="eager")
    vision = backbone_of(model).vision({"pixel_values": pixels(2)})
    with torch.no_grad():
        found = class_attention(vision)
        out = model.model.vision_tower(pixels(2), output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(found.seen_IHN, out.attentions[-2][:, :, 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.features_IND, out.hidden_states[-2])
    torch.testing.assert_close(found.mean_IP * 2, found.sum_IP)
    assert found.mean_IP.shape == (2, 16)


@every_method
@pytest.mark.parametrize("name", with_own("attended"))
def test_without_a_class_token_tokens_stay_at_their_places_with_all_levels(row, name):
    reference = 1000 if name in with_own("places") else 16
    method = method_of(row, reference // 3)
    backbone = backbone_of(model_of(name)).counting(reference)
    sizes = list(FAMILIES[name].sizes)[:2]
    vision = backbone.vision(batch_of(name, [sizes], videos=[FAMILIES[name].videos[:1]]))
    with torch.no_grad():
        made, attended = method.encode(vision), backbone.attended(vision)
    for one, whole in zip(made, attended, strict=True):
        keep = max(1, len(one) * (reference // 3) // reference)
        own = whole.features_KD.double()[:, : whole.features_KD.shape[1] // (1 + backbone.levels)]
        places = sorted(METHODS[row][2](whole.received_K.double().tolist(), list(own), keep))
        assert one.any(1).nonzero()[:, 0].tolist() == places
        assert torch.equal(one[places], whole.features_KD[places])


@every_method
def test_fixed_counts_are_those_of_each_image_as_far_as_it_has_so_many(row):
    model, sizes = model_of("qwen2_vl"), list(FAMILIES["qwen2_vl"].sizes)
    with reduce(model, method_of(row, 11), reference_tokens=1296, counts="fixed") as reduction, torch.no_grad():
        model(**batch_of("qwen2_vl", [sizes[:2]]))
        assert reduction.trace.entering == (11 + 10,) * 6


@every_method
@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_tiles_with_line_ends_are_refused_in_words(row, family):
    message = f"{row}: images in tiles .* are not supported"
    with pytest.raises(ValueError, match=message):
        method_of(row, 64).plan(PRESETS["llava-next-7b"])
    with pytest.raises(ValueError, match=message):
        reduce(model_of(family), method_of(row, 5), reference_tokens=25)


@every_method
def test_a_family_can_be_asked_without_a_model(row):
    refused = {name for name in FAMILIES if method_class(row).refuses(backbone_class(name)) is not None}
    assert refused == {"llava_next", "llava_onevision"}
    assert "in tiles" in method_class(row).refuses(backbone_class("llava_onevision"))


@every_method
@pytest.mark.parametrize("keep", [0, 17])
def test_a_count_that_no_image_has_is_refused(row, keep, tiny_llava):
    with pytest.raises(ValueError, match=f"keep: {keep} must be in 1..16, the tokens of an image"):
        reduce(tiny_llava(), method_of(row, keep))


@every_method
def test_the_class_token_is_never_chosen(row, tiny_llava, pixels):
    """Strategy "full" makes it one of the image's 17 visual tokens."""
    model = tiny_llava()
    model.config.vision_feature_select_strategy = "full"
    vision = backbone_of(model).vision({"pixel_values": pixels()})
    with pytest.raises(ValueError, match="keep: 17 tokens, but an image has 16 patches besides the class token"):
        method_of(row, 17).encode(vision)
    with torch.no_grad():
        assert method_of(row, 16).encode(vision)[0].any(1).tolist() == [True] * 16 + [False]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fastervlm", (432, 288, 144, 58, 29)),
        ("vispruner", (192, 128, 64, 32)),
        ("holov", (64,)),
    ],
)
def test_published_settings_are_counts_of_576_patches(name, settings):
    cls = method_class(name)
    assert tuple(map(int, cls.published)) == settings
    for keep in settings:
        for preset in ("llava-1.5-7b", "llava-1.5-13b"):
            assert build(name, {"published": str(keep)}).plan(PRESETS[preset]).average_tokens == keep
        assert solve(name, None, keep, PRESETS["llava-1.5-7b"]) == build(name, {"published": str(keep)})
    with pytest.raises(ValueError, match="out of reach: with these layers it reaches 1.00..576.00"):
        solve(name, None, 577, PRESETS["llava-1.5-7b"])
