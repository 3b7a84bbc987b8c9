"""Commands on results folders and files of bench: ls, view, compare, export, doctor, agree, export-tasks."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from evals.cli.command import Group
from evals.cli.exit_codes import DONE, SOME_FAILED
from evals.cli.options import Options, argument, flag, option, written
from hidrop.errors import UserError
from hidrop.regular_files import own_folder

COMMANDS = Group("Use results")

Folder = Annotated[Path, argument("DIR", "A results folder.")]


@dataclass(frozen=True, kw_only=True)
class ListOptions(Options):
    folder: Annotated[Path, argument("DIR", "The folder to look into.")] = Path("results")


@COMMANDS.command("ls", example="results")
def list_folders(options: ListOptions) -> int:
    """List results folders and files of bench."""
    from evals.bench import files
    from evals.plain_table import aligned, fitted
    from evals.store.folders import HEADINGS, states

    found, timed = list(states(options.folder)), list(files.listed(options.folder))
    if not found and not timed:
        raise UserError(f"{options.folder}: no results folders and no files of bench here")
    if found:
        options.say("\n".join(aligned([HEADINGS, *(one.cells() for one in found)])))
    if timed:
        lines = fitted([files.HEADINGS, *(files.cells(path, document, options.folder) for path, document in timed)])
        options.say("\n".join([""] * bool(found) + lines))
    folders = [{**dataclasses.asdict(one), "folder": str(one.folder)} for one in found]
    options.document({"folders": folders, "bench": [files.entry(path, document) for path, document in timed]})
    return DONE


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    folder: Annotated[Path, argument("DIR", "The folder to look into.")] = Path("results")
    port: Annotated[int, option("--port", "N", "The port on this machine; 0 takes a free one.", min=0)] = 8080


@COMMANDS.command("view", example="results")
def view(options: ViewOptions) -> int:
    """Show results in a browser, live while a run goes on.

    A server on this machine alone, which only reads: the list of all results folders and files of bench below DIR, the
    page of each, and the cells so far of a run that goes on. Ctrl+C ends it.
    """
    options.loading(f"{options.folder}: loading libraries")
    from evals.viewer import Server

    with Server(options.folder, options.port) as server:
        options.say(f"{server.url} shows {options.folder}. Ctrl+C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return DONE


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    a: Annotated[str, argument("A", "A results folder or a file of bench, or one in a commit: HEAD~3:results/mini.")]
    b: Annotated[str, argument("B", "The other one.")]


@COMMANDS.command("compare", example="HEAD:results/mini results/mini")
def compare(options: CompareOptions) -> int:
    """Compare two results folders, or two files of bench.

    Folders are compared cell by cell, with their timings. Where both have the samples (journals, or the samples.parquet
    that `export` writes), differences are paired and have confidence intervals. Commits, versions and machines that
    differ are named. Files of bench may be of two machines, versions or commits: each
    is also compared with the ceilings of its own machine.
    """
    options.loading(f"comparing {options.a} with {options.b}")
    if bench_files(options):
        from evals.bench import compare as benches

        timed = benches.compare(options.a, options.b)
        options.say(timed.text())
        options.document(dataclasses.asdict(timed))
        return DONE
    from evals.report.compare import compare

    found = compare(options.a, options.b)
    options.say(found.text())
    options.document(dataclasses.asdict(found))
    return DONE


def bench_files(options: CompareOptions) -> bool:
    """Whether both sides are files of bench. Raises UserError if one is."""
    kinds = [place.endswith(".json") and not Path(place).is_dir() for place in (options.a, options.b)]
    if any(kinds) and not all(kinds):
        raise UserError(f"{options.a} and {options.b}: give two results folders or two files of bench")
    return all(kinds)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    folder: Folder
    format: Annotated[
        Literal["parquet", "hf"], option("--format", None, "hf adds what the Hugging Face Hub reads.")
    ] = "parquet"
    out: Annotated[Path | None, option("--out", "DIR", "Default: DIR/export.")] = None


@COMMANDS.command("export", example="results/mini --format hf")
def export(options: ExportOptions) -> int:
    """Export samples and cells as parquet.

    For pandas, duckdb, and `compare` without journals. With --format hf the folder is a data set that
    `datasets.load_dataset` loads, with a card, and model-index/ has the evaluation results of each model for its card.
    """
    options.loading(f"{options.folder}: loading libraries")
    from evals.report.export import export

    out = options.out or own_folder(options.folder / "export")
    paths = export(options.folder, out, hub=options.format == "hf")
    options.say(written(*paths))
    options.document({"written": [str(path) for path in paths]})
    return DONE


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    folder: Folder
    repair: Annotated[bool, flag("--repair", "Repair. Damaged files are kept as NAME.damaged.")] = False


@COMMANDS.command("doctor", example="results/mini --repair")
def doctor(options: DoctorOptions) -> int:
    """Find and repair damaged files in a results folder.

    Without --repair it only says what a repair would drop. Exits with 1 when something is damaged and was not repaired.
    """
    options.loading(f"{options.folder}: reading journals")
    from evals.store.doctor import examine, repair
    from evals.store.lock import locked

    # A repair reads and writes under the lock, so that it does not undo what a run writes in between.
    with locked(options.folder) if options.repair and options.folder.is_dir() else contextlib.nullcontext():
        found = examine(options.folder)
        for finding in found:
            options.problem(finding.text())
        if options.repair:
            repair(options.folder, found)
    if found and options.repair:
        options.say(f"{len(found)} files repaired; the next run makes again what was dropped")
    if not found:
        options.say(f"{options.folder}: nothing is damaged")
    options.document({"damaged": [{"path": str(f.path), "problem": f.problem, "drops": f.drops} for f in found]})
    return SOME_FAILED if found and not options.repair else DONE


@dataclass(frozen=True, kw_only=True)
class AgreeOptions(Options):
    answers: Annotated[
        Path | None,
        option("--answers", "PATH", "The published file. With --published: the folder of the repository that has it."),
    ] = None
    run: Annotated[Path | None, option("--run", "DIR", "A results folder, or one journal in it.")] = None
    task: Annotated[str | None, option("--task", "TASK", "The task of the answers, such as pope.")] = None
    cell: Annotated[str | None, option("--cell", "PATTERN", "The row of the folder, as model/method.")] = None
    published: Annotated[
        str | None, option("--published", "NAME", "A published run by its name, such as hidrop-64.")
    ] = None
    list_published: Annotated[bool, flag("--list-published", "List the published runs that have names.")] = False
    questions: Annotated[
        Path | None, option("--questions", "FILE", "The benchmark's question file, to match samples by image.")
    ] = None
    data: Annotated[
        str | None, option("--data", "DIR", "The data that the run read (default: the embedded benchmark).")
    ] = None
    flips: Annotated[
        str,
        option("--flips", "N|FILE", "How many differing samples to print, or a file (.jsonl, .csv) for all of them."),
    ] = "10"


@COMMANDS.command("agree", example="--answers llava-1.5-7b.jsonl --run results/paper --task pope")
def agree(options: AgreeOptions) -> int:
    """Compare a run's answers with a published answers file.

    Compares sample by sample and scores both sides by LLaVA's own rule. The first line is the verdict on the scores in
    a word: agrees, differs, undecided (too few samples), or unscored.
    """
    from evals.report.published_runs import published_runs

    if options.list_published:
        options.say(published_runs().text())
        options.document(published_runs().document())
        return DONE
    if options.published is not None:
        published_runs().run(options.published)
    if options.run is None:
        raise UserError("--run: name the results folder to compare, or use --list-published")
    if options.answers is None and options.published is None:
        raise UserError("--answers: name the published file to compare with, or a published run with --published")
    options.loading(f"{options.run}: loading libraries")
    from evals.report import agreement, agreement_run, answers_file, flips_file

    shown, file = flips_file.asked(options.flips)
    run = agreement_run.read_run(agreement_run.find_run(options.run, options.task, options.cell))
    if options.task not in (None, run.task):
        raise UserError(f"--task {options.task}: {run.path} is a run of {run.task}")
    answers = options.answers
    if options.published is not None:
        answers = published_runs().find(options.published, answers, run.task)
    assert answers is not None
    documents = agreement_run.read_documents(run, options.data)
    published = answers_file.read_answers(answers, options.questions, run.task, documents.docs)
    found = agreement.agree(run, documents, published)
    about = published_runs().run(options.published) if options.published is not None else None
    options.say(found.word)
    if about is not None:
        options.say(f"{options.published}: {about.title}. {about.settings} ({about.basis})")
    options.say(found.text(shown))
    if file is not None:
        flips_file.write(found.flips, file)
        options.say(written(file))
    named = {} if about is None else {"published_run": {"name": options.published, **about.model_dump(mode="json")}}
    options.document({"word": found.word, "answers": str(answers), **named, **dataclasses.asdict(found)})
    return DONE


@dataclass(frozen=True, kw_only=True)
class ExportTasksOptions(Options):
    folder: Annotated[Path, argument("DIR", "The folder for the task files.")]
    data: Annotated[str, option("--data", "DATA", "mini, or a folder with parquet files.")] = "mini"


@COMMANDS.command("export-tasks", example="tasks/")
def export_tasks(options: ExportTasksOptions) -> int:
    """Export the tasks as YAML files for lmms-eval's command line.

    Tasks without usable data are skipped, with the reason.
    """
    options.loading(f"{options.data}: reading data")
    from evals.tasks.export import export

    found = export(options.folder, options.data)
    for why in found.skipped.values():
        options.say(f"skipped: {why}")
    options.say(f"lmms-eval --model hidrop --include_path {options.folder} --tasks {','.join(found.names)}")
    options.document({"folder": str(options.folder), "tasks": found.names, "skipped": found.skipped})
    return DONE
