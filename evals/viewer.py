"""`run.py view`: results in a browser, from a server on this machine alone that reads and never writes.

The list of everything below a folder, the page of each results folder and of each file of bench, and of a run that goes
on the cells that have ended so far. Pages of what goes on load themselves again. Whatever is asked for by another name
than those in the list is not found, so no other file can be read.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from evals.bench import files as bench_files
from evals.bench import page as bench_page
from evals.report import page as report_page
from evals.report.embedded import rendered
from evals.report.units import MISSING, fixed
from evals.store.cell_files import DIGITS_AT_END, result_line
from evals.store.folders import DOCUMENT, HEADINGS, State, below, read_document, state, states
from hidrop.errors import UserError
from hidrop.regular_files import file_state
from hidrop.visible import visible, visible_values

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")  # a page elsewhere cannot ask under a name of its own that leads here
EVERY = 5  # seconds until a page of what goes on loads again
PROGRESS = "progress"
KEPT = 10_000  # files of which what was read is kept
# Making a page draws figures, which cannot be done twice at a time.
DRAWING = threading.Lock()


@dataclass(frozen=True)
class Shown:
    """A table of the viewer: of each row its fields, and the address that the first one leads to."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str | None, tuple[str, ...]], ...]


class Pages:
    """The pages below the folder `base`, by their path. A changed file is read again, and its page made again."""

    def __init__(self, base: Path) -> None:
        """Raises UserError for a folder that is not there."""
        if not base.is_dir():
            raise UserError(f"{base}: not a folder. Give the folder of your results, such as results")
        self.base = base
        self._made: dict[Path, tuple[tuple[int, ...], str]] = {}

    def page(self, path: str) -> str | None:
        """The HTML at a path such as "/mini/"; None if there is nothing. Raises UserError for a damaged file."""
        name = unquote(path).strip("/")
        if not name:
            return self._list()
        folders = {self._name(folder): folder for folder in below(self.base)}
        if folder := folders.get(name):
            if (folder / DOCUMENT).is_file():
                return self._of_file(folder / DOCUMENT, lambda: report_page.html(read_document(folder), folder))
            return self._progress(folder)
        above, _, last = name.rpartition("/")
        if last == PROGRESS and above in folders:
            return self._progress(folders[above])
        file = next((file for file in bench_files.below(self.base) if self._name(file) == name), None)
        if file is None or _timed(file, _at(file)) is None:
            return None
        return self._of_file(file, lambda: bench_page.html(bench_files.read(file)))

    def _name(self, path: Path) -> str:
        """The folder itself has the name of its own last part, since the list is at the empty one."""
        return path.relative_to(self.base).as_posix() if path != self.base else self.base.resolve().name

    def _of_file(self, file: Path, make: Callable[[], str]) -> str:
        at = _at(file)
        if self._made.get(file, ((), ""))[0] != at:
            with DRAWING:
                self._made[file] = at, make()
        return self._made[file][1]

    def _list(self) -> str:
        found, tables = [*states(self.base, _ended)], list[Shown]()
        if found:
            rows = tuple((f"/{quote(self._name(one.folder))}/", self._state(one)) for one in found)
            tables.append(Shown("Results", HEADINGS, rows))
        timed = [(path, _timed(path, _at(path))) for path in bench_files.below(self.base)]
        if any(cells for _, cells in timed):
            names = ((self._name(path), cells) for path, cells in timed if cells)
            lines = tuple((f"/{quote(name)}", (name, *cells[1:])) for name, cells in names)
            tables.append(Shown("Speed", bench_files.HEADINGS, lines))
        going_on = [one for one in found if _goes_on(one)]
        links = [
            (f"/{quote(self._name(one.folder))}/{PROGRESS}", f"{self._name(one.folder)}: cells so far")
            for one in going_on
        ]
        return _rendered(f"Below {self.base}", tables, links, again=bool(going_on))

    def _state(self, one: State) -> tuple[str, ...]:
        return self._name(one.folder), *one.cells()[1:]

    def _progress(self, folder: Path) -> str:
        """The cells whose journals are there, and the scores of those that have ended."""
        one = state(folder, _ended)
        rows = tuple((None, _cell(path)) for path in sorted(folder.glob("samples/*.jsonl")))
        table = Shown("Cells so far", ("cell", "metric", "score", "samples"), rows)
        title = f"{self._name(folder)}: {one.done} done, {one.begun} begun, {one.failed} failed"
        return _rendered(title, [table], [("/", "All results")], again=_goes_on(one))


def _at(path: Path) -> tuple[int, ...]:
    """The state of a file, by which what was read in it is kept; empty for one that is not there."""
    try:
        return file_state(path)
    except OSError:
        return ()


def _goes_on(one: State) -> bool:
    return one.busy != MISSING


@lru_cache(maxsize=KEPT)
def _timed(path: Path, at: tuple[int, ...]) -> tuple[str, ...] | None:
    """The line in a list of a file of bench in the state `at` (`file_state`); None for another file."""
    document = bench_files.document_of(path)
    return None if document is None else bench_files.cells(path, document, path.parent)


@lru_cache(maxsize=KEPT)
def _result(path: Path, at: tuple[int, ...]) -> bytes | None:
    """The result of a finished journal in the state `at`, as it is in the file; None for one that goes on."""
    return result_line(path)


def _ended(path: Path) -> bool:
    return path.is_file() and _result(path, _at(path)) is not None


def _cell(path: Path) -> tuple[str, ...]:
    """The line of a journal: its cell, and the cell's result or that it goes on."""
    cell = DIGITS_AT_END.sub("", path.stem)
    try:
        found = _result(path, _at(path))
        if found is None:
            return cell, MISSING, "goes on", MISSING
        result = json.loads(found)
        value = result["value"]
        return cell, str(result["metric"]), MISSING if value is None else fixed(value, 2), str(result["n"])
    except (OSError, ValueError, KeyError, TypeError):  # torn or damaged: `doctor` reports it
        return cell, MISSING, "cannot be read", MISSING


def _rendered(title: str, tables: list[Shown], links: list[tuple[str, str]], *, again: bool) -> str:
    return rendered(
        "viewer.html.jinja",
        title=visible(title),
        tables=visible_values([vars(table) for table in tables]),
        links=links,
        again=EVERY if again else None,
    )


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD with a page."""

    server: Server
    server_version, sys_version = "hidrop", ""

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in NAMES:
            return self._answer(403, f"Ask for http://{ADDRESS}:{self.server.server_port}/ instead.", "text/plain")
        try:
            found = self.server.pages.page(urlsplit(self.path).path)
        except UserError as error:
            return self._answer(500, f"{error}\n", "text/plain")
        if found is None:
            return self._answer(404, "Nothing of this name. The list of what there is: /\n", "text/plain")
        return self._answer(200, found, "text/html")

    do_HEAD = do_GET

    def _answer(self, status: int, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""


class Server(ThreadingHTTPServer):
    """Serves the pages below `base` on this machine alone. `port` 0: a free one, in `server_port`."""

    daemon_threads = True

    def __init__(self, base: Path, port: int) -> None:
        """Raises UserError for a folder that is not there, and a port that is taken."""
        self.pages = Pages(base)
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: {error}. Give another one; 0 takes a free one") from None

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"
