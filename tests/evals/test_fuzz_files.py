"""Recipes, studies, model arguments and results folders: whatever is in them, a user gets words and no traceback.

`test_fuzz.py` does the same for matrices and journals. The long runs (`-m slow`) try more than 30,000 inputs together.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals import report
from evals.ablations.spec import BUNDLED as STUDIES
from evals.ablations.spec import load_study
from evals.cli import main
from evals.cli.exit_codes import DONE, SOME_FAILED, USER
from evals.matrix.schema import load_matrix
from evals.model import arguments
from hidrop.errors import UserError
from hidrop.recipes import bundled, is_recipe, load_recipe
from tests.evals.test_fuzz import WHOLE, changed, damage
from tests.evals.world import World, going

SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))
few_and_many = pytest.mark.parametrize(
    "effort", [SOME, pytest.param(MANY, marks=pytest.mark.slow)], ids=["some", "many"]
)

# YAML that is not plain values, and values that are not of this world.
SPIKES = [
    "!!set {x}", "!!map {x: 1}", "!!timestamp 2026-11-25", "!!binary aGk=", "!!bool x", "! x", "2026-11-25", "12:30",
    "1.0e+308", "5.0e-324", ".inf", "-.inf", ".nan", "0x_", "010", "9" * 5000, "1" + "0" * 30, "-1", "0",
    "[" * 5000, "{" * 5000, "- " * 500, "&a [*a]", "*nowhere", "<<", "{<<: {a: 1}}", "? [1]", "'" + "a" * 300 + "'",
    "~typo/x", "'~typo/x'", '"\\ud800"', '"\\0"', '"\\e[31m"', '"\\u202e"', "''", "../../x", "'a/../b'", "|\n  x",
    ">-\n  x",
    "[]", "{}", "null", "[null]", "[[[[[1]]]]]", "true", "'1e308'", "'1e308%'", "1e308", "'-5%'", "NaN",
]  # fmt: skip
RECIPES = [yaml.safe_load(path.read_text()) for path in bundled().values()]
STUDY = [yaml.safe_load(path.read_text()) for path in sorted(STUDIES.glob("*.yaml"))]


@st.composite
def yaml_files(draw: Callable[..., Any], wholes: list[Any]) -> bytes:
    """A real file with places changed, with a spike in the place of a value, or with damaged bytes."""
    data = draw(st.sampled_from(wholes))
    match draw(st.sampled_from(["changed", "spiked", "damaged", "free"])):
        case "changed":
            return yaml.safe_dump(changed(draw, data), allow_unicode=True, sort_keys=False).encode()
        case "spiked":
            lines = yaml.safe_dump(data, sort_keys=False).splitlines()
            number = draw(st.integers(0, len(lines) - 1))
            head, colon, _ = lines[number].partition(":")
            lines[number] = f"{head}{colon or ':'} {draw(st.sampled_from(SPIKES))}"
            return "\n".join(lines).encode()
        case "damaged":
            return damage(draw, yaml.safe_dump(data, sort_keys=False).encode())
    return draw(st.one_of(st.binary(max_size=200), st.sampled_from(SPIKES).map(str.encode)))


def refuses_in_words(read: Callable[[Path], Any], content: bytes, folder: Path) -> None:
    path = folder / "fuzzed.yaml"
    path.write_bytes(content)
    try:
        read(path)
    except UserError as error:
        assert str(error).startswith("fuzzed.yaml") and len(str(error)) < 100_000


def read_recipe(path: Path) -> None:
    assert is_recipe(str(path)) in (True, False)
    load_recipe(str(path))


@few_and_many
@pytest.mark.parametrize(
    ("read", "wholes"),
    [(read_recipe, RECIPES), (load_study, STUDY), (lambda path: load_matrix(path).cells(), WHOLE)],
    ids=["recipes", "studies", "matrices"],
)
def test_a_yaml_file_is_read_or_refused_in_words(effort: settings, read: Any, wholes: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:

        @effort
        @given(yaml_files(wholes))
        def run(content: bytes) -> None:
            refuses_in_words(read, content, Path(folder))

        run()


@few_and_many
def test_model_arguments_are_read_or_refused_in_words(effort: settings) -> None:
    names = st.sampled_from([*arguments.OWN, "layer", "keep", "layers", "ratios", "seed", "x", "", " "])
    texts = st.one_of(
        st.sampled_from([*SPIKES, "fastv", "pdrop", "random", "3", "auto", "twenty", "2.5", ""]), st.text()
    )
    pairs = st.lists(st.builds("{}={}".format, names, texts), max_size=5).map(",".join)

    @effort
    @given(st.one_of(pairs, st.text(max_size=60)))
    def run(text: str) -> None:
        try:
            found = arguments.split(text)
            fields = {name: value for name, value in found.items() if name not in arguments.OWN}
            arguments.check(found.get("method"), found.get("budget"), fields)
            for name in ("batch_size", "max_new_tokens"):
                if name in found:
                    assert arguments.whole(name, found[name]) >= 1
        except UserError as error:
            assert str(error).startswith("model_args: ") and len(str(error)) < 100_000

    run()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with journals and tables."""
    place = tmp_path_factory.mktemp("fuzzed")
    report.write(going(place)(World()), place / "out")
    return place / "out"


COMMANDS = [
    ["report", "OUT", "--tables"], ["ls", "OUT"], ["compare", "OUT", "OUT"], ["export", "OUT"], ["doctor", "OUT"],
    ["doctor", "OUT", "--repair"],
]  # fmt: skip


@few_and_many
def test_a_results_folder_is_read_or_refused_in_words(effort: settings, finished: Path) -> None:
    """Files changed, damaged, lost, renamed or swapped; then one of the commands that read the folder."""
    document = json.loads((finished / "leaderboard.json").read_text())
    names = sorted(str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file())
    folder = finished.parent / "changed"

    @effort
    @given(st.data())
    def run(data: st.DataObject) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        match data.draw(st.sampled_from(["document", "damage", "lose", "swap", "pipe", "folder"])):
            case "document":
                (folder / "leaderboard.json").write_text(json.dumps(changed(data.draw, document), default=str))
            case "damage":
                path = folder / data.draw(st.sampled_from(names))
                path.write_bytes(damage(data.draw, path.read_bytes()))
            case "lose":
                (folder / data.draw(st.sampled_from(names))).unlink()
            case "swap":
                one, other = (folder / data.draw(st.sampled_from(names)) for _ in range(2))
                content = one.read_bytes()
                one.write_bytes(other.read_bytes())
                other.write_bytes(content)
            case kind:
                path = folder / data.draw(st.sampled_from(names))
                path.unlink()
                os.mkfifo(path) if kind == "pipe" else path.mkdir()
        line = [word.replace("OUT", str(folder)) for word in data.draw(st.sampled_from(COMMANDS))]
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            assert main(line) in (DONE, SOME_FAILED, USER)
        assert "Traceback" not in told.getvalue() and len(told.getvalue()) < 100_000

    run()
