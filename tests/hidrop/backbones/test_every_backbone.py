"""What holds for every model family. A new family is a row in FAMILIES.

The reference is transformers' own forward and its own attention weights, never a second run of our loop.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image

from hidrop.backbones import BACKBONES, Backbone, backbone_of, family_of, geometry_of
from hidrop.errors import UserError
from hidrop.reducer import build
from hidrop.runtime import reduce
from tests.conftest import IMAGE, make_llava, make_llava_next, pad


@dataclass(frozen=True)
class Family:
    """A family's row: a small random float32 model, and image sizes (height, width) with the tokens that they have."""

    make: Callable[[], Any]
    sizes: dict[tuple[int, int], int]


FAMILIES: dict[str, Family] = {
    # 32 x 32 pixels in patches of 8, whatever the image.
    "llava": Family(lambda: make_llava(kv_heads=2), {(32, 32): 16, (20, 90): 16}),
    # The whole image (16), then the patches of its tiles that are no padding, and a line end for each row of them.
    "llava_next": Family(lambda: make_llava_next(), {(64, 64): 16 + 8 * 9, (40, 64): 16 + 6 * 9, (32, 32): 16 + 4 * 5}),
}
every_family = pytest.mark.parametrize("name", FAMILIES)
ATOL = 2e-5


def image_inputs(backbone: Backbone, sizes: Sequence[tuple[int, int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """What the family's own image processor makes of random pictures, as one batch."""
    import transformers

    generator = torch.Generator().manual_seed(seed)
    kind = getattr(transformers, backbone.image_processor_class)
    side = backbone.model.config.vision_config.image_size
    options: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if grid := getattr(backbone.model.config, "image_grid_pinpoints", None):
        options["image_grid_pinpoints"] = grid
    processor = kind(**options)
    made = []
    for height, width in sizes:
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        made.append(dict(processor(images=[Image.fromarray(pixels.numpy())], return_tensors="pt")))
    return backbone.joined(made)


def prompt_of(backbone: Backbone, sizes: Sequence[tuple[int, int]], seed: int) -> torch.Tensor:
    """Token ids (1, S): words, and after some of them the placeholders of each image."""
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> list[int]:
        return torch.randint(3, IMAGE, (count,), generator=generator).tolist()

    ids = [1, *words(3)]
    for height, width in sizes:
        ids += [backbone.placeholder_id] * backbone.image_tokens(height, width) + words(4)
    return torch.tensor([ids])


def batch_of(backbone: Backbone, rows: Sequence[Sequence[tuple[int, int]]], side: str) -> dict[str, torch.Tensor]:
    """A padded batch; each row has images of the given sizes."""
    prompts = [prompt_of(backbone, sizes, seed) for seed, sizes in enumerate(rows)]
    return {**pad(prompts, side), **image_inputs(backbone, [size for sizes in rows for size in sizes])}


@every_family
def test_the_registry_has_the_family_and_the_table_has_the_registry(name: str) -> None:
    assert list(FAMILIES) == list(BACKBONES)
    backbone = backbone_of(FAMILIES[name].make())
    assert backbone.model_type == name
    assert family_of(backbone.model.config.to_dict(), "config.json") is type(backbone)


@every_family
def test_an_image_has_as_many_placeholders_as_the_tower_gives_tokens(name: str) -> None:
    family = FAMILIES[name]
    backbone = backbone_of(family.make())
    for size, tokens in family.sizes.items():
        vision = backbone.vision(image_inputs(backbone, [size]))
        assert vision is not None
        with torch.no_grad():
            (features,) = vision.features()
        assert len(features) == tokens == backbone.image_tokens(*size)
        assert features.shape[1] == backbone.geometry.hidden


@every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_vanilla_through_the_loop_is_transformers_own_forward(name: str, side: str) -> None:
    family = FAMILIES[name]
    model = family.make()
    backbone, sizes = backbone_of(model), list(family.sizes)
    inputs = batch_of(backbone, [sizes[:1], [], sizes[:2]], side)
    there = inputs["attention_mask"].bool()
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        wanted = model(**inputs, position_ids=positions).logits[there]
        with reduce(model, build("vanilla")):
            made = model(**inputs).logits[there]
    torch.testing.assert_close(made, wanted, atol=ATOL, rtol=ATOL)


@every_family
@pytest.mark.parametrize("beams", [1, 3])
def test_vanilla_generates_the_ids_that_transformers_generates(name: str, beams: int) -> None:
    family = FAMILIES[name]
    model = family.make()
    backbone, sizes = backbone_of(model), list(family.sizes)
    inputs = batch_of(backbone, [sizes[:1], sizes[1:2]], "left")
    settings: dict[str, Any] = dict(max_new_tokens=6, do_sample=False, num_beams=beams, suppress_tokens=[IMAGE])
    wanted = model.generate(**inputs, **settings)
    with reduce(model, build("vanilla")):
        assert torch.equal(model.generate(**inputs, **settings), wanted)


@every_family
def test_a_cut_keeps_what_transformers_own_attention_ranks_first(name: str) -> None:
    """FastV after layer 2: the kept set is that of eager attention weights, the logits those of a masked forward."""
    family = FAMILIES[name]
    model = family.make()
    backbone, size = backbone_of(model), next(iter(family.sizes))
    inputs = batch_of(backbone, [[size]], "left")
    visual = backbone.is_visual(inputs["input_ids"])[0].nonzero()[:, 0]
    keep = -(-5 * backbone.geometry.visual_tokens // len(visual))  # five of this image, whatever its number
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = eager(**inputs, output_attentions=True).attentions
        best = attentions[1][0].mean(0)[-1, visual].topk(5).indices.sort().values.tolist()
        with reduce(model, build("fastv", {"layer": 2, "keep": keep})) as reduction:
            made = model(**inputs, logits_to_keep=1).logits[0, -1]
        assert reduction.kept[0].rows[0] == tuple(best)
        dropped = sorted({*range(len(visual))} - {*best})
        wanted = masked_after(eager, backbone_of(eager), inputs, layer=2, dropped=dropped)
    torch.testing.assert_close(made, wanted, atol=5e-5, rtol=5e-5)


def masked_after(
    model: Any, backbone: Backbone, inputs: dict[str, torch.Tensor], *, layer: int, dropped: list[int]
) -> torch.Tensor:
    """Logits of the last token when the `dropped` visual tokens are masked out of all layers after `layer`."""
    places = backbone.is_visual(inputs["input_ids"])[0].nonzero()[dropped, 0]
    length = inputs["input_ids"].shape[1]
    causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
    causal[:, places] = torch.finfo(torch.float32).min

    def hide(module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args, {**kwargs, "attention_mask": causal[None, None]}

    hooks = [one.register_forward_pre_hook(hide, with_kwargs=True) for one in backbone.decoder.layers[layer:]]
    try:
        return model(**inputs).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()


@every_family
def test_the_trace_is_the_plan_for_images_of_every_size(name: str) -> None:
    family = FAMILIES[name]
    model = family.make()
    backbone = backbone_of(model)
    for size, tokens in family.sizes.items():
        with reduce(model, build("pdrop")) as reduction, torch.no_grad():
            model(**batch_of(backbone, [[size]], "left"))
        assert reduction.trace.entering == reduction.reducer.plan(backbone.geometry, tokens).entering


@every_family
def test_features_of_several_images_do_not_depend_on_the_batch_and_content_tells_images_apart(name: str) -> None:
    family = FAMILIES[name]
    backbone, sizes = backbone_of(family.make()), list(family.sizes)
    together = backbone.vision(image_inputs(backbone, sizes, seed=3))
    assert together is not None and together.count == len(sizes)
    alone = [backbone.vision(image_inputs(backbone, [size], seed=3)) for size in sizes[:1]]
    assert alone[0] is not None
    with torch.no_grad():
        torch.testing.assert_close(together.features()[0], alone[0].features()[0], atol=1e-5, rtol=1e-5)
    same, other = backbone.content(together.only(0)), backbone.content(together.only(1))
    assert all(torch.equal(a, b) for a, b in zip(same, backbone.content(alone[0]), strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(same, other, strict=True))


@every_family
def test_synthetic_images_run_and_have_the_tokens_that_are_said(name: str) -> None:
    backbone = backbone_of(FAMILIES[name].make())
    vision = backbone.vision(backbone.inputs_for(torch.zeros(2, *backbone.pixel_shape)))
    assert vision is not None
    with torch.no_grad():
        assert [len(one) for one in vision.features()] == [backbone.pixel_tokens] * 2


@every_family
def test_the_reduced_forward_takes_every_input_of_the_models_own(name: str) -> None:
    """A new argument of a later transformers fails here, until somebody has looked at what it means."""
    model = FAMILIES[name].make()
    backbone = backbone_of(model)
    known = {*backbone.image_inputs, *backbone.vision_settings}
    known |= {"input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels"}
    known |= {"use_cache", "logits_to_keep"}
    parameters = inspect.signature(type(model).forward).parameters
    assert {name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD} - {"self"} <= known
    assert inspect.signature(model.forward) == backbone.signature()


@every_family
def test_a_decoder_or_tower_of_another_kind_is_refused_by_name(name: str) -> None:
    model = FAMILIES[name].make()
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
