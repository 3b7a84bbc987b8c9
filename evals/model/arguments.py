"""Reads the reduction method from lmms-eval's `--model_args`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from hidrop.errors import UserError

if TYPE_CHECKING:
    from hidrop.budget import Budget
    from hidrop.models import Loaded
    from hidrop.reducer import Reducer


def method(loaded: Loaded, name: str | None, budget: Budget | None, fields: Mapping[str, Any]) -> Reducer | None:
    """The method for these model arguments. Strings in `fields` are read as YAML. Raises UserError."""
    from hidrop.budget import solve
    from hidrop.reducer import build

    params = {name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in fields.items()}
    trained = loaded.reducer
    if name is None:
        if params or budget is not None:
            raise UserError(f"model_args: {', '.join(params) or 'budget'} needs a method: add method=NAME")
        return trained
    try:
        if budget is not None:
            reducer = solve(name, params, budget, loaded.geometry)
        elif trained is not None and trained.name == name and not params:
            reducer = trained
        else:
            reducer = build(name, params)
        reducer.plan(loaded.geometry)
    except ValueError as error:
        raise UserError(f"model_args: {error}") from None
    return reducer
