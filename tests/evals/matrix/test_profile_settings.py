"""The `profile` block of a matrix."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from evals.matrix.profile_settings import ProfileSettings


def test_settings_take_one_batch_size_or_several() -> None:
    assert ProfileSettings(batch=4).batch == (4,)  # type: ignore[arg-type]
    assert ProfileSettings(batch=[1, 4]).batch == (1, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"batch": ()}, {"batch": (0,)}, {"warmup": -1}, {"text_tokens": 3}, {"repeat": 2}]
)
def test_settings_refuse_what_cannot_be_measured(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProfileSettings(**wrong)
