"""Commands on results folders: report, ls, compare, export, doctor."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from evals.cli.arguments import natural, print_json, stream_of
from hidrop.errors import UserError


def add(commands: Any) -> None:
    report = commands.add_parser(
        "report", help="write tables, figures and an HTML page of a results folder from what is in it"
    )
    report.add_argument("folder", type=Path, metavar="DIR")
    report.add_argument("--tables", action="store_true", help="tables only, no figures and no page")
    report.add_argument("--samples", type=natural, metavar="N", help="samples of each task on the page (default: 48)")
    report.set_defaults(action=report_command)

    listing = commands.add_parser("ls", help="list results folders and their state")
    listing.add_argument("folder", type=Path, metavar="DIR", nargs="?", default=Path("results"))
    listing.set_defaults(action=list_command)

    compare = commands.add_parser("compare", help="two results folders cell by cell, with intervals")
    compare.add_argument("a", metavar="A", help="a results folder, or one in a commit: REV:results/mini")
    compare.add_argument("b", metavar="B")
    compare.set_defaults(action=compare_command)

    export = commands.add_parser("export", help="samples and cells of a results folder for pandas, duckdb, the Hub")
    export.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("--format", choices=("parquet", "hf"), default="parquet", help="hf: with a data set card")
    export.add_argument("--out", type=Path, metavar="DIR", help="default: DIR/export")
    export.set_defaults(action=export_command)

    doctor = commands.add_parser("doctor", help="say what is damaged in a results folder, and what a repair would drop")
    doctor.add_argument("folder", type=Path, metavar="DIR")
    doctor.add_argument("--repair", action="store_true", help="do it; damaged files are kept as NAME.damaged")
    doctor.set_defaults(action=doctor_command)

    for command in (report, listing, compare, doctor):
        command.add_argument("--json", action="store_true", help="last line of stdout: the result as one JSON document")


def report_command(arguments: argparse.Namespace) -> int:
    from evals import report
    from evals.report import figures, page
    from evals.store.folders import read_document

    document = read_document(arguments.folder)
    written = report.write(document, arguments.folder)
    if not arguments.tables:
        samples = page.SAMPLES if arguments.samples is None else arguments.samples
        written += figures.write(document, arguments.folder / "figures")
        written.append(page.write(document, arguments.folder, samples=samples))
    stream = stream_of(arguments)
    report.show(document, stream)
    print(f"written: {', '.join(str(path) for path in written)}", file=stream)
    print_json(arguments, document)
    return 0


def list_command(arguments: argparse.Namespace) -> int:
    from evals.plain_table import aligned
    from evals.store.folders import HEADINGS, states

    found = list(states(arguments.folder))
    if not found:
        raise UserError(f"{arguments.folder}: no results folders here")
    print("\n".join(aligned([HEADINGS, *(state.cells() for state in found)])))
    print_json(arguments, {"folders": [{**dataclasses.asdict(s), "folder": str(s.folder)} for s in found]})
    return 0


def compare_command(arguments: argparse.Namespace) -> int:
    from evals.report.compare import compare

    found = compare(arguments.a, arguments.b)
    print(found.text())
    print_json(arguments, dataclasses.asdict(found))
    return 0


def export_command(arguments: argparse.Namespace) -> int:
    from evals.report.export import export

    out = arguments.out or arguments.folder / "export"
    paths = export(arguments.folder, out, card=arguments.format == "hf")
    print(f"written: {', '.join(map(str, paths))}")
    return 0


def doctor_command(arguments: argparse.Namespace) -> int:
    """Exit code 1: something is damaged, and was not repaired."""
    from evals.store.doctor import examine
    from evals.store.journal import locked

    found = examine(arguments.folder)
    for finding in found:
        print(finding.text())
    if found and arguments.repair:
        with locked(arguments.folder):
            for finding in found:
                finding.repair()
        print(f"{len(found)} files repaired; the next run makes again what was dropped")
    if not found:
        print(f"{arguments.folder}: nothing is damaged")
    print_json(arguments, {"damaged": [{"path": str(f.path), "problem": f.problem, "drops": f.drops} for f in found]})
    return int(bool(found) and not arguments.repair)
