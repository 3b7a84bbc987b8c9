"""The installed package, without the repository: a method in an empty folder runs in a matrix beside FastV."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.method_file import MINE as THE_METHOD

ROOT = Path(__file__).parents[1]
MINE = THE_METHOD.replace("Mine", "MyMethod")
MATRIX = """
protocol: lmms-eval
dtype: float32
batch_size: 8
limit: 8
models: {m: {source: "mini:vanilla"}}
methods:
  vanilla: {}
  fastv: {layer: 2, budget: "30%"}
  mine: {name: "./mine.py:MyMethod", layer: 2, budget: "30%"}
  both: {stack: [mine: {name: "./mine.py:MyMethod", keep: 40}, vtw: {exit: 10}]}
tasks: {gqa: {data: mini}}
profile: null
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, ROOT]
    subprocess.run(wheel, check=True, timeout=300, cwd=folder)
    (made,) = folder.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_a_method_in_an_empty_folder_runs_beside_fastv_and_its_edit_makes_new_cells(installed, tmp_path):
    def run() -> dict:
        command = [sys.executable, "-m", "hidrop", "--matrix", "own.yaml", "--out", "out", "--json", "--quiet"]
        settings = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "own.yaml").write_text(MATRIX)
    first = {cell["label"]: cell for cell in run()["cells"]}
    assert set(first) == {"vanilla", "fastv", "mine", "both"}
    assert first["mine"]["code"].startswith("mine.py:MyMethod, source ")
    assert first["both"]["entering"] == [100] * 2 + [40] * 7 + [0] * 3
    (tmp_path / "mine.py").write_text(MINE.replace("dim=-1", "dim=-1, p=1"))
    edited = {cell["label"]: cell for cell in run()["cells"]}
    assert {label for label in first if first[label]["id"] != edited[label]["id"]} == {"mine", "both"}


@pytest.mark.slow
def test_a_new_method_passes_its_test_in_an_empty_folder(installed, tmp_path):
    settings = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for command in (["hidrop", "new-method", "my_method"], ["pytest", "-q", "-p", "no:cacheprovider", "-k", "llava"]):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
