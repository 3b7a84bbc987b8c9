"""The digest of a method's source: what changes it and what does not."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hidrop import method_source
from hidrop.method_source import source_digest
from hidrop.methods import METHODS, method_class

LARGEST = '''
"""A method."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer

if TYPE_CHECKING:
    import only_for_types


@dataclass(frozen=True)
class Largest(Reducer):
    """Keep the largest."""

    keep: int
    name: ClassVar[str] = "largest"

    def schedule(self, geometry):
        return Schedule(cuts=(Cut(2, self.keep),))

    def score(self, view):  # (batch, visual tokens)
        from helper import factor

        return view.visual_BVD.float().norm(dim=-1) * factor(1, 2)
'''
HELPER = "def factor(a, b):\n    return a + b\n"

Write = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """written(name=text, ...): the digest of the class Largest in module `largest`, imported from these files."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("largest", "helper"):  # another test may have left modules of these names, from another folder
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = set(sys.modules)

    def forget() -> None:
        for name in set(sys.modules) - before:
            if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
        importlib.invalidate_caches()

    def digest(*, of: str = "largest:Largest", **texts: str) -> str:
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change faster than their times
        module, name = of.split(":")
        return source_digest(getattr(importlib.import_module(module), name))

    yield digest
    forget()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# (batch, visual tokens)", "# another comment"),
        ('"""A method."""', '"""Another text.\n\nWith more lines."""'),
        ('    """Keep the largest."""\n', ""),
        ("(cuts=(Cut(2, self.keep),))", "(\n            cuts=(\n        Cut(2, self.keep),\n            )\n        )"),
        ('ClassVar[str] = "largest"', "ClassVar[str] = ('largest')"),
        ("\n\n\n@dataclass", "\n@dataclass"),
    ],
)  # fmt: skip
def test_comments_docstrings_and_formatting_do_not_count(written: Write, old: str, new: str) -> None:
    assert old in LARGEST
    assert written(largest=LARGEST, helper=HELPER) == written(largest=LARGEST.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dim=-1", "dim=-2"), ("Cut(2,", "Cut(3,"), (".float()", ".double()"), ("keep: int", "keep: int = 3"),
        ("factor(1, 2)", "factor(2, 1)"), ("keep: int\n", "keep: int\n    more: float = 1.0\n"), ("-1)", "-1.0)"),
    ],
)  # fmt: skip
def test_code_counts(written: Write, old: str, new: str) -> None:
    assert old in LARGEST
    assert written(largest=LARGEST, helper=HELPER) != written(largest=LARGEST.replace(old, new))


def test_two_modules_that_exchange_their_content_are_other_code(written: Write) -> None:
    helper = "import one, two\n\n\ndef factor(a, b):\n    return 2 * one.AMOUNT + two.AMOUNT\n"
    first = written(largest=LARGEST, helper=helper, one="AMOUNT = 1.0\n", two="AMOUNT = -1.0\n")
    assert written(one="AMOUNT = -1.0\n", two="AMOUNT = 1.0\n") != first


def test_a_helper_of_the_same_project_counts_even_if_a_function_imports_it(written: Write) -> None:
    first = written(largest=LARGEST, helper=HELPER)
    assert "helper" not in sys.modules, "taking a digest imports nothing"
    assert written(helper=HELPER.replace("a + b", "a - b")) != first
    assert written(helper=HELPER + "# a comment\n") == first
    assert written(helper="from deeper import factor\n", deeper=HELPER) != first
    deep = written()
    assert written(deeper=HELPER.replace("a + b", "a * b")) != deep
    assert written(only_for_types="x = 1\n") == written(only_for_types="x = 2\n")


def test_a_package_of_methods_is_followed_by_relative_imports(written: Write) -> None:
    own = LARGEST.replace("from helper import", "from .inner.helper import")
    texts = {"mine____init__": "", "mine__inner____init__": "", "mine__inner__helper": HELPER, "mine__largest": own}
    first = written(of="mine.largest:Largest", **texts)
    changed = HELPER.replace("a + b", "b")
    assert written(of="mine.largest:Largest", mine__inner__helper=changed) != first
    assert written(of="mine.largest:Largest", mine__inner__helper=HELPER) == first
    from_package = own.replace("from .inner.helper import factor", "from .inner import helper")
    second = written(of="mine.largest:Largest", mine__largest=from_package)
    assert written(of="mine.largest:Largest", mine__inner__helper=changed) != second
    assert written(of="mine.largest:Largest", mine____init__="import os\n") != second


def test_the_base_of_a_method_counts_unless_it_is_the_base_of_all(written: Write) -> None:
    own = "from parent import Parent\nclass Largest(Parent):\n    name = 'x'\n"
    parent = "from hidrop.reducer import Reducer\nclass Parent(Reducer):\n    factor = 1\n"
    first = written(largest=own, parent=parent)
    assert written(parent=parent.replace("1", "2")) != first


def test_a_method_on_top_of_a_bundled_one_has_that_ones_source_in_it(
    written: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "from baselines.fastv import FastV\nclass Largest(FastV):\n    name = 'x'\n"
    first = written(largest=own)
    inner = method_source._code
    monkeypatch.setattr(method_source, "_code", lambda node: iter(["".join(inner(node)).replace("'fastv'", "'other'")]))
    assert written(largest=own) != first


@pytest.mark.parametrize("name", METHODS)
def test_every_bundled_method_has_a_source_and_hidrops_core_is_not_in_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    inner = method_source._parsed
    monkeypatch.setattr(method_source, "_parsed", lambda spec: read.append(spec.name) or inner(spec))
    cls = method_class(name)
    method_source._parts.cache_clear()
    assert len(source_digest(cls)) == 64
    assert cls.__module__ in read
    assert {module for module in read if module.startswith(("hidrop", "evals"))} <= {
        "hidrop.hidrop",
        "hidrop.stacks.stack",
    }
    if name in ("pool", "uniform"):
        assert "baselines.grid" in read
    if name == "sparsevlm":
        assert "baselines.clustering" in read


def test_bundled_methods_have_different_sources() -> None:
    assert len({source_digest(method_class(name)) for name in METHODS}) == len(METHODS)


def test_a_class_without_a_file_is_refused_in_words() -> None:
    made: dict[str, Any] = {"__name__": "nowhere"}
    exec("from hidrop.reducer import Reducer\nclass Mine(Reducer): pass", made)
    with pytest.raises(ValueError, match="Mine is not defined in a file"):
        source_digest(made["Mine"])


def test_a_class_of_a_started_program_counts(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    text = "from hidrop.method_source import source_digest\nfrom hidrop.reducer import Reducer\n"
    text += "class Mine(Reducer):\n    x = 1\nprint(source_digest(Mine))\n"

    def printed() -> str:
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
        return done.stdout

    program.write_text(text)
    first = printed()
    program.write_text("# a comment\n" + text)
    assert printed() == first
    program.write_text(text.replace("x = 1", "x = 2"))
    assert printed() != first


def test_a_source_that_cannot_be_parsed_is_named(written: Write, tmp_path: Path) -> None:
    written(largest=LARGEST, helper=HELPER)
    cls = sys.modules["largest"].Largest
    (tmp_path / "largest.py").write_text("def (")
    method_source._parts.cache_clear()
    with pytest.raises(ValueError, match=r"largest\.py: the source of a method cannot be read"):
        source_digest(cls)


def test_a_compiled_module_counts_with_its_bytes(tmp_path: Path) -> None:
    from importlib.machinery import ModuleSpec

    place = tmp_path / "fast.so"
    digests = set()
    for content in (b"1", b"2"):
        place.write_bytes(content)
        spec = ModuleSpec("fast", None, origin=str(place))
        digests.add(method_source._parsed(spec))
    assert len(digests) == 2
