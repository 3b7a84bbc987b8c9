"""The source of a method as a part of its identity: an edited `score` gives other numbers, under the same name.

The digest covers the modules of the method's class and of its bases below `Reducer`, and the modules that these import,
wherever they are. Comments, docstrings and formatting do not change it. Left out are libraries (what is installed, but
for the method's own package), and hidrop's own core: its arithmetic has a version number of its own
(`evals.run.engine.NUMERIC_VERSION`).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from hidrop.reducer import Reducer

# Libraries that may be installed from a checkout, by their modules: they are not followed either.
NAMED_LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "accelerate", "peft", "datasets", "lmms_eval",
                   "numpy", "PIL", "safetensors", "flash_attn", "triton")  # fmt: skip
CORE = ("hidrop", "evals")  # packages that are never followed; a class of a method in one of them counts by itself
METHODS_PACKAGE = "baselines"
LIBRARIES = ("site-packages", "dist-packages")
# In the name of a module that was read from a file and not found by a name: "mine (file 1)" (outside_methods.py).
FROM_FILE = " (file "
# Fields of syntax nodes that formatting or the version of Python decides.
NOT_CODE = ("ctx", "kind", "type_comment", "type_ignores")


def source_digest(cls: type[Reducer]) -> str:
    """sha256, as hex, over the code of a method's class and of what it imports from its own project.

    It is taken once per process, because that is the code that runs. Imports nothing.
    Raises ValueError for a class that is not defined in a file, and for a file that cannot be read or parsed.
    """
    # With its name: two modules that exchange their content are other code for whoever imports them. Nobody imports a
    # file that was read by its path, so its name is none of its code.
    found = _parts(cls)  # type: ignore[arg-type]  # a class can be hashed
    parts = sorted(("" if FROM_FILE in name else name, digest) for name, (digest, _) in found.items())
    return _hash("\n".join(f"{name} {digest}" for name, digest in parts).encode())


def method_digest(reducer: Reducer) -> str:
    """`source_digest` of a method, and of all methods that it is made of. Raises ValueError like it."""
    digests = [source_digest(cls) for cls in reducer.classes]
    return digests[0] if len(digests) == 1 else _hash("\n".join(digests).encode())


def outside_files(reducer: Reducer) -> tuple[Path, ...]:
    """The files of a method's code, as `method_digest` finds them, that are not part of hidrop.

    Raises ValueError like `source_digest`.
    """
    own = (METHODS_PACKAGE, *CORE)
    found = dict[str, str]()
    for cls in reducer.classes:
        parts = _parts(cls)  # type: ignore[arg-type]  # a class can be hashed
        found |= {name: file for name, (_, file) in parts.items() if name.partition(".")[0] not in own}
    return tuple(Path(found[name]) for name in sorted(found))


@functools.cache
def _parts(cls: type[Reducer]) -> dict[str, tuple[str, str]]:
    """The digest and the file of each module of a method's code, by the module's name."""
    roots = []
    for base in cls.__mro__:
        if base in (Reducer, object):
            continue
        spec = find_spec(base.__module__)
        if spec is not None and _has_file(spec):
            if issubclass(base, Reducer) or not _is_library(spec):
                roots.append(spec)
        elif issubclass(base, Reducer):
            raise ValueError(
                f"{base.__name__} is not defined in a file, so results cannot say which code gave them. Move it to a "
                "module of its own"
            )
    return parts_from(roots)


def parts_from(roots: list[ModuleSpec]) -> dict[str, tuple[str, str]]:
    """The digest and the file of these modules and of those that they import from their project, by name.

    Imports nothing. Raises ValueError for a file that cannot be read or parsed.
    """
    project, found, todo = _Project(roots), dict[str, tuple[str, str]](), list(roots)
    while todo:
        spec = todo.pop()
        if spec.name in found or not _has_file(spec):
            continue
        try:
            tree = _parsed(spec)
            digest = tree if isinstance(tree, str) else _hash("".join(_code(tree)).encode("utf-8", "backslashreplace"))
        except (OSError, ImportError, SyntaxError, ValueError, RecursionError) as error:
            raise ValueError(f"{spec.origin}: the source of a method cannot be read ({error})") from None
        found[spec.name] = digest, str(spec.origin)
        if isinstance(tree, ast.Module):
            todo += project.imported_by(spec, tree)
    return found


class _Project:
    """Which modules belong to a method: those of its package, and all that are no library."""

    def __init__(self, roots: Iterable[ModuleSpec]):
        self.packages = {spec.name.partition(".")[0] for spec in roots} - set(CORE) | {METHODS_PACKAGE}

    def __contains__(self, spec: ModuleSpec) -> bool:
        top = spec.name.partition(".")[0]
        if top in CORE or top in NAMED_LIBRARIES:
            return False
        return top in self.packages or not _is_library(spec)

    def imported_by(self, spec: ModuleSpec, tree: ast.Module) -> Iterator[ModuleSpec]:
        """The project's modules that a module imports, with the packages that they are in."""
        package = spec.name if spec.submodule_search_locations is not None else spec.name.rpartition(".")[0]
        for name in [spec.name, *imported_names(tree, package)]:
            parts = name.split(".")
            for count in range(1, len(parts) + 1):
                found = find_spec(".".join(parts[:count]))
                if found is None:
                    break
                if found in self:
                    yield found


def find_spec(name: str) -> ModuleSpec | None:
    """Where a module is, without importing it or its packages. None: nowhere."""
    found: ModuleSpec | None = None
    places: Any = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        full = ".".join(parts[:count])
        if (module := sys.modules.get(full)) is not None:
            found = module.__spec__ or _of_script(module)
        elif count == 1:
            found = importlib.util.find_spec(full)
        else:
            found = PathFinder.find_spec(full, places) if places is not None else None
        if found is None:
            return None
        places = found.submodule_search_locations
    return found


def _of_script(module: Any) -> ModuleSpec | None:
    """A program that was started as a file has no spec."""
    file = getattr(module, "__file__", None)
    return importlib.util.spec_from_file_location(module.__name__, file) if file else None


def _has_file(spec: ModuleSpec) -> bool:
    return spec.has_location and spec.origin is not None


def _is_library(spec: ModuleSpec | None) -> bool:
    """Whether a module comes with Python or was installed."""
    if spec is None or spec.origin is None:
        return False
    if not spec.has_location:  # built in, or frozen
        return True
    place = Path(spec.origin)
    return any(part in LIBRARIES for part in place.parts) or place.is_relative_to(Path(ast.__file__).parent)


def imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    """The names of the modules that may be imported when a module runs, in functions too."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and _is_for_types(node.test):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{name.name}" for name in node.names)


def _is_for_types(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _parsed(spec: ModuleSpec) -> ast.Module | str:
    """The syntax tree of a module; for a compiled one the digest of its file."""
    place = Path(spec.origin or "")
    if place.suffix == ".py" and place.is_file():
        return ast.parse(place.read_bytes())
    loader: Any = spec.loader
    source = loader.get_source(spec.name) if hasattr(loader, "get_source") else None  # in a zip file
    return _hash(place.read_bytes()) if source is None else ast.parse(source)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _code(node: Any) -> Iterator[str]:
    """One spelling of a piece of code, the same for all versions of Python that read it the same way."""
    if isinstance(node, ast.Constant):
        value = hex(node.value) if type(node.value) is int else repr(node.value)  # repr refuses very long numbers
        yield f"{type(node.value).__name__}:{value};"
    elif isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name, value in ast.iter_fields(node):
            if name not in NOT_CODE and value is not None and value != []:
                yield f"{name}="
                yield from _code(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for part in node:
            if not _says_nothing(part):
                yield from _code(part)
                yield ","
        yield "]"
    else:
        yield repr(node)


def _says_nothing(node: Any) -> bool:
    """A docstring, another string that is a statement of its own, and `pass`."""
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
