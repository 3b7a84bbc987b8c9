"""Which device a command uses, and what is known of torch without importing it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hidrop import devices

CPU = "from typing import Optional\n__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """version.py of a torch that is installed and not imported; importing it fails."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(
        sys, "meta_path", [finder for finder in sys.meta_path if "Path" in getattr(finder, "__name__", "")]
    )
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    return tmp_path / "torch" / "version.py"


def test_a_build_for_the_cpu_is_known_without_an_import(build: Path) -> None:
    build.write_text(CPU)
    assert devices.sees_cuda() is False


@pytest.mark.parametrize(
    "text",
    [
        CPU.replace("cuda: Optional[str] = None", "cuda: Optional[str] = '13.0'"),
        CPU.replace("hip: Optional[str] = None", "hip = '7.0'"),
        CPU.replace("hip: Optional[str] = None", ""),
        CPU.replace("None", "compute()"),
        "cuda =",
    ],
)
def test_any_other_build_is_asked(text: str, build: Path) -> None:
    build.write_text(text)
    with pytest.raises(RuntimeError, match="imported"):
        devices.sees_cuda()


def test_the_installed_torch_is_asked_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=answer: answer)
        assert devices.sees_cuda() is answer


def test_the_installed_build_is_read_as_torch_says() -> None:
    assert devices._without_devices() == (torch.version.cuda is None and torch.version.hip is None)


def test_threads_are_torchs_own_and_remembered_for_a_process_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = SimpleNamespace(get_num_threads=lambda: 7)
    monkeypatch.setitem(sys.modules, "torch", loaded)
    assert devices.torch_threads() == 7
    devices.remember_threads()
    monkeypatch.delitem(sys.modules, "torch")
    assert devices.torch_threads() == 7 and "torch" not in sys.modules


@pytest.mark.parametrize("change", ["OMP_NUM_THREADS", "cores"])
def test_threads_of_another_environment_are_not_taken(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 7))
    devices.remember_threads()
    if change == "cores":
        monkeypatch.setattr(devices, "usable_cores", lambda: 1000)
    else:
        monkeypatch.setenv(change, "3")
    assert devices.recall("threads", devices._machine()) is None


@pytest.mark.parametrize(
    ("asked", "cuda", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda:1", False, "cuda:1")],
)
def test_auto_takes_cuda_where_there_is_one(
    asked: str, cuda: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    assert devices.pick_device(asked) == device
