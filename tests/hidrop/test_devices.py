"""Which device a command uses."""

from __future__ import annotations

import pytest

from hidrop.devices import pick_device


@pytest.mark.parametrize(
    ("asked", "cuda", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda:1", False, "cuda:1")],
)
def test_auto_takes_cuda_where_there_is_one(
    asked: str, cuda: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    assert pick_device(asked) == device
