"""Write a study's results: tables of claims and variants in markdown and for the terminal, and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evals.ablations.claims import Judged, Measured, judged, measured
from evals.ablations.document import SCHEMA, AblationsDocument
from evals.ablations.spec import Study
from evals.report.columns import task_name
from evals.report.files import json_text
from evals.report.tables import Entry, Sheet
from evals.report.text import escape, markdown_table, plain_table
from evals.report.units import MISSING, fixed
from evals.store.lock import locked
from evals.store.result_document import ResultDocument
from hidrop.atomic_file import write_atomically

NAME = "ablations"


def build(study: Study, document: ResultDocument, seconds: Mapping[str, float]) -> AblationsDocument:
    """The results of a study, from the document of its matrix. `seconds`: training time by model."""
    found = measured(study, document)
    return {
        "schema": SCHEMA,
        "study": study.name,
        "seeds": list(study.seeds),
        "limit": study.evaluation.limit,
        "reference": study.evaluation.reference,
        "hardware": document["hardware"],
        "versions": document["versions"],
        "date": document["date"],
        "commit": document["commit"],
        "training_seconds": dict(seconds),
        "variants": {name: one.entry() for name, one in found.items()},
        "claims": [one.entry() for one in judged(study, found)],
        "not_run": [name for name in study.variants if name not in found],
    }


def sheets(study: Study, document: ResultDocument) -> list[Sheet]:
    """The claims with the paper's and our numbers, and the scores of each variant."""
    found = measured(study, document)
    claims = tuple(_claim_line(one) for one in judged(study, found))
    headers = ("Claim", "Verdict", "Paper", "Ours", "Difference", "Seeds")
    scores = tuple(_variant_line(study, one) for one in found.values())
    tasks = tuple(task_name(task) for task in study.evaluation.tasks)
    return [
        Sheet("Claims", headers, (("", claims),), text_columns=2),
        Sheet("Variants", ("Variant", "Tokens", *tasks, "% of reference", "Seeds"), (("", scores),), text_columns=1),
    ]


def _claim_line(one: Judged) -> tuple[Entry, ...]:
    paper = MISSING if one.claim.paper is None else " vs ".join(f"{value:g}" for value in one.claim.paper)
    spread = MISSING if one.half_width is None else fixed(one.half_width)
    difference = f"{one.difference:+.1f} ± {spread}"
    ours = f"{fixed(one.better)} vs {fixed(one.worse)}"
    return tuple(map(Entry, (one.claim.say, one.verdict, paper, ours, difference, str(one.seeds))))


def _variant_line(study: Study, one: Measured) -> tuple[Entry, ...]:
    trained = one.name in study.variants
    spread = f" ± {fixed(one.half_width)}" if trained and one.half_width is not None else ""
    scores = [fixed(one.tasks[task]) for task in study.evaluation.tasks]
    seeds = str(len(one.by_seed)) if trained else "not trained"
    return tuple(map(Entry, (one.name, fixed(one.average_tokens), *scores, fixed(one.mean) + spread, seeds)))


def shown(study: Study, document: ResultDocument) -> str:
    """The tables as aligned text."""
    return "\n\n".join(map(plain_table, sheets(study, document)))


def markdown(study: Study, document: ResultDocument, record: AblationsDocument) -> str:
    """The tables, and notes on how to read them."""
    blocks = [f"# Ablations: {escape(study.name)}"]
    blocks += [f"## {sheet.title}\n\n{markdown_table(sheet)}" for sheet in sheets(study, document)]
    blocks.append("\n".join(f"- {line}" for line in [*_reading(study, record), *study.notes]))
    return "\n\n".join(blocks) + "\n"


def _reading(study: Study, record: AblationsDocument) -> list[str]:
    samples = f"the first {study.evaluation.limit} samples" if study.evaluation.limit else "all samples"
    total = sum(record["training_seconds"].values()) / 3600
    lines = [
        f"Scores are on {samples} of each task, in % of {study.evaluation.reference}, averaged over the tasks. The "
        "paper's numbers are averages over its benchmarks, in % of its vanilla model.",
        f"Every variant is trained with up to {len(study.seeds)} seeds. A seed draws the same training samples for all "
        "variants. Differences are computed seed by seed; ± is half of their 95 % t-interval.",
        "A claim is *reproduced* if the whole interval is above 0, *not reproduced* if it is below 0, and *not "
        "decidable* if it contains 0. The interval covers the seeds, not the choice of test samples: all variants have "
        "the same.",
        f"Training took {total:.1f} hours of one core, without scoring.",
    ]
    if record["not_run"]:
        lines.append(f"Not run: {', '.join(record['not_run'])}.")
    return lines


def write(study: Study, document: ResultDocument, record: AblationsDocument, out: Path) -> Sequence[Path]:
    """Write `ablations.json` and `ablations.md` into `out`; `record` is the result of `build` for the document."""
    paths = out / f"{NAME}.json", out / f"{NAME}.md"
    with locked(out):
        write_atomically(paths[0], json_text(record) + "\n")
        write_atomically(paths[1], markdown(study, document, record))
    return paths
