"""The files that new-method writes pass as they are, and names that cannot be one are refused in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hidrop.errors import UserError
from hidrop.testing.new_method import class_name, write_method

ROOT = Path(__file__).parents[3]


def python(folder: Path, *arguments: str) -> str:
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_written_test_passes_as_it_is(tmp_path: Path) -> None:
    write_method("my_method", tmp_path)
    printed = python(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "-s", "-k", "on_llava", "test_my_method.py")
    assert "1 passed" in printed
    assert "MyMethod (my_method): every property holds" in printed and "slow rule" in printed


@pytest.mark.slow
def test_the_written_test_passes_on_every_family(tmp_path: Path) -> None:
    write_method("my_method", tmp_path)
    assert "2 passed" in python(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "test_my_method.py")


def test_the_written_files_pass_lint(tmp_path: Path) -> None:
    method, test = write_method("my_method", tmp_path)
    settings = str(ROOT / "pyproject.toml")
    python(tmp_path, "ruff", "check", "--config", settings, method.name, test.name)
    python(tmp_path, "ruff", "format", "--check", "--config", settings, method.name, test.name)


@pytest.mark.parametrize(
    ("name", "cls"),
    [("my_method", "MyMethod"), ("norm2", "Norm2"), ("view", "ViewMethod"), ("reducer", "ReducerMethod")],
)
def test_the_class_is_named_after_the_method_and_hides_nothing(name: str, cls: str) -> None:
    assert class_name(name) == cls


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fastv", "fastv: hidrop has a method of this name"),
        ("lambda", "lambda: a word of Python's own"),
        ("2fast", "'2fast': a name has letters, digits and _, starts with a letter"),
        ("my-method", "'my-method': a name has letters, digits and _"),
        ("../up", "'../up': a name has letters, digits and _"),
        ("m\u00e9thode", "a name has letters, digits and _"),
        ("_hidden", "starts with a letter"),
        ("", "'': a name has letters"),
        ("a" * 61, "at most 60 characters"),
        ("torch", "torch: Python has a module of this name"),
        ("json", "json: Python has a module of this name"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_and_nothing_is_written(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_method(name, tmp_path / "new")
    assert words in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_a_file_that_is_there_is_never_replaced(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("work of months")
    with pytest.raises(UserError, match=rf"{there}: exists already. Choose another name, or another folder with --out"):
        write_method("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "work of months"
