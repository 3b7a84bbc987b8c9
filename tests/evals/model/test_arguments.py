"""The method that lmms-eval's model arguments ask for."""

from __future__ import annotations

from typing import Any

import pytest
from lmms_eval.utils import simple_parse_args_string

from baselines.fastv import FastV
from evals.model import arguments
from hidrop.errors import UserError
from hidrop.geometry import PRESETS
from hidrop.reducer import Published


def asked(loaded: Any, text: str) -> Any:
    """The method for `--model_args` as lmms-eval splits them."""
    given = simple_parse_args_string(text)
    return arguments.method(loaded, given.pop("method", None), given.pop("budget", None), given)


@pytest.mark.parametrize("budget", ["10", "10.0", "62.5%"])  # of 16 tokens, with 4 layers
def test_a_budget_may_be_tokens_or_a_share(loaded: Any, budget: str) -> None:
    assert asked(loaded, f"method=fastv,layer=1,budget={budget}") == asked(loaded, "method=fastv,layer=1,keep=8")


def test_what_is_no_budget_is_refused_in_words(loaded: Any) -> None:
    with pytest.raises(UserError, match="model_args: a budget is a number of visual tokens"):
        asked(loaded, "method=fastv,layer=1,budget=many")


def test_fields_without_a_method_are_refused(loaded: Any) -> None:
    with pytest.raises(UserError, match="layer needs a method: add method=NAME"):
        asked(loaded, "layer=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size=auto", "batch_size is a whole number of at least 1, such as batch_size=8, not 'auto'"),
        ("batch_size=0", "batch_size is a whole number of at least 1"),
        ("batch_size=2.5", "batch_size is a whole number of at least 1"),
        ("batch_size=-1", "batch_size is a whole number of at least 1"),
        ("batch_size=true", "batch_size is a whole number of at least 1"),
        ("batch_size=" + "9" * 5000, "batch_size is a whole number of at least 1"),
        ("max_new_tokens=0", "max_new_tokens is a whole number of at least 1, such as max_new_tokens=8, not '0'"),
        ("max_new_tokens=ten", "max_new_tokens is a whole number of at least 1"),
        ("method=fastv,layer=1,keep=twenty", "model_args: keep: .* valid integer.*, not 'twenty'"),
        ("method=fastv,layer=2.5,keep=4", "model_args: layer: .*integer.*, not 2.5"),
        ("method=fastv,layer=1,keep=.inf", "model_args: keep: not valid YAML"),
        ("method=fastv,layer=1,keep=!!set", "model_args: keep: not valid YAML.* tags such as !!set"),
        ("method=fastv,layer=1,keep=" + "[" * 5000, "model_args: keep: not valid YAML.*nested deeper"),
        ("method=fastv,layer=1,keep=" + "9" * 5000, "model_args: keep: not valid YAML"),
        ("method=fastv,layer=1,keep=", "model_args: keep has no value. Write keep=VALUE, or leave it out"),
        ("method=,layer=1", "model_args: method has no value"),
        ("method=fastv,layer=1,layer=2,keep=4", r"model_args: layer is given twice \(1 and 2\)"),
        ("batch_size=2,batch_size=2", "model_args: batch_size is given twice"),
        ("method=fastv,layer", "model_args: 'layer' is not an argument. Write NAME=VALUE"),
        ("method=fastv,,keep=4", "model_args: '' is not an argument"),
        ("=4", "model_args: '=4' is not an argument"),
        ("batch_sise=2", "model_args: batch_sise is unknown. Did you mean 'batch_size'?"),
        ("method=fastv,layer=1,kep=4", "model_args: kep is unknown. Did you mean 'keep'?"),
        ("method=fastv,layer=1,keep=4,nonsense=1", "model_args: nonsense is unknown. Known: keep, layer,"),
        ("method=vanilla,nonsense=1", "model_args: nonsense is unknown. Known: pretrained"),
        ("method=7", "unknown method '7'"),
        ("budget=64", "model_args: budget needs a method"),
        ("method=fastv,layer=1,budget=1e308", "model_args: a budget is a number of visual tokens"),
        ("protocol=lava", "protocol"),
        ("dtype=16", "dtype: unknown value '16'"),
        ("device=5x", "device: unknown value '5x'"),
        ("device=mps", "device: unknown value 'mps'. Known: cpu, cuda, cuda:<number>"),
        ("device=cpu:3", "device: unknown value 'cpu:3'. Known: cpu, cuda, cuda:<number>"),
        ("pretrained=~nobody-here/x", "no home folder is known for '~nobody-here'"),
        ("pretrained=a\0b", "a character that no path can have"),
    ],
)
def test_a_wrong_argument_is_named_with_the_way_out_before_a_weight_is_read(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.model.lmms_model import HidropLlava

    def weights(*parts: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr("hidrop.models.loading._weights", weights)
    with pytest.raises(UserError, match=message):
        HidropLlava.create_from_arg_string(text, {"batch_size": "1", "device": "cpu", "max_batch_size": None})


def test_an_argument_wins_over_lmms_evals_option_of_the_same_name(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from evals.model.lmms_model import HidropLlava

    monkeypatch.setattr("hidrop.models.load", lambda source, **options: loaded)
    lm = HidropLlava.create_from_arg_string(
        "pretrained=x,method=pdrop,layers=[1, 2],ratios=[0.5,0.25],batch_size=3,max_new_tokens=5", {"batch_size": 1}
    )
    assert (lm.batch_size, lm.max_new_tokens) == (3, 5)
    assert (lm.reducer.layers, lm.reducer.ratios) == ((1, 2), (0.5, 0.25))


def test_a_method_in_a_file_and_a_stack_are_model_arguments(loaded: Any, tmp_path: Any, monkeypatch: Any) -> None:
    from tests.test_wheel import MINE

    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "mine.py").write_text(MINE)
    found = asked(loaded, f"method={tmp_path / 'mine.py'}:MyMethod,layer=1,keep=8")
    assert (found.name, found.layer, found.keep) == ("mine", 1, 8)
    stack = asked(loaded, "method=stack,stack=[fastv: {layer: 1, keep: 8}, vtw: {exit: 3}]")
    assert stack.plan(loaded.geometry).entering == (16, 8, 0, 0)
    solved = asked(loaded, "method=stack,stack=[fastv: {layer: 1}, vtw: {exit: 3}],budget=6")
    assert solved == stack
    with pytest.raises(UserError, match="model_args: stack: fastv: kep: unknown field of fastv. Did you mean 'keep'"):
        asked(loaded, "method=stack,stack=[fastv: {layer: 1, kep: 8}, vtw: {exit: 3}]")


def test_a_published_setting_is_named_by_its_text_or_number(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", loaded.geometry)
    half = Published({"layer": 1, "keep": 8}, ("tiny",))
    monkeypatch.setattr(FastV, "published", {"k1-50%": half, "8": half})
    wanted = asked(loaded, "method=fastv,layer=1,keep=8")
    assert asked(loaded, "method=fastv,published=k1-50%") == asked(loaded, "method=fastv,published=8") == wanted
    assert asked(loaded, "method=fastv,published=8,rechosen=true").rechosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("published=k2-50", "model_args: published: fastv has no setting 'k2-50'. Did you mean 'k2-50%'"),
        ("published=k2-50%,budget=8", "model_args: published: k2-50% has a budget already"),
        ("published=k2-50%,keep=8", "model_args: published: k2-50% already sets keep"),
        ("published=[8]", r"model_args: published: the name of one setting, not \[8\]"),
        ("publshed=k2-50%", "model_args: publshed is unknown. Did you mean 'published'"),
        ("published=k2-50%", "model_args: fastv: published: k2-50% is a setting for .* 4 layers and 16 visual tokens"),
    ],
)
def test_a_mistake_with_a_published_setting_is_answered_in_words(text: str, message: str, loaded: Any) -> None:
    with pytest.raises(UserError, match=message):
        asked(loaded, f"method=fastv,{text}")
