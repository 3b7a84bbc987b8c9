"""methods: the list, and all about one method."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evals import cli
from hidrop import build, outside_methods, strict_yaml
from hidrop.geometry import PRESETS
from hidrop.methods import METHODS, method_class

ROOT = Path(__file__).parents[3]
MINE = '''
from dataclasses import dataclass
from typing import ClassVar

from hidrop.budget import single_cut
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Published, Reducer


@dataclass(frozen=True)
class Mine(Reducer):
    """Keep the largest tokens. They are the loudest."""

    keep: int
    layer: int = 2
    name: ClassVar[str] = "mine"
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    paper: ClassVar[str] = "Mine, 2026"
    published = {"few": Published({"keep": 30}), "open": Published({"layer": 3})}

    def schedule(self, geometry):
        return Schedule(cuts=(Cut(self.layer, self.keep),))
'''
Shown = Callable[..., str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """shown("fastv"): what `methods fastv` prints on stdout."""

    def run(*words: str) -> str:
        assert cli.main(["methods", *words]) == cli.DONE
        return capsys.readouterr().out

    return run


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A method of one's own in loud.py, which a package offers as well: by the name `loud`."""
    for name in ("_modules", "_references"):
        monkeypatch.setattr(outside_methods, name, {})
    path, info = tmp_path / "loud_method.py", tmp_path / "loud-1.0.dist-info"
    path.write_text(MINE, encoding="utf-8")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[hidrop.methods]\nloud = loud_method:Mine\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    outside_methods.offered.cache_clear()
    yield path
    outside_methods.offered.cache_clear()
    sys.modules.pop("loud_method", None)


def test_the_list_has_each_method_with_when_it_works_and_what_it_does(shown: Shown) -> None:
    lines = shown().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split(maxsplit=2)[:2] == ["method", "works"]
    assert [line.split()[0] for line in lines[1:-2] if line[0] != " "] == [*METHODS]
    assert re.search(r"^hidrop +late entry, layers, exit +Late injection, ", "\n".join(lines), re.MULTILINE)
    assert re.search(r"^vanilla +- +No reduction", "\n".join(lines), re.MULTILINE)
    assert re.search(r"^stack +as its members ", "\n".join(lines), re.MULTILINE)
    assert lines[-1] == f"{len(METHODS)} methods. `run.py methods NAME` shows all about one."


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_fits_and_has_all_its_fields_settings_and_families(name: str, shown: Shown) -> None:
    page, cls = shown(name), method_class(name)
    assert max(map(len, page.splitlines())) <= 80
    assert page.startswith(f"{name}: ")
    [one] = json.loads(shown(name, "--json").splitlines()[-1])["methods"]
    assert [field["name"] for field in one["fields"]] == [field.name for field in dataclasses.fields(cls)]
    for word in [*(field["name"] for field in one["fields"]), *one["runs_on"], *one["refused"], *cls.published]:
        assert re.search(rf"(^|\s){re.escape(word)}(,|:|\s|$)", page), word
    assert all(word in page.split() for word in f"{cls.paper} {cls.code}".split())


def test_a_setting_is_shown_with_its_plan_and_as_a_matrix_names_it(shown: Shown) -> None:
    page = shown("fastv")
    assert re.search(r"^k2-50% +llava-1.5-7b +306.00 of 576 +layer: 2, keep: 288$", page, re.MULTILINE)
    assert re.search(r"^ +llava-1.5-13b +302.40 of 576$", page, re.MULTILINE)
    assert re.search(r"^v1.0-64 +llava-1.5-7b +<= 576.00 of 576 ", shown("sparsevlm"), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in METHODS if method_class(name).published])
def test_the_line_for_a_matrix_works(name: str, shown: Shown, tmp_path: Path) -> None:
    [line] = re.findall(r"^In a matrix: (.*)$", shown(name), re.MULTILINE)
    path = tmp_path / "own.yaml"
    path.write_text(line, encoding="utf-8")
    entry = strict_yaml.read(path, path.name)
    first, yours = next(iter(method_class(name).published)), {key: "FOLDER" for key in method_class(name).checkpoints}
    assert build(name, entry[name]) == build(name, {"published": first, **yours})
    assert build(name, entry[name]).plan(PRESETS["llava-1.5-7b"])


def test_the_document_has_the_same_for_all_methods(shown: Shown) -> None:
    document = json.loads(shown("--json").splitlines()[-1])
    found = {one["name"]: one for one in document["methods"]}
    assert list(found) == [*METHODS]
    assert found["fastv"] == json.loads(shown("fastv", "--json").splitlines()[-1])["methods"][0]
    assert found["fastv"]["origin"] == "hidrop" and found["fastv"]["place"] == "baselines.fastv:FastV"
    assert found["visionzip"]["refused"].keys() == {"llava_next", "llava_onevision"}
    [plan] = found["hidrop"]["published"][1]["plans"]
    assert (plan["model"], plan["average_tokens"], plan["visual_tokens"]) == ("llava-1.5-7b", 64.0, 576)


def test_a_method_in_a_file_is_imported_and_shown(mine: Path, shown: Shown) -> None:
    page = shown(f"{mine}:Mine")
    assert page.startswith("mine: Keep the largest tokens\n")
    assert f"your own ({mine}:Mine)" in " ".join(page.split()) and "Mine, 2026" in page
    assert re.search(r"^works +after layers of the decoder$", page, re.MULTILINE)
    assert re.search(r"^few +llava-1.5-7b +64.12 of 576 +keep: 30$", page, re.MULTILINE)
    assert re.search(r"^open +llava-1.5-7b +needs more fields +layer: 3$", page, re.MULTILINE)
    assert "\n\nopen needs more fields: keep missing\n" in page


def test_a_wrong_setting_is_shown_as_such_with_the_reason(mine: Path, shown: Shown) -> None:
    wrong = (
        '{"64": Published({"kep": 64}), "99": Published({"keep": "many"}), "far": Published({"keep": 9, "layer": 40})}'
    )
    mine.write_text(re.sub(r"published = .*", f"published = {wrong}", MINE), encoding="utf-8")
    page = shown(f"{mine}:Mine")
    assert re.search(r"^64 +llava-1.5-7b +is invalid +kep: 64$", page, re.MULTILINE)
    told = " ".join(page.split())
    assert "64 is invalid: kep: unknown field of mine. Did you mean 'keep'?" in told
    assert re.search(r"99 is invalid: mine: keep: \S.*, not 'many'", told)
    assert "far is invalid: cut after layer 40: visual tokens are there in layers 1..32 only" in told
    assert "In a matrix" not in page
    [one] = json.loads(shown(f"{mine}:Mine", "--json").splitlines()[-1])["methods"]
    assert [plan["invalid"] for setting in one["published"] for plan in setting["plans"]] == [True, True, True]


def test_the_methods_of_other_packages_are_listed_without_importing_them(mine: Path, shown: Shown) -> None:
    page = shown()
    assert re.search(r"^loud +offered by loud 1.0, not imported$", page, re.MULTILINE)
    assert max(map(len, page.splitlines())) <= 80
    last = json.loads(shown("--json").splitlines()[-1])["methods"][-1]
    assert last == {"name": "loud", "origin": "loud 1.0", "place": "loud_method:Mine", "taken": False}
    assert "loud_method" not in sys.modules
    assert "loud 1.0 (" in " ".join(shown("loud").split())
    assert "loud_method" in sys.modules


def test_a_name_that_means_another_method_is_listed_with_the_one_that_does_not(mine: Path, shown: Shown) -> None:
    points = "[hidrop.methods]\nfastv = loud_method:Mine\n"
    (mine.parent / "loud-1.0.dist-info" / "entry_points.txt").write_text(points, encoding="utf-8")
    page = " ".join(shown().split())
    assert "offered by loud 1.0, not imported; the name is taken: write loud_method:Mine" in page
    assert shown("fastv").startswith("fastv: One cut") and "loud_method" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fasv", "unknown method 'fasv'. Did you mean 'fastv'? Known: vanilla, "),
        ("laud", "unknown method 'laud'. Did you mean 'loud'?"),
        ("{mine}:Main", "no class 'Main' there. Did you mean 'Mine'? Methods: Mine"),
        ("nowhere.py:Mine", "method file nowhere.py: "),
        ("nowhere:Mine", "method 'nowhere': there is no module 'nowhere'. Install it"),
    ],
)
def test_a_name_that_is_no_methods_is_the_users_to_change(
    name: str, message: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["methods", name.format(mine=mine)]) == cli.USER
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--json"], ["visionzip"], ["{mine}:Mine"]])
def test_it_loads_no_weights_and_no_heavy_library(words: list[str], mine: Path) -> None:
    code = (
        "import sys\nfrom evals.cli import main\nassert main(['methods', *sys.argv[1:]]) == 0\n"
        "heavy = {'torch', 'transformers', 'lmms_eval'} & set(sys.modules)\nassert not heavy, heavy"
    )
    named = [word.format(mine=mine) for word in words]
    subprocess.run([sys.executable, "-c", code, *named], check=True, cwd=ROOT, capture_output=True)
