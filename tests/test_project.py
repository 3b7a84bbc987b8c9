"""The project itself: what is packaged, how fast it answers, and that it names no machine it was made on."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hidrop", "baselines", "evals")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def own_files(*suffixes: str) -> Iterator[Path]:
    """The project's own text files, without environments, caches and results of runs."""
    for folder in (*PACKAGES, "tests", "results", "docs", ".ci"):
        yield from (f for f in (ROOT / folder).rglob("*") if f.is_file() and f.suffix in suffixes)
    yield from (f for f in ROOT.iterdir() if f.is_file() and f.suffix in suffixes)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))


def test_installed_version_is_the_declared_one() -> None:
    try:
        installed = importlib.metadata.version("hidrop")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("hidrop is not installed here")
    assert installed == PYPROJECT["project"]["version"]


def test_no_file_names_a_machine() -> None:
    place = re.compile(r"(?<![\w.\-/~<>}])/(?:work|root|home|opt|Users|tmp/w)/[\w.]")
    suffixes = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".csv", ".html", "")
    hits = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in own_files(*suffixes)
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if place.search(line)
    ]
    assert hits == []


@pytest.mark.parametrize(
    ("arguments", "shown", "avoided"),
    [
        (["--help"], "--matrix", {"torch", "transformers", "datasets", "lmms_eval", "pydantic"}),
        (["plan", "paper"], "3.82 T", {"torch", "transformers", "datasets", "lmms_eval"}),
        (["plan", "mini"], "mini-hidrop", {"torch", "transformers", "datasets", "lmms_eval"}),
    ],
)
def test_light_commands_load_no_heavy_library(arguments: list[str], shown: str, avoided: set[str]) -> None:
    printed, loaded = libraries(arguments, avoided)
    assert shown in printed
    assert loaded == []


@pytest.mark.slow
def test_a_second_validate_and_a_finished_run_load_no_heavy_library(tmp_path: Path) -> None:
    import shutil

    from hidrop.mini import ensure

    heavy = {"torch", "transformers", "datasets", "lmms_eval", "scipy", "pandas", "matplotlib"}
    shutil.copytree(ensure(), tmp_path / "cache" / ensure().name)
    time.sleep(3)  # a file that has just changed is not remembered
    for arguments in (["validate", "smoke"], ["run", "smoke", "--quiet", "--json", "--out", str(tmp_path / "out")]):
        first, second = (libraries(arguments, heavy, HIDROP_CACHE=str(tmp_path / "cache")) for _ in range(2))
        assert "torch" in first[1] or arguments[0] == "run"
        assert second[1] == []
    documents = [json.loads(text) for text, _ in (first, second)]
    assert documents[0].pop("date") <= documents[1].pop("date")
    assert documents[0] == documents[1]


def libraries(arguments: list[str], wanted: set[str], **environment: str) -> tuple[str, list[str]]:
    """What `run.py` prints in a process of its own, and which of the `wanted` modules it loads."""
    code = (
        "import runpy, sys, json\n"
        f"sys.argv = {['run.py', *arguments]!r}\n"
        "try:\n    runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"heavy = {wanted!r} & set(sys.modules)\n"
        "print(json.dumps(sorted(heavy)), file=sys.stderr)\n"
    )
    own = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, env=own)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stderr.strip().splitlines()[-1])


def test_data_next_to_the_code_is_packaged() -> None:
    from setuptools import find_namespace_packages

    find = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    packages = find_namespace_packages(str(ROOT), include=find["include"])
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    data = [
        file
        for folder in (
            "evals/matrix/bundled",
            "hidrop/training/recipes",
            "hidrop/training/configs",
            "hidrop/mini/training/recipes",
            "hidrop/mini/weights",
            "results/reference",
        )
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    assert any(file.name == "mini.yaml" for file in data)
    for file in data:
        package = ".".join(file.parent.relative_to(ROOT).parts)
        assert package in packages, file
        assert any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns), file


def test_every_dependency_is_pinned_and_inside_its_range() -> None:
    from packaging.requirements import Requirement

    project = PYPROJECT["project"]
    pinned = {name.replace("_", "-"): version for name, version in pins().items()}
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        version = pinned.get(requirement.name.lower().replace("_", "-"))
        assert version is not None, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(version), f"{text}: {version} is pinned"


def test_torch_is_pinned_and_torchvision_stays_out() -> None:
    assert pins()["torch"] == "2.13.0"
    assert "torchvision" not in pins()
    assert not any("torchvision" in text for text in PYPROJECT["project"]["dependencies"])


def test_lmms_eval_finds_the_model() -> None:
    points = PYPROJECT["project"]["entry-points"]["lmms_eval.models"]
    module, _, function = points["hidrop"].partition(":")
    imported = __import__(module, fromlist=[function])
    assert callable(getattr(imported, function))


def test_ci_runs_the_command_of_the_readme_last() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().rstrip().endswith("make test")
    assert "make test" in (ROOT / "README.md").read_text()


def test_every_test_that_a_document_names_is_there() -> None:
    named = re.findall(r"`?([a-z_/]*test_\w+\.py)(?:`|\)|,)?|::(test_\w+)", (ROOT / "docs/guarantees.md").read_text())
    code = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    functions = set(re.findall(r"def (test_\w+)", "".join(code.values())))
    names = {path.name for path in code}
    assert sum(bool(function) for _, function in named) > 10
    for file, function in named:
        assert not function or function in functions, function
        assert not file or file.rsplit("/", 1)[-1] in names, file
