"""The command report: tables, figures and pages of results folders and files of bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from evals.cli.command import Group
from evals.cli.exit_codes import DONE
from evals.cli.options import Options, argument, flag, option, written
from hidrop.errors import UserError
from hidrop.regular_files import own_folder

if TYPE_CHECKING:
    from evals.bench.document import BenchDocument
    from evals.report.measured_speed import MeasuredSpeed
    from evals.store.result_document import ResultDocument

COMMANDS = Group("Use results")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    folder: Annotated[Path, argument("PATH", "A results folder, a file of bench, or a folder of such files.")]
    others: Annotated[list[Path] | None, argument("[PATH ...]", "More of them, for one page of all (with --out).")] = (
        None
    )
    tables: Annotated[bool, flag("--tables", "Write tables only, no figures and no page.")] = False
    samples: Annotated[
        int | None, option("--samples", "N", "Samples of each task on the page (default: 48).", min=0)
    ] = None
    out: Annotated[Path | None, option("--out", "DIR", "Folder of the files (default: the results folder).")] = None


@COMMANDS.command("report", example="results/mini")
def report(options: ReportOptions) -> int:
    """Write tables, figures and an HTML page of results.

    PATH is a results folder, or a file of bench, whose page is written next to it. The table of a folder is checked
    against the journals, if they are there. Without them the page keeps the samples that it shows. Several results
    folders make one page in --out, with every row of every run; files of bench and of bench-train, or folders of them,
    get the section "Measured speed" there.
    """
    options.loading(f"{options.folder}: loading libraries")
    from evals.bench import files

    places = [options.folder, *(options.others or ())]
    timed = {place: found for place in places if (found := files.at(place)) is not None}
    if timed.get(options.folder) == places:
        return bench_report(options)
    if options.others or timed:
        folders = [place for place in places if place not in timed]
        return one_page(options, folders, [path for found in timed.values() for path in found])
    from evals import report
    from evals.report import figures, page
    from evals.store.lock import locked

    out = options.out or options.folder
    with locked(out):
        document = checked_document(options.folder)
        paths = []
        if not options.tables:  # the page first: it can refuse
            own_folder(out / "figures")
            paths += [page.write(document, options.folder, samples=samples_of(options), out=out)]
            paths += figures.write(document, out / "figures")
        paths = report.write(document, out) + paths
    report.show(document, options.stream)
    options.say(written(*paths))
    options.document(document)
    return DONE


def checked_document(folder: Path) -> ResultDocument:
    """The document of a results folder. Raises UserError, also if it contradicts the folder's journals."""
    from evals.store.folders import DOCUMENT, contradiction_with, read_document
    from evals.store.result_document import RESULTS
    from evals.tasks.registry import add_files

    document = read_document(folder)
    add_files(document.get("own_tasks", {}))
    if problem := contradiction_with(folder, document):
        raise UserError(f"{folder / DOCUMENT}: {problem}. {RESULTS.remedy(str(folder / DOCUMENT))}")
    return document


def samples_of(options: ReportOptions) -> int:
    from evals.report import page

    return page.SAMPLES if options.samples is None else options.samples


def one_page(options: ReportOptions, folders: Sequence[Path], timed: Sequence[Path]) -> int:
    """One page of results folders and files of bench. Everything is read before anything is written."""
    from evals.bench import files
    from evals.bench import page as bench_page
    from evals.report import page
    from evals.report.several import runs_of
    from evals.store.lock import locked
    from hidrop.atomic_file import make_folder

    if options.out is None:
        raise UserError("several results folders or files of bench make one page: say where with --out DIR")
    if options.tables:
        raise UserError("--tables is for one results folder: leave it out to write one page of several")
    if options.samples is not None and not folders:
        raise UserError("--samples is for results folders, and these are files of bench")
    speed: MeasuredSpeed | None = bench_page.measured_speed(files.read_all(timed)) if timed else None
    documents = [checked_document(folder) for folder in folders]
    runs = runs_of(folders, documents) if len(folders) > 1 else []
    with locked(options.out):
        if runs:
            path = page.write_several(runs, options.out, samples=samples_of(options), speed=speed)
        elif folders:
            path = page.write(documents[0], folders[0], samples=samples_of(options), out=options.out, speed=speed)
        else:
            assert speed is not None
            path = options.out / page.NAME
            page.check_title(path, bench_page.TITLE)
            make_folder(options.out)
            bench_page.write_several(speed, path)
    options.say(written(path))
    named = {run.name: str(run.folder) for run in runs} or {folder.name: str(folder) for folder in folders}
    options.document({"runs": named, "bench": [str(file) for file in timed], "page": str(path)})
    return DONE


def bench_report(options: ReportOptions) -> int:
    """The page of a file of bench or bench-train, next to it or in --out, and the answer on the terminal."""
    from evals.bench import files, page, text
    from evals.bench.answer import points_of
    from hidrop.atomic_file import make_folder

    if options.tables or options.samples is not None:
        raise UserError(
            f"{options.folder}: --tables and --samples are for results folders, and this is a file of bench"
        )
    document, out = files.read(options.folder), options.out or options.folder.parent
    make_folder(out)
    path = page.write(document, out / f"{options.folder.stem}.html")
    if document.get("kind") != "training":
        for rows in points_of(cast("BenchDocument", document)["rows"]).values():
            options.say(text.short_text(rows) + "\n")
    options.say(written(path))
    options.document(document)
    return DONE
