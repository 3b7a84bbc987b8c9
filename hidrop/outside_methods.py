"""Methods that are not part of hidrop: in a file, in a module that Python finds, or offered by an installed package.

    ./mine.py:MyMethod        a class in a file, which may import modules from its folder
    my_pkg.module:MyMethod    a class in a module: installed, on PYTHONPATH, or in the working folder
    mymethod                  an entry point of the group `hidrop.methods`

Code is imported when a user names it, and never because a checkpoint or a file of results does.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from hidrop.errors import UserError, did_you_mean, in_a_line, shortened
from hidrop.method_source import FROM_FILE, find_spec, imported_names, parts_from, source_digest
from hidrop.reducer import Reducer
from hidrop.regular_files import Unreadable, local_path, read_bytes

GROUP = "hidrop.methods"
MOST_BYTES = 4 << 20  # of a method's file

# By file and content, so that an edited file is read again; and what a checkpoint calls each class.
_modules: dict[tuple[Path, bytes], ModuleType] = {}
# The digests of modules that methods' files have imported, by file, as they were then.
_neighbours: dict[str, str] = {}
_references: dict[type[Reducer], str] = {}


def is_reference(name: str) -> bool:
    """Whether a name says where a class is: FILE.py:CLASS or MODULE:CLASS."""
    return ":" in name


@functools.cache
def offered() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of installed packages, by name. Imports none of them."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUP):
        if point not in found.get(point.name, ()):
            found[point.name] = (*found.get(point.name, ()), point)
    return found


def find(name: str) -> type[Reducer]:
    """The class that a reference or an entry point names; its code is imported if it was not before.

    Raises UserError when the code cannot be found or imported, and when the class is not a method of its own.
    """
    if not is_reference(name):
        points = offered()[name]
        if len(points) > 1:
            given = ", ".join(f"{point.value} ({_package(point)})" for point in points)
            raise UserError(f"method '{name}' is offered by several packages: {given}. Write MODULE:CLASS instead")
        return _checked(_attribute(_imported(points[0].module), points[0].attr, name), name, name)
    place, _, wanted = name.rpartition(":")
    if not place or not wanted:
        raise UserError(f"method '{shortened(name)}': write FILE.py:CLASS or MODULE:CLASS")
    if not (place.endswith(".py") or os.sep in place):
        return _checked(_attribute(_imported(place), wanted, name), name, name)
    path = local_path(place, f"method '{shortened(name)}'")
    return _checked(_attribute(_of_file(path), wanted, name), name, f"{path.name}:{wanted}")


def code_files(name: str) -> tuple[Path, ...]:
    """The files whose code `find` would run, as far as they can be told without importing any."""
    place = name.rpartition(":")[0] if is_reference(name) else offered()[name][0].module
    with contextlib.suppress(ValueError, OSError):
        if place.endswith(".py") or os.sep in place:
            path = Path(place).expanduser().resolve()
            return tuple(sorted([path, *map(Path, _neighbours_of(path))])) if path.is_file() else ()
        with _on_path(Path.cwd()):
            spec = find_spec(place)
            found = {} if spec is None else parts_from([spec])
        return tuple(sorted(Path(file) for _, file in found.values()))
    return ()


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """A block in which Python finds modules in a folder, too."""
    importlib.invalidate_caches()
    added = str(folder) not in sys.path
    if added:
        sys.path.append(str(folder))
    try:
        yield
    finally:
        if added:
            sys.path.remove(str(folder))


def reference(cls: type[Reducer]) -> str:
    """How a checkpoint names a class that is not one of hidrop's: FILE.py:CLASS, MODULE:CLASS or an entry point."""
    if cls in _references:
        return _references[cls]
    module = sys.modules[cls.__module__]
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    place = cls.__module__ if spec is not None or file is None else Path(file).name
    return f"{place}:{cls.__qualname__}"


def named_before(name: str, digest: str | None = None) -> type[Reducer] | None:
    """The class that a checkpoint calls `name`, if the user has named it in this process. Imports nothing.

    `digest`: of its source; a class with this source is the one, wherever its file is and whatever its name.
    """
    named = [cls for cls, known in reversed(_references.items()) if known == name]
    same = [cls for cls in reversed(_references) if digest is not None and source_digest(cls) == digest]
    return next(iter([*same, *named]), None)


def _fields_of(cls: type[Reducer]) -> str:
    return ", ".join(cls.__dataclass_fields__) or "none"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown package"


def _imported(name: str) -> ModuleType:
    folder = os.getcwd()
    importlib.invalidate_caches()  # of files that were written just now
    if find_spec(name.partition(".")[0]) is None and folder not in sys.path:
        sys.path.append(folder)  # as `python -m` does
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, error) from None
        way = "Install it, put its folder on PYTHONPATH, or name the file: ./FILE.py:CLASS"
        raise UserError(f"method '{name}': there is no module '{error.name}'. {way}") from None
    except Exception as error:
        raise _failed(name, error) from None


def _of_file(path: Path) -> ModuleType:
    """The module in a file. A module that was imported from this file by its own name is the same one."""
    try:
        source = read_bytes(path, MOST_BYTES)
    except Unreadable as error:
        place = "" if path.is_absolute() else f" in {Path.cwd()}, the working folder"
        raise UserError(f"method file {path}: {error}{place}") from None
    path = path.resolve()
    _check_unchanged(path)
    known = _modules.get((path, source))
    if known is not None:
        return known
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path) and FROM_FILE not in module.__name__:
            return module
    stem = path.stem.replace(".", "_")
    name = next(n for i in itertools.count(1) if (n := f"{stem}{FROM_FILE}{i})") not in sys.modules)
    importlib.invalidate_caches()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # at the end: a file named like a library must not take its place
    spec = spec_from_file_location(name, path)
    assert spec is not None
    try:
        # Compiled here, and not by the import system, whose bytecode files miss an edit within a second.
        code, tree = compile(source, str(path), "exec", dont_inherit=True), ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"method file {path}{line}: {in_a_line(error)}") from None
    _check_neighbours(path, tree)
    module = ModuleType(name)
    module.__file__, module.__spec__, module.__loader__ = str(path), spec, spec.loader
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (Exception, SystemExit)):
            raise _failed(str(path), error) from None
        raise
    _modules[path, source] = module
    _neighbours.update(_neighbours_of(path))
    return module


def _neighbours_of(path: Path) -> dict[str, str]:
    """The digests of the modules that a method's file imports, besides libraries, by file."""
    spec = spec_from_file_location(f"{path.stem.replace('.', '_')}{FROM_FILE}0)", path)
    assert spec is not None
    with contextlib.suppress(ValueError), _on_path(path.parent):
        return {file: digest for digest, file in parts_from([spec]).values() if file != str(path)}
    return {}


def _check_unchanged(path: Path) -> None:
    """Raises UserError for an imported module that was edited since: Python would go on with the old one."""
    for file, digest in _neighbours_of(path).items():
        if _neighbours.get(file, digest) != digest:
            raise UserError(f"method file {path}: it imports {file}, which was edited since. Start Python again")


def _check_neighbours(path: Path, tree: ast.Module) -> None:
    """Raises UserError for a module beside a method's file that Python would take from somewhere else."""
    todo, seen = [(path, tree)], {path}
    while todo:
        file, tree = todo.pop()
        for top in dict.fromkeys(name.partition(".")[0] for name in imported_names(tree, "")):
            beside = next(
                (one for one in (path.parent / f"{top}.py", path.parent / top / "__init__.py") if one.is_file()), None
            )
            if not top or beside is None or beside in seen:
                continue
            seen.add(beside)
            found: ModuleSpec | None = find_spec(top)
            if found is None or found.origin is None or Path(found.origin).resolve() != beside.resolve():
                other = "is built in" if found is None or found.origin is None else f"is taken from {found.origin}"
                raise UserError(
                    f"method file {file}: it imports '{top}', which is beside it ({beside.name}) but {other}. "
                    "Rename the file beside it"
                )
            todo.append((beside, ast.parse(beside.read_bytes())))


def _failed(place: str, error: BaseException) -> UserError:
    """An error of the user's code, with the line of that code nearest to it."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and "<frozen" not in f.filename
    ]
    line = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    way = ". Name it as a part of its package: PACKAGE.MODULE:CLASS" if "relative import" in str(error) else ""
    return UserError(f"method code {place} cannot be imported: {in_a_line(error)}{line}{way}")


def _attribute(module: ModuleType, wanted: str, name: str) -> object:
    found: object = module
    for part in wanted.split("."):
        if not hasattr(found, part):
            methods = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Reducer)]
            there = ", ".join(n for n in methods if vars(module)[n].__module__ == module.__name__) or "none"
            hint = did_you_mean(wanted, methods)
            raise UserError(f"method '{shortened(name)}': no class '{wanted}' there.{hint} Methods: {there}")
        found = getattr(found, part)
    return found


def _checked(found: object, name: str, called: str) -> type[Reducer]:
    """The class, once it is a method with a name of its own. `called`: see `reference`."""
    place = f"method '{shortened(name)}'"
    if not (isinstance(found, type) and issubclass(found, Reducer) and found is not Reducer):
        raise UserError(f"{place}: it is not a class that inherits from hidrop.Reducer")
    settings = found.__dict__.get("__dataclass_params__")
    if settings is None or not settings.frozen:
        raise UserError(f"{place}: write @dataclass(frozen=True) above the class: its fields are the method's settings")
    own = getattr(found, "name", None)
    if not isinstance(own, str) or not own:
        raise UserError(f'{place}: the class has no name. Write name: ClassVar[str] = "..." into it')
    if lacking := [name for name in found.counts if name not in found.__dataclass_fields__]:
        raise UserError(f"{place}: counts: the class has no field {', '.join(lacking)}. It has: {_fields_of(found)}")
    inherited: Callable[..., object] = Reducer.schedule
    if found.schedule is inherited:
        raise UserError(f"{place}: the class has no schedule(geometry), which says when tokens enter and are cut")
    _references[found] = called
    return found
