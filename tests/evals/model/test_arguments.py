"""The method that lmms-eval's model arguments ask for."""

from __future__ import annotations

from typing import Any

import pytest
from lmms_eval.utils import simple_parse_args_string

from evals.model import arguments
from hidrop.errors import UserError


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
