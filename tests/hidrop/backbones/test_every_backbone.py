"""What holds for every model family. A new family is a row in FAMILIES (families.py).

The reference is transformers' own forward and its own attention weights, never a second run of our loop. Reduced runs
are compared in test_reduced.py, RoPE positions of several axes in test_mrope.py.
"""

from __future__ import annotations

import copy
import inspect
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch

from hidrop.backbones import BACKBONES, Backbone, backbone_class, backbone_of, family_of, geometry_of
from hidrop.backbones.model_inputs import size_of
from hidrop.cache_name import cache_name
from hidrop.errors import UserError
from hidrop.methods import build
from hidrop.pretrained import pretrained
from hidrop.runtime import reduce
from hidrop.runtime.cuda_graphs import Graphs
from hidrop.runtime.feature_cache import FeatureCache
from hidrop.runtime.repeated_rows import repeat_rows
from tests.conftest import make_llava, make_llava_next
from tests.hidrop.backbones.families import FAMILIES, batch_of, derived, model_of, positioned, row_of
from tests.hidrop.runtime.test_cuda_graphs import FxRecorder

every_family = pytest.mark.parametrize("name", FAMILIES)
with_video = pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.videos])
ATOL = 2e-5


def close(made: torch.Tensor, wanted: torch.Tensor, atol: float = ATOL) -> None:
    """Equal within `atol` for logits up to 5; float32 rounds larger ones more."""
    atol *= max(1.0, wanted.abs().max().item() / 5)
    torch.testing.assert_close(made, wanted, atol=atol, rtol=0)


@every_family
def test_a_family_states_all_that_has_no_default(name: str) -> None:
    kind = backbone_class(name)
    assert kind is not None
    needed = [one for one in Backbone.__annotations__ if not hasattr(Backbone, one)]
    missing = [one for one in needed if not hasattr(kind, one)] + sorted(kind.__abstractmethods__)
    assert not missing, f"{kind.__name__} lacks {', '.join(missing)}: see hidrop/backbones/base.py"


@every_family
def test_the_registry_has_the_family_and_the_table_has_the_registry(name: str) -> None:
    for one, other in zip_longest(FAMILIES, BACKBONES):
        assert one == other, f"FAMILIES in families.py has {one!r} where BACKBONES has {other!r}"
    backbone = backbone_of(model_of(name))
    assert backbone.model_type == name
    assert family_of(backbone.model.config.to_dict(), "config.json") is type(backbone)


@every_family
def test_an_image_has_as_many_placeholders_as_the_tower_gives_tokens(name: str) -> None:
    backbone = backbone_of(model_of(name))
    for size, tokens in FAMILIES[name].sizes.items():
        ids, inputs = row_of(name, [size], seed=1)
        vision = backbone.vision(inputs)
        assert vision is not None
        with torch.no_grad():
            features = vision.features()
        assert [len(one) for one in features] == [size_of(grids) for grids in vision.grids]
        assert sum(len(one) for one in features) == tokens == vision.sizes[0]
        assert (backbone.kinds(torch.tensor(ids)) > 0).sum() == tokens
        assert {one.shape[1] for one in features} == {backbone.geometry.hidden * (1 + backbone.levels)}


@with_video
def test_a_video_has_as_many_placeholders_as_the_tower_gives_tokens(name: str) -> None:
    backbone, films = backbone_of(model_of(name)), FAMILIES[name].videos
    ids, inputs = row_of(name, [], 1, films)
    vision = backbone.vision(inputs)
    assert vision is not None and vision.count == len(films)
    with torch.no_grad():
        (features,) = vision.features()
    assert len(features) == vision.sizes[1] == (backbone.kinds(torch.tensor(ids)) > 0).sum()
    assert vision.grids[0][0] == films[0]


@every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_vanilla_through_the_loop_is_transformers_own_forward(name: str, side: str) -> None:
    """Rows with one image, none, and two of different sizes."""
    sizes, model = [*FAMILIES[name].sizes], model_of(name)
    inputs = batch_of(name, [sizes[:1], [], sizes[:2]], side)
    there = inputs["attention_mask"].bool()
    with torch.no_grad():
        wanted = model(**positioned(name, inputs)).logits[there]
        with reduce(model, build("vanilla")):
            made = model(**inputs).logits[there]
    close(made, wanted)


@every_family
def test_text_alone_is_transformers_own_forward(name: str) -> None:
    model, inputs = model_of(name), batch_of(name, [[], []])
    there = inputs["attention_mask"].bool()
    with torch.no_grad():
        wanted = model(**positioned(name, inputs)).logits[there]
        with reduce(model, "fastv", budget="40%"):
            made = model(**inputs).logits[there]
    close(made, wanted)


@with_video
@pytest.mark.parametrize("side", ["left", "right"])
def test_vanilla_with_images_and_videos_is_transformers_own_forward(name: str, side: str) -> None:
    family, model = FAMILIES[name], model_of(name)
    sizes = [*family.sizes]
    # A row with an image and two videos, one with an image alone, and one with a video alone.
    films = family.videos
    inputs = batch_of(name, [sizes[:1], sizes[1:2], []], side, videos=[films * 2, (), films])
    there = inputs["attention_mask"].bool()
    with torch.no_grad():
        wanted = model(**positioned(name, inputs)).logits[there]
        with reduce(model, build("vanilla")):
            made = model(**inputs).logits[there]
    close(made, wanted)


@every_family
@pytest.mark.parametrize("beams", [1, 3])
def test_vanilla_generates_the_ids_that_transformers_generates(
    name: str, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt with two images and one with one. transformers 5.17 mixes up the images of beams: see repeated_rows.py,
    whose own tests are independent of it. Later versions encode before, and this changes nothing for them."""
    sizes, model = [*FAMILIES[name].sizes], model_of(name)
    inputs = batch_of(name, [sizes[:2], sizes[1:2]])
    suppressed = [getattr(model.config, one) for one in backbone_of(model).placeholders]
    settings: dict[str, Any] = dict(max_new_tokens=6, do_sample=False, num_beams=beams, suppress_tokens=suppressed)
    with monkeypatch.context() as patch:
        own = model._expand_inputs_for_generation
        patch.setitem(vars(model), "_expand_inputs_for_generation", partial(repeat_rows, backbone_of(model), own))
        wanted = model.generate(**inputs, **settings)
    with reduce(model, build("vanilla")):
        assert torch.equal(model.generate(**inputs, **settings), wanted)


@every_family
def test_a_second_turn_goes_on_from_the_cache(name: str) -> None:
    """Text after a cached prompt: as transformers' own forward over both at once."""
    model = model_of(name)
    inputs = batch_of(name, [[*FAMILIES[name].sizes][:2]])
    more = torch.tensor([[40, 41, 42, 43]])
    ids = torch.cat([inputs["input_ids"], more], 1)
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), **derived(backbone_of(model), ids)}
    with torch.no_grad():
        wanted = model(**positioned(name, whole)).logits[:, -4:]
        with reduce(model, build("vanilla")):
            cache = model(**inputs, use_cache=True).past_key_values
            made = model(input_ids=more, past_key_values=cache, use_cache=True).logits
    close(made, wanted)


@every_family
def test_the_trace_is_the_plan_for_images_of_every_size(name: str) -> None:
    model = model_of(name)
    backbone = backbone_of(model)
    for size, tokens in FAMILIES[name].sizes.items():
        with reduce(model, build("pdrop")) as reduction, torch.no_grad():
            model(**batch_of(name, [[size]]))
        assert reduction.trace.entering == reduction.reducer.plan(backbone.geometry, tokens).entering


@every_family
def test_features_of_several_images_do_not_depend_on_the_batch_and_content_tells_images_apart(name: str) -> None:
    backbone, sizes = backbone_of(model_of(name)), [*FAMILIES[name].sizes]
    rows = [row_of(name, [size], seed)[1] for seed, size in enumerate(sizes[:2])]
    together, alone = backbone.vision(backbone.joined(rows)), [backbone.vision(row) for row in rows]
    assert together is not None and alone[0] is not None and alone[1] is not None
    assert together.count == alone[0].count + alone[1].count
    with torch.no_grad():
        for number, features in enumerate(alone[0].features()):
            torch.testing.assert_close(together.features()[number], features, atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(together.only(number).features()[0], features, atol=1e-4, rtol=1e-5)
            same = zip(backbone.content(together.only(number)), backbone.content(alone[0].only(number)), strict=True)
            assert all(torch.equal(a, b) for a, b in same)
    one, other = backbone.content(together.only(0)), backbone.content(together.only(together.count - 1))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert together.grids == (*alone[0].grids, *alone[1].grids)
    assert torch.equal(together.fingerprints(), torch.cat([alone[0].fingerprints(), alone[1].fingerprints()]))


@every_family
def test_kept_features_give_the_same_answers(name: str) -> None:
    model, sizes = model_of(name), [*FAMILIES[name].sizes]
    inputs, cache = batch_of(name, [sizes[:1], sizes[1:2]]), FeatureCache()
    logits = []
    with torch.no_grad():
        for _ in range(2):
            with reduce(model, "pdrop", features=cache):
                logits.append(model(**inputs, logits_to_keep=1).logits)
        with reduce(model, "pdrop"):
            plain = model(**inputs, logits_to_keep=1).logits
    assert cache.hits == cache.misses == sum(backbone_of(model).media(backbone_of(model).vision(inputs).inputs))
    assert torch.equal(*logits)
    close(logits[0], plain)


# Recording takes seconds: here the families with the most to get wrong (DeepStack, positions of three axes, tiles).
RECORDED = ("qwen3_vl", "llava_onevision")
each_recorded = [pytest.param(name, marks=[] if name in RECORDED else pytest.mark.slow) for name in FAMILIES]


@pytest.mark.parametrize("name", each_recorded)
@pytest.mark.parametrize("method", ["hidrop", pytest.param("uniform", marks=pytest.mark.slow)])
def test_captured_operations_answer_as_eager_ones_for_two_image_sizes(name: str, method: str) -> None:
    """Operations are recorded for one prompt and run again on others of its shape: no constant of the first is left."""
    model, sizes = model_of(name), [*FAMILIES[name].sizes][:2]
    whole = max(FAMILIES[name].sizes.values())
    fields = dict(inject=2, filters=[2, 3], keep=[whole // 2, whole // 4], exit=6) if method == "hidrop" else {}
    fields = fields or dict(layer=0, keep=max(1, whole // 3))
    stated = dict(reference_tokens=whole) if backbone_of(model).geometry.dynamic else {}
    recorder = FxRecorder()
    graphs = Graphs(recorder, bucket=64, room=8)
    for size in sizes:
        for seed in (0, 21):  # other words, one more before the image and two more after it
            inputs = batch_of(name, [[size]], seed=seed)
            made = []
            for given in (graphs, None):
                with torch.no_grad(), reduce(model, method, graphs=given, **stated, **fields) as reduction:
                    out = model.generate(
                        **inputs,
                        max_new_tokens=3,
                        do_sample=False,
                        return_dict_in_generate=True,
                        output_logits=True,
                        suppress_tokens=[getattr(model.config, one) for one in reduction.backbone.placeholders],
                    )
                    made.append((torch.stack(out.logits), reduction.trace.rows, reduction.kept))
            close(made[0][0], made[1][0], atol=5e-5)
            assert made[0][1:] == made[1][1:]
    tokens = {FAMILIES[name].sizes[size] for size in sizes}
    assert recorder.recorded == 2 * len(tokens), "one prefill and one step for each number of visual tokens"


@every_family
def test_labels_loss_and_gradients_are_those_of_transformers(name: str) -> None:
    """Vanilla in training: the loss, and the gradients of the tower, of the projector and of the decoder."""
    size = next(iter(FAMILIES[name].sizes))
    inputs = batch_of(name, [[size]])
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    found = []
    for reduced in (False, True):
        model = copy.deepcopy(model_of(name)).train()
        if reduced:
            with reduce(model, build("vanilla")):
                loss = model(**inputs, labels=labels).loss
        else:
            loss = model(**positioned(name, inputs), labels=labels).loss
        loss.backward()
        backbone = backbone_of(model)
        parts = (backbone.tower, backbone.projector, backbone.decoder)
        gradients = [[p.grad for p in part.parameters() if p.grad is not None] for part in parts]
        assert all(any(bool(one.any()) for one in part) for part in gradients)
        found.append((loss.detach(), [torch.cat([one.flatten() for one in part]) for part in gradients]))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    for made, wanted in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(made, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=1e-3)


@every_family
def test_a_reduced_run_has_a_gradient_into_the_tower(name: str) -> None:
    model = copy.deepcopy(model_of(name)).train()
    inputs = batch_of(name, [[size] for size in [*FAMILIES[name].sizes][:2]])
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    with reduce(model, "hidrop", inject=2, filters=[2, 3], exit=6, budget="20%"):
        model(**inputs, labels=labels).loss.backward()
    gradients = [p.grad for p in backbone_of(model).tower.parameters() if p.grad is not None]
    assert gradients and any(bool(one.any()) for one in gradients)
    assert all(bool(one.isfinite().all()) for one in gradients)


@every_family
def test_a_saved_model_and_one_with_peft_give_the_same_answers(name: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = model_of(name)
    inputs = batch_of(name, [[next(iter(FAMILIES[name].sizes))]])
    with torch.no_grad():
        with reduce(model, "pdrop"):
            wanted = model(**inputs, logits_to_keep=1).logits
            model.save_pretrained(tmp_path)
        read = pretrained(type(model), tmp_path)
        with reduce(read, "pdrop"):
            close(read(**inputs, logits_to_keep=1).logits, wanted)
        adapted = get_peft_model(read, LoraConfig(target_modules=["q_proj"], init_lora_weights=True))
        with reduce(adapted.get_base_model(), "pdrop"):
            close(adapted(**inputs, logits_to_keep=1).logits, wanted)


@every_family
def test_synthetic_images_run_and_have_the_tokens_that_are_said(name: str) -> None:
    backbone = backbone_of(model_of(name))
    vision = backbone.vision(backbone.inputs_for(torch.ones(2, *backbone.pixel_shape)))
    assert vision is not None
    with torch.no_grad():
        assert sum(len(one) for one in vision.features()) == 2 * backbone.pixel_tokens == vision.sizes[0]


@every_family
def test_the_reduced_forward_takes_every_input_of_the_models_own(name: str) -> None:
    """A new argument of a later transformers fails here, until somebody has looked at what it means."""
    model = model_of(name)
    backbone = backbone_of(model)
    known = {*backbone.image_inputs, *backbone.vision_settings, *backbone.derived_inputs, *backbone.refused_inputs}
    known |= {"input_ids", "attention_mask", "position_ids", cache_name(), "inputs_embeds", "labels"}
    known |= {"use_cache", "logits_to_keep"}
    parameters = inspect.signature(type(model).forward).parameters
    assert {name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD} - {"self"} <= known
    assert inspect.signature(model.forward) == backbone.signature()


@every_family
def test_placeholders_that_do_not_fit_the_images_are_one_clear_line(name: str) -> None:
    """A prompt that was cut off, before anything is encoded."""
    model = model_of(name)
    inputs = batch_of(name, [[next(iter(FAMILIES[name].sizes))]])
    kinds = backbone_of(model).kinds(inputs["input_ids"])[0]
    end = int((kinds > 0).nonzero()[-1])
    short = {key: value[:, :end] if key in ("input_ids", "attention_mask") else value for key, value in inputs.items()}
    with (
        reduce(model, "vanilla"),
        pytest.raises(ValueError, match=r"the prompts hold \d+ image tokens, but the pixels"),
    ):
        model(**short)


@pytest.mark.parametrize("name", [name for name in FAMILIES if backbone_class(name).sized_by])
def test_pixels_without_their_sizes_are_one_clear_line(name: str) -> None:
    model, inputs = model_of(name), batch_of(name, [[*FAMILIES[name].sizes][:1]])
    sizes = backbone_of(model).sized_by["pixel_values"]
    lacking = {key: value for key, value in inputs.items() if key != sizes}
    with reduce(model, "vanilla"), pytest.raises(ValueError, match=f"pixel_values without {sizes}: give the model"):
        model(**lacking)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_fewer_patches_than_the_grid_says_are_one_clear_line(name: str) -> None:
    """transformers' tower of Qwen3-VL takes a single patch for all of a grid."""
    model, inputs = model_of(name), batch_of(name, [[*FAMILIES[name].sizes][:1]])
    fewer = {**inputs, "pixel_values": inputs["pixel_values"][:1]}
    with reduce(model, "vanilla"), pytest.raises(ValueError, match="image_grid_thw is of [0-9]+ patches, but pixel_"):
        model(**fewer)


@every_family
def test_images_that_belong_to_other_rows_are_refused(name: str) -> None:
    """The batch has as many placeholders as visual tokens, but a row has one too many and another one too few."""
    model, sizes = model_of(name), [*FAMILIES[name].sizes]
    inputs = batch_of(name, [sizes[:1], sizes[:1]])
    kinds = backbone_of(model).kinds(inputs["input_ids"])
    first, second = ((row > 0).nonzero()[:, 0] for row in kinds)
    inputs["input_ids"][0, first[-1]] = 40
    inputs["input_ids"][1, second[0] - 1] = inputs["input_ids"][1, second[0]]
    with reduce(model, "vanilla"), pytest.raises(ValueError, match="give each prompt the placeholders of whole images"):
        model(**inputs)


@every_family
def test_a_decoder_or_tower_of_another_kind_is_refused_by_name(name: str) -> None:
    model = model_of(name)
    config, title = model.config.to_dict(), backbone_of(model).title
    for part, field in (("decoder", "text_config"), ("tower", "vision_config")):
        other = {**config, field: {**config[field], "model_type": "mamba"}}
        message = f"here: {title} with a 'mamba' {part} is not supported. Supported: LLaVA"
        with pytest.raises(UserError, match=message):
            family_of(other, "here")


def test_a_model_that_is_none_of_them_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="Linear is not a model that hidrop can reduce. It reduces LLaVA"):
        reduce(torch.nn.Linear(2, 2), build("vanilla"))
    model = make_llava()
    with pytest.raises(TypeError, match="LlavaModel is not a model that hidrop can reduce"):
        reduce(model.model, build("vanilla"))


def test_a_decoder_with_windows_is_refused_by_name() -> None:
    model = make_llava()
    model.config.text_config.layer_types = ["sliding_attention"] * 6
    with pytest.raises(TypeError, match="decoder 'llama' is not supported: it needs LLaMA's layers"):
        reduce(model, build("vanilla"))


def test_sizes_are_read_from_a_config_without_a_model() -> None:
    model = make_llava_next()
    assert geometry_of(model.config) == backbone_of(model).geometry
    assert geometry_of(model.config).visual_tokens == 5 * 16


def test_a_mask_of_other_tiles_than_the_pixels_is_one_clear_line() -> None:
    model = model_of("smolvlm")
    inputs = batch_of("smolvlm", [[next(iter(FAMILIES["smolvlm"].sizes))]])
    inputs["pixel_attention_mask"] = inputs["pixel_attention_mask"][:, :-1]
    with (
        reduce(model, "vanilla"),
        pytest.raises(ValueError, match=r"pixel_attention_mask: \(1, 6\) prompts and tiles, but"),
    ):
        model(**inputs)
