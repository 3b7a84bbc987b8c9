"""What a YAML file may hold: every other content is refused with its place, fast, and before it is expanded."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hidrop import strict_yaml
from hidrop.errors import UserError

ROOT = Path(__file__).parents[2]
LAUGHS = "\n".join(["a0: &a0 {k: 1}", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))])
MERGES = "\n".join(
    ["a0: &a0 {k: 1}", *(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]
)

REFUSED = {
    "a: !!set {x}": r"line 1, column 4\): tags such as !!set are not supported",
    "a: !!map {x: 1}": "tags such as !!map",
    "a: !!timestamp 2026-11-25": "tags such as !!timestamp",
    "a: !!binary aGk=": "tags such as !!binary",
    "a: !!omap [x: 1]": "tags such as !!omap",
    "a: !!bool x": "tags such as !!bool",
    "a: !!python/object/apply:os.system [ls]": "tags such as !!python/object/apply:os.system",
    "a: !own x": "tags such as !own",
    "!x": "tags such as !x",
    "a: 1.0e+308": r"'1.0e\+308' is not a number of at most 64 bits",
    "a: .inf": "'.inf' is not a number",
    "a: -.inf": "'-.inf' is not a number",
    "a: .nan": "'.nan' is not a number",
    "a: 9223372036854775809": "not a number of at most 64 bits",
    "a: " + "9" * 5000: "a text of more than 4096 characters",
    "a: " + "9" * 4000: "not a number of at most 64 bits",
    "a: 0x" + "f" * 4000: "not a decimal number",
    "a: 12:30": "'12:30' is not a decimal number. For a text, put it in quotes",
    "a: 010": "'010' is not a decimal number",
    "a: " + "[" * 5000: "nested deeper than 32 levels",
    "a: " + "{" * 5000: "nested deeper than 32 levels",
    "- " * 5000: "nested deeper than 32 levels",
    "\n".join(" " * i + "a:" for i in range(200)): "nested deeper than 32 levels",
    'a: "\\ud800"': r"the invisible character \\ud800",
    'a: "\\0"': r"the invisible character \\x00",
    'a: "\\e[31m"': r"the invisible character \\x1b",
    '"\\u202e": 1': r"the invisible character \\u202e",
    "a: &a [*a]": r"the alias \*a is inside of its own value",
    "a: &a {b: *a}": r"the alias \*a is inside",
    LAUGHS: "more than 100000 values",
    MERGES: "merging with << is not supported",
    "a: 1\na: 2": r"line 2, column 1\): 'a' is given twice",
    "? [1]\n: 2": "unhashable key",
    "a: 1\n---\nb: 2": "another document",
    "<<: 5": "merging with << is not supported",
    "a: &b {c: 1}\nd: {<<: *b, e: 2}": "merging with <<",
    "a: [": "not valid YAML",
    "a: \x1b": "not valid YAML",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_a_text_is_refused_with_its_place_at_once(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=REFUSED[text]) as caught:
        strict_yaml.value(text, "x.yaml")
    assert str(caught.value).startswith("x.yaml: not valid YAML") and len(str(caught.value)) < 300
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2026-11-25", {"a": "2026-11-25"}),
        ("a: =", {"a": "="}),
        ("a: [1, 2.5, -3, 0, 1.0e-5, true, null, x]", {"a": [1, 2.5, -3, 0, 1e-5, True, None, "x"]}),
        ("a: &b {c: 1}\nd: *b", {"a": {"c": 1}, "d": {"c": 1}}),
        ("a: '010'", {"a": "010"}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_plain_yaml_is_read_as_it_is_written(text: str, value: Any) -> None:
    assert strict_yaml.value(text, "x") == value


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: os.mkfifo(path), "a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda path: path.write_bytes(b"#" * (1 << 19) + b"\n"), "more than 524,288 bytes"),
        (lambda path: path.write_bytes(b"[1]"), "must be a mapping"),
        (lambda path: path.write_bytes(b""), "must be a mapping"),
    ],
)
def test_what_is_no_file_with_a_mapping_is_refused_at_once(make: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    make(path)
    with pytest.raises(UserError, match=rf"^x\.yaml: .*{reason}"):
        strict_yaml.read(path, path.name)


# Files of others, in which lmms-eval's !function and a README's own fields have to pass.
OF_OTHERS = ("evals/tasks/index.py", "evals/tasks/hub.py")


def test_no_other_module_reads_yaml() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in ("hidrop", "evals", "baselines")
        for file in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "yaml"
        and "load" in node.attr.lower()
        and file.name != "strict_yaml.py"
        and str(file.relative_to(ROOT)) not in OF_OTHERS
    ]
    assert found == []
