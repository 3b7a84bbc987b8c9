"""Methods that are not part of hidrop: by file, module or entry point, and imported only where a user names them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hidrop import build, outside_methods, solve
from hidrop.errors import UserError
from hidrop.geometry import PRESETS
from hidrop.method_source import method_digest, outside_files
from hidrop.methods import build_found, entry_of, is_known, method_class, reference
from hidrop.outside_methods import code_files
from tests.method_file import BODY, HEAD, MINE

GEOMETRY = PRESETS["llava-1.5-7b"]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """write(name, text): a file in an empty folder, which is the working folder. Its modules are forgotten later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(outside_methods, "_modules", {})
    monkeypatch.setattr(outside_methods, "_references", {})
    monkeypatch.setattr(outside_methods, "_neighbours", {})
    before = set(sys.modules)

    def write(name: str, text: str = MINE) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_class_in_a_file_is_a_method_with_fields_and_budgets(write):
    write("mine.py")
    method = build("./mine.py:Mine", {"keep": 64})
    assert (method.name, method.keep, method.layer) == ("mine", 64, 2)
    solved = solve("./mine.py:Mine", {"layer": 3}, 64, GEOMETRY)
    assert solved.plan(GEOMETRY).average_tokens == pytest.approx(64, abs=0.5)
    assert type(solved) is type(method)
    with pytest.raises(ValueError, match="kep: unknown field of mine. Did you mean 'keep'"):
        build("./mine.py:Mine", {"kep": 64})


def test_a_class_in_a_module_of_the_working_folder_or_of_the_path_is_a_method(write, tmp_path, monkeypatch):
    write("pack/__init__.py", "")
    write("pack/inner.py")
    assert build("pack.inner:Mine", {"keep": 4}).name == "mine"
    write("elsewhere/apart_method.py")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert build("apart_method:Mine", {"keep": 4}).name == "mine"


def test_a_file_and_the_module_that_was_imported_from_it_are_one_class(write, tmp_path, monkeypatch):
    write("one_class.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    import one_class

    assert method_class("./one_class.py:Mine") is one_class.Mine
    assert method_class("one_class:Mine") is one_class.Mine


def test_an_entry_point_is_a_method_by_its_name(write, tmp_path, monkeypatch):
    write("offered_method.py")
    info = tmp_path / "offered-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hidrop.methods]\nfrom_package = offered_method:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    outside_methods.offered.cache_clear()
    try:
        assert is_known("from_package") and "offered_method" not in sys.modules
        method = build("from_package", {"keep": 4})
        assert method.name == "mine" and reference(method) == "from_package"
        with pytest.raises(ValueError, match="unknown method 'from_packge'. Did you mean 'from_package'"):
            build("from_packge", {})
    finally:
        outside_methods.offered.cache_clear()


def test_modules_beside_the_file_are_imported_and_belong_to_the_source(write):
    write("factor_of_mine.py", "def factor():\n    return 2\n")
    write(
        "with_factor.py", HEAD + "import factor_of_mine" + BODY.replace("dim=-1)", "dim=-1) * factor_of_mine.factor()")
    )
    method = build("./with_factor.py:Mine", {"keep": 4})
    assert sorted(path.name for path in outside_files(method)) == ["factor_of_mine.py", "with_factor.py"]


def test_an_edit_is_read_in_the_same_process_and_changes_the_source_while_a_comment_does_not(write):
    digests, found = [], []
    for text in (MINE, MINE + "# a comment\n", MINE.replace("norm(dim=-1)", "norm(dim=-1, p=1)")):
        write("mine.py", text)
        found.append(build("./mine.py:Mine", {"keep": 4}))
        digests.append(method_digest(found[-1]))
    assert digests[0] == digests[1] != digests[2]
    assert len({type(method) for method in found}) == 3


def test_the_source_does_not_depend_on_the_folder_or_on_what_was_read_before(write):
    for folder in ("a", "b"):
        write(f"{folder}/mine.py")
    assert method_digest(build("a/mine.py:Mine", {"keep": 4})) == method_digest(build("b/mine.py:Mine", {"keep": 4}))


def test_files_are_told_before_any_code_runs(write):
    write("factor_of_mine.py", "raise RuntimeError('imported')")
    write("told_method.py", "raise RuntimeError('imported')\nimport factor_of_mine\n")
    assert [path.name for path in code_files("./told_method.py:Mine")] == ["factor_of_mine.py", "told_method.py"]
    assert [path.name for path in code_files("told_method:Mine")] == ["factor_of_mine.py", "told_method.py"]
    assert code_files("./nowhere.py:Mine") == () == code_files("nowhere_at_all.deep:Mine")


def test_a_checkpoint_does_not_make_code_run_but_finds_what_the_user_has_named(write):
    write("mine.py", "import pathlib\npathlib.Path('ran').touch()\n" + MINE)
    entry = {"name": "mine.py:Mine", "keep": 4, "layer": 2}
    in_a_stack = {"label": "mine", "method": "mine.py:Mine", "fields": {"keep": 4, "layer": 1}}
    stack = {"name": "stack", "stack": [in_a_stack, {"pdrop": {"positions": "persistent"}}]}
    for one in (entry, stack, {"name": "mine:Mine", "keep": 4}):
        with pytest.raises(
            ValueError, match=r"trained with mine(\.py)?:Mine, a method outside of hidrop, whose code is"
        ):
            build_found(one)
    assert not Path("ran").exists()
    method = build("./mine.py:Mine", {"keep": 4})
    assert Path("ran").exists() and reference(method) == "mine.py:Mine"
    assert build_found(entry) == method
    assert build_found(stack).members[0].fields == build("./mine.py:Mine", {"keep": 4, "layer": 1})


WRONG = {
    "no file": ("./none.py:Mine", None, "none.py: No such file or directory in /.*, the working folder"),
    "no such count": ("./mine.py:Mine", MINE.replace('("keep",)', '("kep",)'), "counts: the class has no field kep"),
    "a part of a package": ("./mine.py:Mine", "from .core import far\n", "Name it as a part of its package"),
    "a folder": ("./folder.py:Mine", "", "method file folder.py: Is a directory"),
    "no class": ("./mine.py:", MINE, r"method './mine.py:': write FILE.py:CLASS or MODULE:CLASS"),
    "another class": ("./mine.py:Mini", MINE, "no class 'Mini' there. Did you mean 'Mine'. Methods: Mine"),
    "syntax": ("./mine.py:Mine", "def f(:\n", "mine.py, line 1: SyntaxError"),
    "fails": ("./mine.py:Mine", "\n1 / 0\n", r"ZeroDivisionError: division by zero \(.*mine.py, line 2\)"),
    "exits": ("./mine.py:Mine", "raise SystemExit(3)\n", "cannot be imported: SystemExit: 3"),
    "needs a package": ("./mine.py:Mine", "import not_installed_anywhere\n", "No module named 'not_installed"),
    "no method": ("./mine.py:Path", "from pathlib import Path\n", "not a class that inherits from hidrop.Reducer"),
    "no dataclass": (
        "./mine.py:Mine", MINE.replace("@dataclass(frozen=True)", ""), r"write @dataclass\(frozen=True\) above"
    ),
    "not frozen": ("./mine.py:Mine", MINE.replace("(frozen=True)", ""), "frozen"),
    "no name": ("./mine.py:Mine", MINE.replace('name: ClassVar[str] = "mine"', "x: int = 1"), "the class has no name"),
    "a taken name": ("./mine.py:Mine", MINE.replace('"mine"', '"fastv"'), "its name, 'fastv', is that of a"),
    "no schedule": ("./mine.py:Mine", MINE.replace("def schedule", "def schedul"), "the class has no schedule"),
    "no module": ("nowhere_at_all:Mine", None, "there is no module 'nowhere_at_all'. Install it"),
    "no submodule": ("json.nowhere:Mine", None, "there is no module 'json.nowhere'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_place(case, write):
    name, text, message = WRONG[case]
    if text == "":
        Path("folder.py").mkdir()
    elif text is not None:
        write("mine.py", text)
    with pytest.raises(UserError, match=message):
        build(name, {"keep": 4})


def test_a_pipe_is_refused_at_once(write, tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(UserError, match="a pipe or a device"):
        build("./pipe.py:Mine", {"keep": 4})


def test_a_neighbour_that_python_would_take_from_elsewhere_is_refused(write):
    write("statistics.py", "def factor():\n    return 2\n")
    write("mine.py", HEAD + "import statistics\n" + BODY)
    with pytest.raises(UserError, match=r"it imports 'statistics', which is beside it .* Rename the file beside it"):
        build("./mine.py:Mine", {"keep": 4})
    write("a/only_here.py", "X = 1\n")
    write("a/mine.py", HEAD + "import only_here\n" + BODY)
    write("b/only_here.py", "X = 2\n")
    write("b/mine.py", HEAD + "import only_here\n" + BODY.replace("keep: int", "keep: int = 3"))
    build("a/mine.py:Mine", {"keep": 4})
    with pytest.raises(UserError, match="it imports 'only_here', which is beside it"):
        build("b/mine.py:Mine", {"keep": 4})


def test_a_file_named_like_a_library_takes_nobodys_place(write):
    import random

    write("random.py")
    assert build("./random.py:Mine", {"keep": 4}).name == "mine"
    assert sys.modules["random"] is random


def test_a_method_without_a_budget_solver_says_so(write):
    write("mine.py", MINE[: MINE.index("    @classmethod")])
    with pytest.raises(ValueError, match="has no for_budget, which would solve one; give its fields instead"):
        solve("./mine.py:Mine", {}, 64, GEOMETRY)


def test_a_member_of_a_stack_is_the_class_that_was_named_and_not_another_file_of_its_name(write, monkeypatch, tmp_path):
    write("a/mine.py")
    other = write("b/mine.py", "import pathlib\npathlib.Path('ran').touch()\n" + MINE)
    named = {"stack": [{"mine": {"name": str(tmp_path / "a/mine.py:Mine"), "keep": 40}}, {"vtw": {"exit": 16}}]}
    monkeypatch.chdir(other.parent)
    made = build("stack", named)
    assert made.on(GEOMETRY).plan(GEOMETRY).entering[2:15] == (40,) * 13
    assert build_found(entry_of(made)).members == made.members
    assert not Path("ran").exists()


def test_a_checkpoint_names_the_code_that_it_was_trained_with(write):
    write("a/mine.py")
    write("b/mine.py", MINE.replace("dim=-1", "dim=-1, p=1"))
    trained = entry_of(build("a/mine.py:Mine", {"keep": 4}))
    stack = {"stack": [{"mine": {"name": "a/mine.py:Mine", "keep": 40}}, {"vtw": {"exit": 16}}]}
    both = entry_of(build("stack", stack))
    named = build_found(trained)
    build("b/mine.py:Mine", {"keep": 4})
    assert type(build_found(trained)) is type(named), "the later one of the same name has other code"
    with pytest.raises(ValueError, match=r"trained with other code of stack \(sha256"):
        build_found(both)
    outside_methods._references.clear()
    build("b/mine.py:Mine", {"keep": 4})
    with pytest.raises(ValueError, match=r"trained with other code of mine.py:Mine \(sha256 .*name the file that they"):
        build_found(trained)


def test_a_checkpoint_finds_its_code_under_another_file_name(write):
    write("a/mine.py")
    trained = entry_of(build("a/mine.py:Mine", {"keep": 4}))
    outside_methods._references.clear()
    write("moved/renamed.py")
    found = build("moved/renamed.py:Mine", {"keep": 4})
    assert build_found(trained) == found and method_digest(found) == trained["code_sha256"]


def test_a_module_in_another_folder_belongs_to_the_source_and_libraries_do_not(write, tmp_path, monkeypatch):
    write("lib/somewhere_else.py", "LAYER = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    write("mine.py", HEAD + "import somewhere_else, torch, pytest\n" + BODY.replace("layer: int = 2", "layer: int = 3"))
    assert [path.name for path in outside_files(build("mine.py:Mine", {"keep": 4}))] == ["mine.py", "somewhere_else.py"]


def test_a_neighbour_that_was_edited_since_it_was_imported_is_refused(write):
    write("factor_of_it.py", "FACTOR = 2\n")
    write("mine.py", HEAD + "import factor_of_it\n" + BODY)
    build("./mine.py:Mine", {"keep": 4})
    write("factor_of_it.py", "FACTOR = 2  # a comment\n")
    build("./mine.py:Mine", {"keep": 4})
    write("factor_of_it.py", "FACTOR = 3\n")
    with pytest.raises(UserError, match=r"mine.py: it imports .*factor_of_it.py, which was edited since. Start"):
        build("./mine.py:Mine", {"keep": 4})


def test_numbers_that_are_not_finite_are_refused():
    for name, fields in (
        ("holov", {"keep": 9, "alpha": float("nan")}),
        ("pdrop", {"ratios": [0.5, float("inf"), 0.1]}),
    ):
        with pytest.raises(ValueError, match="a number has to be finite"):
            build(name, fields)
