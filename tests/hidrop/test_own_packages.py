"""Other projects have packages called `evals` and `baselines`: one of them on the path gets a clear error."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hidrop.errors import UserError
from hidrop.own_packages import PACKAGES, check_own_packages

ROOT = Path(__file__).parents[2]


def run(*words: str, path: Path) -> subprocess.CompletedProcess[str]:
    # An editable installation has a finder that knows our modules whatever the path says.
    start = f"import sys; sys.path[:0] = [{str(path)!r}, {str(ROOT)!r}]"
    start += "; sys.meta_path = [f for f in sys.meta_path if 'Editable' not in repr(f)]"
    code = "\n".join([start, *words])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=path)


def foreign(name: str, folder: Path) -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text('"""Another project."""\n')
    return folder


def test_our_own_are_known() -> None:
    check_own_packages()


@pytest.mark.parametrize("name", PACKAGES)
def test_the_command_line_names_the_package_that_is_in_the_way(name: str, tmp_path: Path) -> None:
    done = run("from hidrop.__main__ import main", "sys.exit(main(['--help']))", path=foreign(name, tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert f"package '{name}' in {tmp_path / name} belongs to another project" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_method_names_it_too(tmp_path: Path) -> None:
    done = run("from hidrop import build", "build('fastv', {'keep': 3})", path=foreign("baselines", tmp_path))
    assert "UserError: package 'baselines'" in done.stderr and "belongs to another project" in done.stderr


def test_a_missing_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="package 'evals' is missing: it is installed with hidrop"):
        check_own_packages()


def test_the_plug_in_of_lmms_eval_names_it(tmp_path: Path) -> None:
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"][
        "hidrop"
    ]
    module, _, function = entry.partition(":")
    start = f"from {module} import {function} as manifests"
    done = run(start, "manifests()", path=foreign("evals", tmp_path))
    assert "UserError: package 'evals'" in done.stderr and "belongs to another project" in done.stderr
    done = run(start, "print([one.model_id for one in manifests()])", path=ROOT)
    assert done.stdout.strip() == "['hidrop']"
