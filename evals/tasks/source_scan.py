"""What lmms-eval's functions use, read from their source without importing it.

`Source` is one module: its functions, its imports, and which packages it needs. `closure` follows the names in a
function to other functions of lmms-eval's tasks. The result is an estimate: a name that is made while the program runs
is not seen.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from evals.tasks.index import Function, tasks_folder

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, eq=False)
class Part:
    """A function or class at the top of a module: its source and its first line."""

    file: Path
    line: int
    text: str

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Every name in it, also those in its comments and texts."""
        return frozenset(NAME.findall(self.text))

    @functools.cached_property
    def returns(self) -> bool:
        """Whether it returns a value somewhere."""
        found = ast.walk(ast.parse(self.text))
        return any(isinstance(one, ast.Return) and _is_value(one.value) for one in found)


@dataclass
class Source:
    """A module. `imported`: (module, name in it, or None for the module itself) by the name that it has here.

    packages: top-level packages that importing the module needs, each with its line. optional: by name, the module and
    line of an import that may fail (in a `try`), without another value in that case: only what uses the name needs it.
    """

    file: Path
    parts: dict[str, Part] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    packages: dict[str, int] = field(default_factory=dict)
    optional: dict[str, tuple[str, int]] = field(default_factory=dict)
    modules: dict[str, int] = field(default_factory=dict)  # all modules that it imports at its top
    aliases: dict[str, str] = field(default_factory=dict)  # of `name = other`
    text: str = ""
    loose: list[Part] = field(default_factory=list)  # statements that run when it is imported


@functools.cache
def source(file: Path) -> Source:
    """The module in a file; an empty one for a file that cannot be parsed."""
    found = Source(file)
    try:
        text = file.read_text(encoding="utf-8")
        with warnings.catch_warnings(action="ignore"):  # of escapes in lmms-eval's texts
            tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):
        return found
    lines = text.splitlines()
    found.text = text
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _take_import(found, node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            body = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            found.parts[node.name] = Part(file, node.lineno, body)
        if isinstance(node, ast.Try):
            _take_optional(found, node)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            found.aliases |= {to.id: node.value.id for to in node.targets if isinstance(to, ast.Name)}
        if isinstance(node, ast.Expr | ast.Assign | ast.If | ast.Try | ast.With | ast.For):
            found.loose.append(Part(file, node.lineno, "\n".join(lines[node.lineno - 1 : node.end_lineno])))
    return found


def _is_value(node: ast.expr | None) -> bool:
    """Whether something is returned, and more than None or the number of documents."""
    counts = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len"
    return node is not None and not counts and not (isinstance(node, ast.Constant) and node.value is None)


def _take_import(found: Source, node: ast.Import | ast.ImportFrom) -> None:
    if isinstance(node, ast.Import):
        for alias in node.names:
            found.modules.setdefault(alias.name, node.lineno)
            found.packages.setdefault(alias.name.split(".")[0], node.lineno)
            found.imported[alias.asname or alias.name.split(".")[0]] = (alias.name, None)
        return
    module = _absolute(found.file, node)
    if not node.level:
        found.packages.setdefault(module.split(".")[0], node.lineno)
    found.modules.setdefault(module, node.lineno)
    for alias in node.names:
        found.imported[alias.asname or alias.name] = (module, alias.name)


def _take_optional(found: Source, node: ast.Try) -> None:
    """The imports of a `try`, without those that its handlers replace."""
    own = Source(found.file)
    for line in node.body:
        if isinstance(line, ast.Import | ast.ImportFrom):
            _take_import(own, line)
            for alias in line.names:
                name = alias.asname or alias.name.split(".")[0]
                module = own.imported[name][0]
                found.optional[name] = (module, line.lineno)
    for handler in node.handlers:
        for inner in ast.walk(handler):
            named = getattr(inner, "id", None) or getattr(inner, "name", None) or getattr(inner, "asname", None)
            found.optional.pop(str(named), None)


def _absolute(file: Path, node: ast.ImportFrom) -> str:
    """The name of an imported module, for a relative import below lmms_eval too."""
    if not node.level:
        return node.module or ""
    above = file.parents[node.level - 1]
    folder = tasks_folder()
    if folder is None or folder.parent.parent not in above.parents:
        return node.module or ""
    parts = above.relative_to(folder.parent.parent).parts
    return ".".join([*parts, *([node.module] if node.module else [])])


@functools.cache
def module_file(module: str) -> Path | None:
    """The file of a module of lmms-eval; None for any other module."""
    folder = tasks_folder()
    if folder is None or not module.startswith("lmms_eval"):
        return None
    place = folder.parent.joinpath(*module.split(".")[1:])
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def start(function: Function) -> tuple[Path, str] | None:
    """The file and the name of a reference in a YAML file."""
    file = function.file or module_file(function.name.rpartition(".")[0])
    return None if file is None else (file, function.attribute)


def undefined(functions: Iterable[Function]) -> str:
    """The first function that is not in the module that it is named with; "" if all are, as far as that is known."""
    for function in functions:
        file, name = start(function) or (None, "")
        if file is not None and (text := source(file).text) and name not in text and "import *" not in text:
            return f"{function.name}, which {file.parent.name}/{file.name} does not have"
    return ""


def closure(functions: Iterable[Function]) -> tuple[Part, ...]:
    """The parts that functions use, themselves included, below lmms-eval's tasks and next to the YAML file."""
    return _closure(tuple(found for function in functions if (found := start(function))))


@functools.cache  # many tasks share their functions
def _closure(starts: tuple[tuple[Path, str], ...]) -> tuple[Part, ...]:
    waiting = list(starts)
    seen: dict[tuple[Path, str], Part | None] = {}
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        file, name = key
        module = source(file)
        seen[key] = part = module.parts.get(name)
        if part is None:
            if name in module.imported:
                waiting += _elsewhere(module, [name])
            elif name in module.aliases:
                waiting.append((file, module.aliases[name]))
            continue
        own = part.names & (module.parts.keys() | module.aliases.keys())
        waiting += [(file, other) for other in sorted(own)]
        waiting += _elsewhere(module, sorted(part.names & module.imported.keys()))
    return tuple(part for part in seen.values() if part is not None)


def run_on_import(functions: Iterable[Function]) -> list[Part]:
    """The statements that importing the modules of these functions runs."""
    files = {found[0] for function in functions if (found := start(function))}
    return [part for file in sorted(files) for part in source(file).loose]


def _elsewhere(module: Source, names: Iterable[str]) -> list[tuple[Path, str]]:
    """Where imported names are defined, if that is below lmms-eval's tasks."""
    found = []
    for name in names:
        there, attribute = module.imported[name]
        if there.startswith("lmms_eval.tasks") and attribute and (file := module_file(there)):
            found.append((file, attribute))
        elif there.startswith("lmms_eval.tasks") and attribute and (file := module_file(f"{there}.{attribute}")):
            found += [(file, other) for other in source(file).parts]
    return found


def lacking(functions: Iterable[Function]) -> dict[str, str]:
    """Packages that importing these functions' modules needs and that are not installed: "file, line 3" by name."""
    functions = list(functions)
    waiting = [found[0] for function in functions if (found := start(function))]
    seen: set[Path] = set()
    missing: dict[str, str] = {}
    for part in closure(functions):
        optional = source(part.file).optional
        for wanted, line in (optional[name] for name in sorted(part.names & optional.keys())):
            if there := module_file(wanted):
                waiting.append(there)
            elif not installed(package := wanted.split(".")[0]):
                missing.setdefault(package, f"{part.file.name}, line {line}")
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        module = source(file)
        for package, line in module.packages.items():
            if package and package != "lmms_eval" and not installed(package) and not _beside(file, package):
                missing.setdefault(package, f"{file.name}, line {line}")
        names = [*module.modules, *(f"{there}.{attribute}" for there, attribute in module.imported.values())]
        waiting += [there for name in names if (there := module_file(name)) and "tasks" in there.parts]
    return missing


def _beside(file: Path, package: str) -> bool:
    """Whether a module of this name is in the folder; some tasks add their folder to the path."""
    return (file.parent / f"{package}.py").is_file() or (file.parent / package).is_dir()


@functools.cache
def installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
