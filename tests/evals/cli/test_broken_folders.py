"""Results folders with the wrong kinds of files: every command that reads one answers in words, and none waits."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evals import report
from evals.cli import main
from evals.cli.exit_codes import DONE, SOME_FAILED, USER
from hidrop.errors import UserError
from tests.evals.world import World, going

Damage = Callable[[Path], Any]
SECONDS = 60  # a command that takes longer waits for something

COMMANDS = [
    ["ls", "OUT"],
    ["report", "OUT", "--tables"],
    ["compare", "OUT", "OUT"],
    ["export", "OUT"],
    ["doctor", "OUT"],
    ["doctor", "OUT", "--repair"],
    ["agree", "--run", "OUT", "--answers", "OUT/leaderboard.json", "--task", "gqa", "--cell", "plain/vanilla"],
    ["plan", "smoke", "--cost", "OUT/leaderboard.json"],
    ["ablate", "--dry-run", "--work", "OUT", "--out", "OUT"],
    ["retry", "smoke", "--out", "OUT"],
]

KINDS: dict[str, Damage] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "empty": lambda path: path.write_bytes(b""),
    "not UTF-8": lambda path: path.write_bytes(b'{"schema": 1, "x": "\xff"}\n'),
    "null": lambda path: path.write_bytes(b"null\n"),
    "a list": lambda path: path.write_bytes(b"[1, 2]\n"),
    "nested": lambda path: path.write_bytes(b'{"schema": 1, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}\n"),
    "deep": lambda path: path.write_bytes(b'{"schema": 1, "x": ' + b"[" * 400 + b"]" * 400 + b"}\n"),
    "long numbers": lambda path: path.write_bytes(b'{"schema": ' + b"9" * 5000 + b"}\n"),
    "a huge number": lambda path: path.write_bytes(b'{"schema": 1e400}\n'),
    "NUL bytes": lambda path: path.write_bytes(b"\0" * 100 + b"\n"),
    "no line break": lambda path: path.write_bytes(b"x" * 100),
}
FILES = {
    "the document": "leaderboard.json",
    "a journal": "samples/plain.vanilla.gqa.*.jsonl",
    "the samples": "samples",
    "the parts": "samples/parts",
    "the failures": "failures",
    "a failure": "failures/plain.vanilla.gqa.txt",
    "the timings": "profiles",
    "a timing": "profiles/plain.json",
    "the figures": "figures",
    "the page": "report.html",
    "the table": "leaderboard.md",
    "the export": "export",
    "the lock": ".lock",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with journals, tables, timings and a page."""
    place = tmp_path_factory.mktemp("finished")
    document = going(place)(World())
    report.write(document, place / "out")
    (place / "out/failures").mkdir(exist_ok=True)
    (place / "out/report.html").write_text("<html>")
    return place / "out"


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Fail, instead of hanging, when a command waits."""

    def late(*_: object) -> None:
        raise AssertionError(f"waits for more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged(folder: Path, file: str, damage: Damage) -> None:
    for path in sorted(folder.glob(file)) or [folder / file]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        damage(path)


def answered(line: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code of a command, after a check of what it prints."""
    with in_time():
        code = main([word.replace("OUT", str(folder)) for word in line])
    printed = capsys.readouterr()
    assert code in (DONE, SOME_FAILED, USER)
    assert code == DONE or printed.err.strip() or printed.out.strip()
    assert "Traceback" not in printed.err + printed.out
    assert "\0" not in printed.err + printed.out
    assert len(printed.err) < 20_000
    return code


# All files with some kinds, and some files with all kinds.
SHORT = [(file, kind) for file in FILES for kind in KINDS if kind == "a pipe" or file in ("the document", "a journal")]
REST = [(file, kind) for file in FILES for kind in KINDS if (file, kind) not in SHORT]


@pytest.mark.parametrize(("file", "kind"), [*SHORT, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in REST)])
def test_every_command_answers_in_words(
    file: str, kind: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, line in enumerate(COMMANDS):
        folder = tmp_path / str(number)
        shutil.copytree(finished, folder, symlinks=True)
        damaged(folder, FILES[file], KINDS[kind])
        answered(line, folder, capsys)


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "not UTF-8"])
@pytest.mark.parametrize("file", ["the page", "the figures"])
def test_a_whole_report_answers_in_words(
    file: str, kind: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "out", symlinks=True)
    damaged(tmp_path / "out", FILES[file], KINDS[kind])
    answered(["report", "OUT"], tmp_path / "out", capsys)


def test_links_in_a_results_folder_are_not_written_through(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder may be somebody else's: a link in it must not change files outside of it."""
    folder, mine = tmp_path / "out", tmp_path / "mine"
    shutil.copytree(finished, folder)
    mine.mkdir()
    (mine / "precious").write_text("precious")
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "export").mkdir()
    names = [*(f"leaderboard.{kind}" for kind in ("md", "csv", "tex")), "report.html"]
    names += ["figures/accuracy.svg", "figures/tokens.png", "export/samples.parquet", "export/README.md"]
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(mine / "precious")
    assert answered(["report", "OUT"], folder, capsys) == DONE
    assert answered(["export", "OUT", "--format", "hf"], folder, capsys) == DONE
    assert (mine / "precious").read_text() == "precious"
    for name in ("figures", "export"):
        shutil.rmtree(folder / name)
        (folder / name).symlink_to(mine)
    (folder / "report.html").unlink()
    assert answered(["report", "OUT"], folder, capsys) == USER
    assert answered(["export", "OUT"], folder, capsys) == USER
    assert sorted(mine.iterdir()) == [mine / "precious"] and not (folder / "report.html").exists()


def content(*folders: Path) -> dict[Path, bytes]:
    """The files of folders, but the lock."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", ["samples", "samples/parts", "samples/replaced", "failures", "profiles"])
def test_a_run_and_a_repair_do_not_write_into_a_linked_folder(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, mine = tmp_path / "out", tmp_path / "mine"
    shutil.copytree(finished, folder)
    damaged(folder, FILES["a journal"], KINDS["not UTF-8"])
    (folder / name).mkdir(exist_ok=True)
    (folder / name).rename(mine)
    (folder / name).symlink_to(mine)
    before = content(folder, mine)
    world = World()
    world.broken["ask plain/fastv/pope"] = RuntimeError("for a traceback's file")
    with pytest.raises(UserError, match=f"out/{name}: a link to another folder"):
        going(tmp_path)(world, force=True)
    assert answered(["doctor", "OUT", "--repair"], folder, capsys) == USER
    assert content(folder, mine) == before


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a dangling link", "deep"])
@pytest.mark.parametrize("file", ["a journal", "the samples", "the failures", "a timing", "the timings", "the parts"])
def test_a_run_in_a_broken_folder_fails_in_words(file: str, kind: str, finished: Path, tmp_path: Path) -> None:
    """A cell whose journal is not a file fails with its reason; a folder that cannot be written stops the run."""
    shutil.copytree(finished, tmp_path / "out")
    damaged(tmp_path / "out", FILES[file], KINDS[kind])
    world = World()
    world.broken["ask plain/fastv/pope"] = RuntimeError("for a traceback's file")
    with in_time():
        try:
            document = going(tmp_path)(world)
        except (UserError, OSError) as error:  # `main` answers to both in words
            assert str(tmp_path / "out") in str(error)
            return
    reasons = [failure["error"] for failure in document["failed"]]
    assert all(str(tmp_path / "out") in reason or "traceback" in reason for reason in reasons)
    assert len(document["cells"]) + len([failure for failure in document["failed"] if failure["task"]]) == 6
