"""Published settings by name: their plans, and what `published` does wherever a method is named.

A matrix, model_args and recipes are in tests/evals/matrix/test_method_fields.py, tests/evals/model/test_arguments.py
and tests/hidrop/training/test_validate.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.fastv import FastV
from hidrop import build, reduce, solve
from hidrop.backbones import backbone_of
from hidrop.budget import check_absolute
from hidrop.geometry import PRESETS, Geometry
from hidrop.methods import METHODS, build_entry, method_class
from hidrop.mini.training.recipe import Recipe
from hidrop.reducer import Published
from hidrop.strict_yaml import value
from hidrop.training.recipe import LlavaRecipe

LLAVA, LARGE = PRESETS["llava-1.5-7b"], PRESETS["llava-1.5-13b"]
SETTINGS = [
    (name, label, model)
    for name in METHODS
    for label, setting in method_class(name).published.items()
    for model in setting.models
]
# Average visual tokens of a layer, by method, setting and model. One that is not here has its average as its name.
AVERAGES: dict[tuple[str, str, str], float] = {
    # Three later filters are shared by all: the first count decides, and the name is rounded.
    ("hidrop", "80", "llava-1.5-7b"): 80.03125,
    ("hidrop", "48-c1", "llava-1.5-7b"): 48.0625,
    # K layers of 576 and the others of 288, 144 or 58 tokens.
    ("fastv", "k2-50%", "llava-1.5-7b"): 306,
    ("fastv", "k2-75%", "llava-1.5-7b"): 171,
    ("fastv", "k2-90%", "llava-1.5-7b"): 90.375,
    ("fastv", "k3-50%", "llava-1.5-7b"): 315,
    ("fastv", "k3-75%", "llava-1.5-7b"): 184.5,
    ("fastv", "k3-90%", "llava-1.5-7b"): 106.5625,
    ("fastv", "k5-50%", "llava-1.5-7b"): 333,
    ("fastv", "k5-75%", "llava-1.5-7b"): 211.5,
    ("fastv", "k2-50%", "llava-1.5-13b"): 302.4,
    ("fastv", "k2-75%", "llava-1.5-13b"): 165.6,
    ("fastv", "k2-90%", "llava-1.5-13b"): 83.9,
    ("fastv", "k3-50%", "llava-1.5-13b"): 309.6,
    ("fastv", "k3-75%", "llava-1.5-13b"): 176.4,
    ("fastv", "k3-90%", "llava-1.5-13b"): 96.85,
    ("fastv", "k5-50%", "llava-1.5-13b"): 324,
    ("fastv", "k5-75%", "llava-1.5-13b"): 198,
    ("fastv", "k5-90%", "llava-1.5-13b"): 122.75,
    # A quarter of 32 layers each; of 40 layers the last stage has 16.
    ("pdrop", "default", "llava-1.5-7b"): 270,
    ("pdrop", "default", "llava-1.5-13b"): 230.4,
    ("pdrop", "default", "llava-next-7b"): 1350,
    ("pdrop", "lambda-0.4", "llava-1.5-7b"): 233.5,
    ("pdrop", "lambda-0.6", "llava-1.5-7b"): 313,
    # The label counts a cutting layer by what it leaves, the average by what enters it.
    ("sparsevlm", "192", "llava-1.5-7b"): 206.5,
    ("sparsevlm", "128", "llava-1.5-7b"): 145.40625,
    ("sparsevlm", "96", "llava-1.5-7b"): 114.09375,
    ("sparsevlm", "64", "llava-1.5-7b"): 82.25,
    ("sparsevlm", "v2.0-192", "llava-1.5-7b"): 206.75,
    ("sparsevlm", "v2.0-128", "llava-1.5-7b"): 144.125,
    ("sparsevlm", "v2.0-96", "llava-1.5-7b"): 113.9375,
    ("sparsevlm", "v2.0-64", "llava-1.5-7b"): 81.8125,
    # Counts depend on the question: at most all tokens stay.
    ("sparsevlm", "v1.0-192", "llava-1.5-7b"): 576,
    ("sparsevlm", "v1.0-128", "llava-1.5-7b"): 576,
    ("sparsevlm", "v1.0-64", "llava-1.5-7b"): 576,
    # Two layers of 576, the others of the label and four pivots.
    ("dart", "192", "llava-1.5-7b"): 219.75,
    ("dart", "128", "llava-1.5-7b"): 159.75,
    ("dart", "64", "llava-1.5-7b"): 99.75,
    ("feather", "released", "llava-1.5-7b"): 228.5,
    ("vtw", "7b", "llava-1.5-7b"): 270,
    # Counts depend on the image: at most all tokens stay.
    ("prumerge", "adaptive", "llava-1.5-7b"): 576,
    ("prumerge", "adaptive", "llava-1.5-13b"): 576,
    ("prumerge", "adaptive-plus", "llava-1.5-7b"): 576,
    ("prumerge", "adaptive-plus", "llava-1.5-13b"): 576,
}
# Fields that a method's published settings leave to the user, as its checkpoint of another model.
LEFT_OPEN: dict[str, dict[str, Any]] = {"cdpruner": {"text_tower": "a folder"}}


@pytest.mark.parametrize(("name", "label", "model"), SETTINGS)
def test_every_setting_has_a_plan_with_the_average_of_its_name_or_the_documented_one(name, label, model):
    geometry, params = PRESETS[model], {"published": label, **LEFT_OPEN.get(name, {})}
    check_absolute(method_class(name), params, None, geometry)
    average = AVERAGES[name, label, model] if (name, label, model) in AVERAGES else float(label)
    assert build(name, params).on(geometry).plan(geometry).average_tokens == pytest.approx(average, abs=1e-9)


def test_the_table_has_no_setting_that_is_not_there():
    assert set(AVERAGES) <= set(SETTINGS)
    assert {name for name, *_ in SETTINGS} >= {"hidrop", "fastv", "pdrop", "sparsevlm", "divprune", "visionzip"}


@pytest.mark.parametrize("name", sorted({name for name, *_ in SETTINGS}))
def test_a_published_method_names_its_paper_and_its_code(name):
    assert "https://arxiv.org/abs/" in method_class(name).paper
    assert method_class(name).code.startswith("https://github.com/")


@pytest.mark.parametrize(("name", "label", "model"), SETTINGS)
def test_a_setting_is_found_by_its_name_as_yaml_reads_it(name, label, model):
    assert build(name, {"published": value(label, "published")}) == build(name, {"published": label})


def test_a_setting_stands_for_its_fields_and_leaves_the_others_free():
    assert build("fastv", {"published": "k3-75%"}) == FastV(layer=3, keep=144)
    assert build("fastv", {"published": "k3-75%", "rechosen": True}) == FastV(layer=3, keep=144, rechosen=True)
    released = {"inject": 9, "filters": [10, 14, 16, 18], "keep": [215, 10, 5, 1], "exit": 25}
    assert build("hidrop", {"published": 64, "ties": "released"}) == build("hidrop", {**released, "ties": "released"})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"published": "k2-50"}, r"published: fastv has no setting 'k2-50'. Did you mean 'k2-50%'\? It has: k2-50%, "),
        ({"published": 64}, "published: fastv has no setting '64'. It has: k2-50%, "),
        ({"published": "k2-50%", "keep": 9}, "published: k2-50% already sets keep; give one of the two"),
        ({"published": ["k2-50%", "k3-50%"]}, r"published: the name of one setting, not \['k2-50%', 'k3-50%'\]. There"),
        ({"published": True}, "published: the name of one setting, not True"),
        ({"published": None}, "published: the name of one setting, not None"),
    ],
)
def test_a_mistake_is_answered_in_words(params, message):
    with pytest.raises(ValueError, match=message):
        build("fastv", params)


def test_a_method_without_settings_says_so():
    with pytest.raises(ValueError, match="published: random has no setting '64'. It has: none"):
        build("random", {"published": 64})


def test_a_setting_has_a_budget_already():
    with pytest.raises(ValueError, match="published: 64 has a budget already; give one of the two"):
        solve("visionzip", {"published": 64}, 128, LLAVA)


def test_a_setting_for_models_that_are_not_known_is_refused():
    with pytest.raises(ValueError, match="Published: unknown model 'llava-7b'. Did you mean 'llava-1.5-7b'"):
        Published({"keep": 3}, ("llava-7b",))


# ---- on a model -----------------------------------------------------------------------------------------------------


def test_a_model_of_the_settings_sizes_is_reduced_by_its_name(tiny_llava: Any, prompt: Any, pixels: Any, monkeypatch):
    model = tiny_llava()
    monkeypatch.setitem(PRESETS, "tiny", backbone_of(model).geometry)
    monkeypatch.setattr(FastV, "published", {"few": Published({"keep": 5}, ("tiny",))})
    with reduce(model, "fastv", published="few", layer=1) as reduction, torch.no_grad():
        model(input_ids=prompt(3, 6), pixel_values=pixels())
    assert reduction.reducer == FastV(keep=5, layer=1)
    assert reduction.trace.entering[-1] == 5


def test_a_model_of_other_sizes_is_refused_with_the_sizes_of_both(tiny_llava: Any):
    model = tiny_llava()
    sizes = backbone_of(model).geometry
    small, large = (rf"{name} \({layers} layers, 576 visual tokens\)" for name, layers in (("7b", 32), ("13b", 40)))
    here = f"this model has {sizes.layers} layers and {sizes.visual_tokens} visual tokens; give a budget or the fields"
    with pytest.raises(
        ValueError,
        match=f"fastv: published: k2-50% is a setting for llava-1.5-{small} or llava-1.5-{large}, and {here}",
    ):
        reduce(model, "fastv", published="k2-50%")
    assert "forward" not in model.__dict__


def test_other_numbers_of_layers_or_tokens_alone_are_refused_too():
    for geometry in (LARGE, PRESETS["mobilellama-2.7b"].with_visual_tokens(144)):
        with pytest.raises(ValueError, match="hidrop: published: 64 is a setting for llava-1.5-7b"):
            check_absolute(method_class("hidrop"), {"published": 64}, None, geometry)
    # MobileLLaMA has the 7B's numbers of layers and visual tokens, on which alone a plan depends.
    check_absolute(method_class("hidrop"), {"published": 64}, None, PRESETS["mobilellama-2.7b"])


# ---- in a stack -----------------------------------------------------------------------------------------------------


def stacked(*members: Any) -> dict[str, Any]:
    return {"stack": list(members)}


def test_a_member_of_a_stack_may_be_a_setting():
    shares = {"pdrop": {"layers": [16], "ratios": [0.5]}}
    named = build("stack", stacked({"visionzip": {"published": 64}}, shares))
    assert named == build("stack", stacked({"visionzip": {"dominant": 54, "contextual": 10}}, shares))
    assert named.on(LLAVA).plan(LLAVA).entering == (64,) * 16 + (32,) * 16


def test_a_budget_is_solved_for_the_member_that_is_no_setting():
    solved = solve("stack", stacked({"visionzip": {"published": 192}}, {"fastv": {"layer": 8}}), 100, LLAVA)
    assert solved.plan(LLAVA).entering == (192,) * 8 + (69,) * 24
    with pytest.raises(ValueError, match="visionzip: published: 192 has a budget already; give one of the two"):
        solve("stack", {**stacked({"visionzip": {"published": 192}}, "pdrop"), "over": "visionzip"}, 100, LLAVA)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"published": 65}, "visionzip: published: visionzip has no setting '65'. It has: 192, 128, 64"),
        ({"published": 64, "dominant": 5}, "visionzip: published: 64 already sets dominant"),
    ],
)
def test_a_mistake_in_a_member_names_it(fields, message):
    with pytest.raises(ValueError, match=message):
        build("stack", stacked({"visionzip": fields}, "pdrop"))


def test_a_member_for_other_sizes_is_refused():
    with pytest.raises(ValueError, match="visionzip: published: 64 is a setting for llava-1.5-7b"):
        check_absolute(method_class("stack"), stacked({"visionzip": {"published": 64}}, "pdrop"), None, LARGE)


# ---- in a recipe ----------------------------------------------------------------------------------------------------


def test_an_entry_of_a_recipe_is_checked_against_the_model_that_it_is_for():
    entry = {"name": "pdrop", "published": "default"}
    assert build_entry(entry, LARGE).plan(LARGE).average_tokens == 230.4
    small = Geometry(4, 32, 64, 4, 4, 8, 100, 16)
    with pytest.raises(ValueError, match=r"default is a setting for .* this model has 4 layers and 16 visual tokens"):
        build_entry(entry, small)
    with pytest.raises(ValueError, match="visionzip: published: 64 is a setting for"):
        build_entry({"name": "stack", **stacked({"visionzip": {"published": 64}}, "pdrop")}, small)


def test_recipes_take_a_setting_and_those_of_embedded_models_refuse_it():
    from hidrop import strict_yaml
    from hidrop.recipes import bundled

    recipes = {name: strict_yaml.read(path, path.name) for name, path in bundled().items()}
    hidrop, pdrop = (recipes[f"llava-1.5-7b-{name}-finetune"] for name in ("hidrop", "pdrop"))
    assert build_entry({"name": "hidrop", "published": 64, "topk": "ste"}) == build_entry(hidrop["method"])
    default = build("pdrop", {"published": "default"})
    assert default.schedule(LLAVA) == build_entry(pdrop["method"]).schedule(LLAVA)
    named = {**hidrop, "method": {"name": "hidrop", "published": 64}}
    assert strict_yaml.checked(LlavaRecipe, named, "own.yaml").method == named["method"]
    with pytest.raises(ValueError, match="own.yaml: .*published: hidrop has no setting '65'. It has: 80, 64, 48"):
        strict_yaml.checked(LlavaRecipe, {**hidrop, "method": {"name": "hidrop", "published": 65}}, "own.yaml")
    with pytest.raises(ValueError, match="own.yaml: .*64 is a setting for llava-1.5-7b .*12 layers and 100 visual"):
        strict_yaml.checked(Recipe, {**recipes["mini-hidrop"], "method": named["method"]}, "own.yaml")
