"""What a reader must know to read the table: conventions, protocol, machine, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.report.differences import SIGNIFICANT
from evals.report.published import OUTSIDE, citation, published_metrics, sources_used
from evals.report.rows import ALPHA, label_of, rows_of, sizes_are_of_profile, tasks_of
from evals.report.seeds import together
from evals.report.sheet import task_name
from evals.store.document import cell_key
from evals.tasks.base import RIGHT, Task
from evals.tasks.registry import known_tasks

# A message's first line is enough here; the whole of it stands in the JSON file.
ERROR_LENGTH = 200


def caption(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(topic, sentence) pairs, in reading order; a topic without anything to say is left out."""
    lines = [
        ("Protocol", _protocol(document)),
        ("Scores", _scores(document)),
        ("Tokens", _tokens(document)),
        ("Operations", _operations(document)),
        ("Time", _time(document)),
        ("Hardware", facts(document.get("hardware", {}))),
        ("Versions", _versions(document)),
        ("Date", str(document.get("date") or "")),
        *_published(document),
        ("Statistics", _statistics(document)),
        ("Warnings (!)", _warnings(document)),
        ("Samples that failed", _samples(document)),
        ("Cells that failed", _failed(document)),
    ]
    return [(topic, text) for topic, text in lines if text]


def _protocol(document: Mapping[str, Any]) -> str:
    parts = [str(document.get("protocol") or "not stated")]
    for key in ("dtype", "attention", "batch_size"):
        values = _values(document, key)
        if values:
            parts.append(f"{key.replace('_', ' ')} {' and '.join(values)}")
    if document.get("limit"):
        parts.append(f"only the first {document['limit']} samples of each task")
    return ", ".join(parts)


def _values(document: Mapping[str, Any], key: str) -> list[str]:
    """What the document says about `key`, itself or cell by cell."""
    if document.get(key) is not None:
        return [str(document[key])]
    return list(dict.fromkeys(str(cell[key]) for cell in document.get("cells", ()) if cell.get(key) is not None))


def _scores(document: Mapping[str, Any]) -> str:
    parts = []
    for task in tasks_of(document):
        cells = [cell for cell in document.get("cells", ()) if cell["task"] == task]
        metrics = " and ".join(dict.fromkeys(str(cell["metric"]) for cell in cells if cell.get("metric")))
        counts = sorted({cell["n"] for cell in cells if cell.get("n")})
        size = f" on {'-'.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))}" if counts else ""
        if cells:
            parts.append(f"{task_name(task)} {metrics}{size}")
    if not parts:
        return ""
    counts = sorted({row.seeds for row in together(rows_of(document)) if row.seeds > 1})
    seeds = f"; ±: half of the range of {' or '.join(map(str, counts))} seeds around their mean" if counts else ""
    return f"{'; '.join(parts)}. 0 to 100, best of a section in bold{seeds}"


def _tokens(document: Mapping[str, Any]) -> str:
    if not any(row.average_tokens is not None for row in rows_of(document)):
        return ""
    text = "visual tokens that enter a layer, averaged over all layers, and their share of the image's tokens"
    kept = "; a budget here is the number left after the last cut, as in tables of other papers"
    budget = kept if document.get("budget_reading") == "kept" else "; a budget is this average"
    adaptive = dict.fromkeys(cell["label"] for cell in document.get("cells", ()) if cell.get("adaptive"))
    by_sample = f"; counted in the run, because they depend on the sample: {', '.join(adaptive)}" if adaptive else ""
    return text + budget + by_sample


def _operations(document: Mapping[str, Any]) -> str:
    rows = rows_of(document)
    if not any(row.flops is not None for row in rows):
        return ""
    texts = sorted({p["text_tokens"] for p in document.get("profiles", ()) if p.get("text_tokens")})
    prompt = f"with {' or '.join(map(str, texts))} text tokens"
    length = prompt if texts and sizes_are_of_profile(document) else "mean over the tasks' prompts"
    return (
        f"FLOP and KV: one prefill of one sequence in the decoder, {length}; a multiply-accumulate is two operations, "
        "attention is causal, vision tower and LM head are left out. Paper MAC: multiply-accumulates of the visual "
        "tokens alone, 4nd^2 + 2n^2d + 3ndm a layer, which PDrop and HiDrop print as FLOPs"
    )


def _time(document: Mapping[str, Any]) -> str:
    profiles = document.get("profiles", ())
    if not profiles:
        return ""
    repeats = sorted({p["repeats"] for p in profiles if p.get("repeats")})
    over = f" of {' or '.join(map(str, repeats))} runs" if repeats else ""
    batch = min(p["batch"] for p in profiles)
    text = (
        f"batch {batch}, median (95th percentile){over}, methods taking turns. "
        "Prefill: decoder and LM head, the choice of tokens included; "
        "TTFT (time to first token): vision tower and projector as well; decode: each further token"
    )
    if any(p.get("prefill_source") == "difference" for p in profiles):
        text += "; prefill is the whole forward minus the time of tower and projector measured alone"
    return text


def facts(hardware: Mapping[str, Any]) -> str:
    """A machine in words."""
    return ", ".join(_fact(key, value) for key, value in hardware.items() if value is not None)


def _fact(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / 1024**3:.0f} GiB {key.removesuffix('_bytes').replace('_', ' ')}"
    if key in ("cores", "threads"):
        return f"{value} {key if value != 1 else key.removesuffix('s')}"
    return str(value) if key in ("cpu", "gpu") else f"{key} {value}"


def _versions(document: Mapping[str, Any]) -> str:
    versions = {**document.get("versions", {}), "commit": document.get("commit")}
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _published(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How to read the published numbers, then one line for each source."""
    used = sources_used(document)
    if not used:
        return []
    kinds = "; ".join(f"{task_name(task)} {metric}" for task, metric in published_metrics(document).items())
    text = (
        "tokens are the true average over the layers (~ inferred from the printed FLOPs; ? the source's own label, "
        "where the average is not known). In parentheses: what was measured here minus the number, and "
        f"'{OUTSIDE.strip()}' where the number is outside of the measured 95 % interval. % of vanilla is the source's "
        f"own mean, over that many benchmarks. What the papers score: {kinds}"
    )
    return [("Published numbers", text), *((f"Source {s.short}", citation(s)) for s in used)]


def _statistics(document: Mapping[str, Any]) -> str:
    stats = [cell["stats"] for cell in document.get("cells", ()) if cell.get("stats")]
    compared = sum("against" in one for one in stats)
    if not compared:
        return ""
    tasks = known_tasks(tasks_of(document))
    units = "; ".join(f"{task.title}: {task.unit}" for task in tasks if task.unit != Task.unit)
    soft = ", ".join(f"{task.title}'s" for task in tasks if task.soft)
    return (
        f"differences from vanilla are on the same samples, with 95 % intervals by a bootstrap over images. "
        f"{SIGNIFICANT.strip()}: exact McNemar test, p < {ALPHA:g} after Holm's correction for {compared} comparisons. "
        f"Flips: samples{f' ({units})' if units else ''} that went from wrong to right, from right to "
        f"wrong{f' ({soft} soft score: right from {RIGHT:g} on)' if soft else ''}, and the share of answers read as "
        "vanilla's is"
    )


def _warnings(document: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{cell_key(cell)}: {', '.join(cell['warnings'])}" for cell in document.get("cells", ()) if cell.get("warnings")
    )


def _samples(document: Mapping[str, Any]) -> str:
    counts = (f"{cell['n_failed']} in {cell_key(cell)}" for cell in document.get("cells", ()) if cell.get("n_failed"))
    return ", ".join(counts)


def _failed(document: Mapping[str, Any]) -> str:
    return "; ".join(_failure(entry) for entry in document.get("failed", ()))


def _failure(entry: Mapping[str, Any]) -> str:
    place = "/".join(str(part) for part in (entry["model"], label_of(entry), entry.get("task") or "timing"))
    message = (str(entry.get("error") or "").strip().splitlines() or ["no message"])[0]
    return f"{place}: {message[:ERROR_LENGTH]}"
