"""VisionZip without a class token, against a second implementation, one loop at a time.

With a class token (LLaVA) it is compared with the slow model in test_every_method.py, and the attention that tokens
receive with transformers' own in test_attended.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.downsample import Downsample
from baselines.visionzip import VisionZip
from hidrop.backbones import backbone_class, backbone_of
from hidrop.geometry import PRESETS
from hidrop.runtime import reduce
from tests.hidrop.backbones.families import FAMILIES, batch_of, model_of, with_own

# Counts of an image of 16 tokens, and of one of 1296: of 12 tokens 4 + 1, of 10 tokens 3 + 1, of 18 tokens 6 + 2.
SQUARE, NOMINAL = VisionZip(5, 3), VisionZip(400, 200)
COUNTS = {16: (5, 3), 12: (4, 1), 10: (3, 1), 18: (6, 2), 24: (8, 3)}
REFERENCE = {SQUARE: 16, NOMINAL: 1296}
NAMES = {name: NOMINAL if name in with_own("places") else SQUARE for name in with_own("attended")}
every_family = pytest.mark.parametrize("name", NAMES)


def slow(one: Any, dominant: int, contextual: int) -> dict[int, torch.Tensor]:
    """The tokens that are left of one medium, by their places."""
    features, seen = one.features_KD, one.received_K.tolist()
    kept = sorted(range(len(seen)), key=lambda n: (-seen[n], n))[:dominant]
    rest = [n for n in range(len(seen)) if n not in kept]
    targets = [rest[n * (len(rest) // contextual)] for n in range(contextual)]
    joined: dict[int, list[torch.Tensor]] = {target: [] for target in targets}
    for n in rest:
        if n not in targets:
            near = [torch.cosine_similarity(one.key_Kd[n], one.key_Kd[t], dim=0).item() for t in targets]
            joined[targets[near.index(max(near))]].append(features[n])
    found = {n: features[n] for n in kept}
    return found | {t: features[t] + (sum(who) / len(who) if who else 0) for t, who in joined.items()}


@every_family
def test_dominant_and_merged_tokens_are_at_their_places_with_all_levels(name):
    backbone = backbone_of(model_of(name)).counting(REFERENCE[NAMES[name]])
    sizes, videos = list(FAMILIES[name].sizes), FAMILIES[name].videos[:1]
    if name == "qwen3_vl":
        sizes = sizes[:2]
    vision = backbone.vision(batch_of(name, [sizes], videos=[videos]))
    with torch.no_grad():
        made, attended = NAMES[name].encode(vision), backbone.attended(vision)
    for one, wanted in zip(made, attended, strict=True):
        left = slow(wanted, *COUNTS[len(one)])
        assert one.shape == wanted.features_KD.shape
        assert one.any(1).nonzero()[:, 0].tolist() == sorted(left)
        for place, feature in left.items():
            torch.testing.assert_close(one[place], feature, atol=1e-5, rtol=1e-5)


@every_family
def test_the_decoder_gets_them_and_nothing_else_of_every_image(name):
    """Counts are those of each image by itself: several images in a prompt, and none."""
    model, reducer = model_of(name), NAMES[name]
    stated, sizes = {"reference_tokens": REFERENCE[reducer]}, list(FAMILIES[name].sizes)
    backbone = backbone_of(model).counting(**stated)
    rows = [sizes[:1], sizes[:2], []]
    inputs = batch_of(name, rows, "right")
    with reduce(model, reducer, **stated) as reduction, torch.no_grad():
        model(**inputs)
        kept, entering = reduction.kept[0].rows, [row[0] for row in reduction.trace.rows]
        made = reducer.encode(backbone.vision(inputs))
    visual = (backbone.kinds(inputs["input_ids"]) > 0).sum(1).tolist()
    for row, tokens in enumerate(visual):
        media: list[torch.Tensor] = []
        while sum(map(len, media)) < tokens:
            media.append(made.pop(0))
        assert entering[row] == sum(sum(COUNTS[len(one)]) for one in media) == len(kept[row])
        places = torch.cat(media).any(1).nonzero()[:, 0].tolist() if media else []
        assert list(kept[row]) == places


def test_several_images_keep_the_sum_of_what_each_keeps_and_not_the_share_of_the_sum():
    """Of 12 + 10 tokens 5 + 4, where the share of 22 would be 10."""
    model = model_of("qwen2_vl")
    sizes = list(FAMILIES["qwen2_vl"].sizes)
    with reduce(model, NOMINAL, reference_tokens=1296) as reduction, torch.no_grad():
        model(**batch_of("qwen2_vl", [sizes[:2]]))
        assert reduction.trace.entering == (9,) * 6
    assert NOMINAL.plan(backbone_of(model).geometry.counted(1296), 22).entering == (10,) * 6


def test_fixed_counts_are_those_of_each_image_as_far_as_it_has_so_many():
    model, sizes = model_of("qwen2_vl"), list(FAMILIES["qwen2_vl"].sizes)
    with reduce(model, VisionZip(9, 2), reference_tokens=1296, counts="fixed") as reduction, torch.no_grad():
        model(**batch_of("qwen2_vl", [sizes[:2]]))
        assert reduction.trace.entering == (11 + 10,) * 6


def test_placeholders_that_end_within_an_image_are_refused():
    """Two prompts whose numbers of placeholders are right in their sum only."""
    model, sizes = model_of("qwen2_vl"), list(FAMILIES["qwen2_vl"].sizes)
    inputs = batch_of("qwen2_vl", [sizes[:1], sizes[:1]])
    ids, image = inputs["input_ids"], model.config.image_token_id
    first = (ids[0] == image).nonzero()[0, 0]
    ids[0, first] = 40
    ids[1, (ids[1] == image).nonzero()[0, 0] - 1] = image
    message = "holds 11 image or video tokens, but its media have 12: give each prompt the placeholders of whole images"
    with reduce(model, NOMINAL, reference_tokens=1296), torch.no_grad(), pytest.raises(ValueError, match=message):
        model(**inputs)


@pytest.mark.parametrize("preset", ["llava-next-7b", "llava-onevision-7b"])
@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_tiles_with_line_ends_are_refused_in_words(preset, family):
    message = "visionzip: images in tiles .* are not supported"
    with pytest.raises(ValueError, match=message):
        VisionZip(54, 10).plan(PRESETS[preset])
    with pytest.raises(ValueError, match=message):
        reduce(model_of(family), SQUARE, reference_tokens=25)


def test_a_family_can_be_asked_without_a_model():
    refused = {name for name in FAMILIES if VisionZip.refuses(backbone_class(name)) is not None}
    assert refused == {"llava_next", "llava_onevision"}
    assert "in tiles" in VisionZip.refuses(backbone_class("llava_onevision"))
    one_size = {"internvl", "smolvlm", "idefics3", "gemma3"}
    assert {name for name in FAMILIES if Downsample.refuses(backbone_class(name)) is not None} == refused | one_size


def test_a_tower_without_class_token_and_attention_is_refused_in_words(monkeypatch):
    family = backbone_class("gemma3")
    monkeypatch.delattr(family, "attended")
    message = "visionzip: Gemma 3: it needs a tower with a class token, or images that are one grid of patches each"
    with pytest.raises(ValueError, match=message):
        reduce(model_of("gemma3"), VisionZip(4, 2))
    assert "attention" not in str(Downsample.refuses(family))


def test_a_tiny_image_keeps_one_token():
    vision = backbone_of(model_of("qwen2_vl")).counting(1296).vision(batch_of("qwen2_vl", [[(56, 56)]]))
    with torch.no_grad():
        (made,) = VisionZip(100, 20).encode(vision)
    assert len(made) == 4
    assert made.any(1).sum() == 1
