"""The caption of the results table: protocol, columns, machine, warnings and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from evals.matrix.schema import AUTO
from evals.report.columns import columns_of, task_name
from evals.report.differences import SIGNIFICANT
from evals.report.provenance import provenance_lines
from evals.report.published import OUTSIDE, citation, other_splits, published_metrics, sources_used, split_name
from evals.report.rows import ALPHA, rows_of, tasks_of, without_percent
from evals.report.seeds import together
from evals.store.result_document import FailureEntry, ResultDocument, batch_size_of, cell_key, protocol_of
from evals.store.scales import by_hand, measured_by
from evals.tasks.base import LMMS_EVAL, RIGHT, Source, Task
from evals.tasks.data import MINI
from evals.tasks.registry import TASKS, get_task, known_tasks

# What results say that do not name the class: the one of LLaVA, which was the only family then. lmms-eval's other class
# for it, `llava`, is LLaVA's own code, with another prompt and with padding.
LLAVA_CLASS = "llava_hf"
# The caption shows the start of a message's first line; the JSON file has the whole message.
ERROR_LENGTH = 200
DIGITS = 12  # of a digest


def caption(document: ResultDocument) -> list[tuple[str, str]]:
    """(topic, sentence) pairs in reading order, without empty topics."""
    lines = [
        ("Protocol", _protocol(document)),
        ("Weights", _weights(document)),
        ("Decoding", _decoding(document)),
        ("CUDA graphs", _captured(document)),
        ("Compiled", _compiled(document)),
        ("Pixels of an image", _pixels(document)),
        ("Frames of a video", _film(document)),
        ("Data", _data(document)),
        ("Methods outside of hidrop", _own_methods(document)),
        *_columns(document),
        *provenance_lines(document),
        *_published(document),
        ("Statistics", _statistics(document)),
        ("Older cells", _older(document)),
        ("Warnings (!)", _warnings(document)),
        ("Samples that failed", _samples(document)),
        ("Cells that failed", _failed(document)),
    ]
    return [(topic, text) for topic, text in lines if text]


def _protocol(document: ResultDocument) -> str:
    named, others = document["protocol"], dict[str, list[str]]()
    for task, name in document.get("protocols", {}).items():
        others.setdefault(name, []).append(task_name(task))
    several = {named: "", **{name: f" ({', '.join(tasks)})" for name, tasks in others.items()}}
    parts = [
        ", ".join(name + tasks + (_imitated(document) if name == LMMS_EVAL else "") for name, tasks in several.items()),
        f"dtype {document['dtype']}",
        f"attention {document['attention']}",
        _batch_size(document),
    ]
    if document["limit"]:
        parts.append(f"only the first {counted(document['limit'], 'sample')} of each task")
    return ", ".join(parts)


def _batch_size(document: ResultDocument) -> str:
    """The batch size that is stated, or with `auto` the ones that the cells have: the most frequent one first."""
    stated, cells = document["batch_size"], document["cells"]
    if stated != AUTO or not cells:
        return f"batch size {stated}"
    counts = Counter(batch_size_of(document, cell) for cell in cells)
    (most, _), *others = counts.most_common()
    parts = []
    for size, _ in others:
        own = [cell for cell in cells if batch_size_of(document, cell) == size]
        whole = {(c["model"], c["task"]) for c in cells} - {
            (c["model"], c["task"]) for c in cells if batch_size_of(document, c) != size
        }
        names = [f"{c['model']}/{c['task']}" if (c["model"], c["task"]) in whole else cell_key(c) for c in own]
        parts.append(f"{size} for {', '.join(dict.fromkeys(names))}")
    return f"batch size {most} ({', '.join(['auto', *parts])})"


def _imitated(document: ResultDocument) -> str:
    """The model classes of lmms-eval whose prompts and pixels the models have, each with its models."""
    classes: dict[str, dict[str, None]] = {}
    for cell in document["cells"]:
        if protocol_of(document, cell["task"]) != LMMS_EVAL:
            continue
        classes.setdefault(cell.get("asked_as", LLAVA_CLASS), {})[cell["model"]] = None
    if len(classes) < 2:
        (name,) = classes or (LLAVA_CLASS,)
        return f" (as its class {name}: the processor's chat template)"
    each = ", ".join(f"{name} ({', '.join(models)})" for name, models in classes.items())
    return f" (as its classes {each}: the processor's chat template)"


def _weights(document: ResultDocument) -> str:
    """The digest of each model; several, if its cells were answered with different weights."""
    models: dict[str, dict[str, None]] = {}
    for cell in document["cells"]:
        if "weights" in cell:
            models.setdefault(cell["model"], {})[cell["weights"][:DIGITS]] = None
    if not models:
        return ""
    names = ", ".join(f"{model} {' and '.join(digests)}" for model, digests in models.items())
    return f"{names} (sha256 of weights, configs, tokenizer and processors)"


def _decoding(document: ResultDocument) -> str:
    """The decoding settings of each task, and the tokens that end an answer of each model."""
    tasks, models = dict[str, dict[str, None]](), dict[str, dict[str, None]]()
    for cell in document["cells"]:
        if "decoding" in cell:
            tasks.setdefault(_settings(cell["decoding"]), {})[task_name(cell["task"])] = None
        if "ends" in cell:
            ends = " or ".join(map(str, cell["ends"]))
            words = f"at token {ends}" if ends else "at the tokenizer's end token"
            models.setdefault(words, {})[cell["model"]] = None
    parts = [f"{', '.join(names)}: {words}" if len(tasks) > 1 else words for words, names in tasks.items()]
    places = [f"{words} ({', '.join(names)})" if len(models) > 1 else words for words, names in models.items()]
    if places:
        parts.append(f"an answer ends {', '.join(places)}")
    return "; ".join(parts)


def _captured(document: ResultDocument) -> str:
    """Which rows ran by CUDA graphs, and which did not although the matrix asks for graphs."""
    rows: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for cell in document["cells"]:
        if "captured" in cell:
            rows[cell["captured"]][f"{cell['model']}/{cell['label']}"] = None
    captured, others = (", ".join(rows[which]) for which in (True, False))
    if not captured:
        return f"none captured: {others}" if others else ""
    return f"captured: {captured}" + (f"; not captured: {others}" if others else "")


def _compiled(document: ResultDocument) -> str:
    """The models whose norms and MLPs were compiled."""
    models = dict.fromkeys(cell["model"] for cell in document["cells"] if cell.get("compiled"))
    return f"norms and MLPs of {', '.join(models)}, by torch.compile" if models else ""


def _pixels(document: ResultDocument) -> str:
    """The limits that the matrix states for its models."""
    models: dict[str, str] = {}
    for cell in document["cells"]:
        if pixels := cell.get("pixels"):
            models[cell["model"]] = ", ".join(f"{name} {value}" for name, value in pixels.items())
    return "; ".join(f"{model}: {words}" for model, words in models.items())


def _film(document: ResultDocument) -> str:
    """How many frames of a video each model is shown."""
    models: dict[str, str] = {}
    for cell in document["cells"]:
        if film := cell.get("film"):
            rate = f"{film['fps']:g} a second, " if film["fps"] is not None else ""
            models[cell["model"]] = f"{rate}at most {film['frames']}"
    return "; ".join(f"{model}: {words}" for model, words in models.items())


def _settings(decoding: Mapping[str, Any] | str) -> str:
    if isinstance(decoding, str):
        return f"the settings of {decoding}"
    greedy = not decoding.get("do_sample")
    words = ["greedy" if greedy else f"sampling at temperature {decoding.get('temperature')}"]
    if (beams := decoding.get("num_beams", 1)) > 1:
        words.append(f"{beams} beams")
    return ", ".join([*words, f"at most {decoding.get('max_new_tokens')} new tokens"])


def counted(number: int, name: str) -> str:
    """A number with a noun: "1 task", "2 tasks"."""
    return f"{number:,} {name}" + "s" * (number != 1)


def _data(document: ResultDocument) -> str:
    """Which data each task's numbers belong to; "" if all data is embedded."""
    parts, own = [], document.get("own_tasks", {})
    for name in tasks_of(document):
        if name in own:  # a task that `report` does not know
            rows = document.get("data_rows", {}).get(name)
            parts.append(f"{name}: {own[name]}" + (f", {rows:,} rows" if rows is not None else ""))
        elif document["data"].get(name, MINI) != MINI:
            parts += [f"{task.title}: {_size(document, task)}" for task in known_tasks([name])]
    return "; ".join(parts)


def _own_methods(document: ResultDocument) -> str:
    """The rows whose method is not a part of hidrop, each with the code that gave its numbers."""
    codes: dict[str, list[str]] = {}
    for cell in document["cells"]:
        if (code := cell.get("code")) and cell["label"] not in codes.setdefault(code, []):
            codes[code].append(cell["label"])
    return "; ".join(f"{', '.join(labels)}: {code}" for code, labels in codes.items())


def _size(document: ResultDocument, task: Task) -> str:
    """The name of a task's data and its number of rows. With a limit too, another number than the official one is told.

    Files of results from before the number was written have the number of samples alone.
    """
    source, found = _source(document, task), document.get("data_rows", {}).get(task.name)
    if found is not None and source.rows is not None and found != source.rows:
        return f"{found:,} rows ({source.named} has {source.rows:,})"
    if source.rows is None:
        return source.named + (f", {found:,} rows" if found is not None else "")
    told = found is None and _official(document, task.name)
    return f"{source.named}, {'officially ' * bool(told)}{source.rows:,} rows"


def _source(document: ResultDocument, task: Task) -> Source:
    """The data of a task, in the version that was asked."""
    return task.versions.get(document.get("data_versions", {}).get(task.name, ""), task.source)


def _columns(document: ResultDocument) -> list[tuple[str, str]]:
    """The topics of the table's columns, with the notes of their columns. The scores come first."""
    topics = {"Scores": [_scores(document)]}
    for column in columns_of(rows_of(document), tasks_of(document)):
        if column.topic:
            topics.setdefault(column.topic, []).append(column.note(document))
    return [(topic, ". ".join(filter(None, notes))) for topic, notes in topics.items()]


def _scores(document: ResultDocument) -> str:
    parts = []
    for task in tasks_of(document):
        cells = [cell for cell in document["cells"] if cell["task"] == task]
        metrics = " and ".join(dict.fromkeys(cell["metric"] for cell in cells))
        counts = _counts(document, task)
        size = f" on {'-'.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))}" if counts else ""
        if cells:
            parts.append(f"{task_name(task)} {metrics}{size}{_official(document, task)}")
    if not parts:
        return ""
    counts = sorted({row.seeds for row in together(rows_of(document)) if row.seeds > 1})
    seeds = f". With {' or '.join(map(str, counts))} seeds: mean ± half of the range" if counts else ""
    return f"{'; '.join(parts)}. {_scales(document)}; the best of each section is bold{seeds}"


def _scales(document: ResultDocument) -> str:
    """The scale of the scores, and of those that are on another one."""
    cells = document["cells"]
    own = dict.fromkeys(task_name(cell["task"]) for cell in cells if cell.get("own_scale") and "unscored" not in cell)
    parts = ["Scores are 0 to 100" + (f", and as lmms-eval prints them for {', '.join(own)}" if own else "")]
    for task in known_tasks(tasks_of(document)):
        if task.top != 100:
            parts.append(f"{task.title}'s 0 to {task.top:,.0f}")
    apart = _apart(document)
    if zero := dict.fromkeys(
        task_name(cell["task"])
        for cell in cells
        if cell.get("base") and cell["value"] is not None and cell["percent_of_vanilla"] is None
        if cell["task"] not in without_percent(document) and cell["task"] not in apart
    ):
        parts.append(f"No % of vanilla, because vanilla's score is 0: {', '.join(zero)}")
    if lower := dict.fromkeys(task_name(cell["task"]) for cell in cells if cell.get("lower_is_better")):
        parts.append(f"Smaller is better, and left out of % of vanilla: {', '.join(lower)}")
    if unscored := dict.fromkeys(task_name(cell["task"]) for cell in cells if "unscored" in cell):
        parts.append(f"Not scored here, and left out of % of vanilla: {', '.join(unscored)}")
    judges = dict.fromkeys((task_name(cell["task"]), cell["judge"], by_hand(cell)) for cell in cells if "judge" in cell)
    for named, judge, hand in judges:
        mean, official = "the mean of scores from 0 to 1 by", "scored by lmms-eval's functions, with"
        parts.append(f"{named} is {mean} {judge}, times 100" if hand else f"{named} is {official} {judge} as the judge")
    if apart:
        names = ", ".join(map(task_name, apart))
        parts.append(f"Not compared with vanilla, because the judge or the metric is another one: {names}")
    parts += [_group(document, name, tasks) for name, tasks in document.get("groups", {}).items()]
    return ". ".join(parts)


def _apart(document: ResultDocument) -> list[str]:
    """The tasks with a cell whose judge or metric is not that of its vanilla."""
    known = {cell_key(cell): cell for cell in document["cells"]}
    pairs = [(cell, known[cell["base"]]) for cell in document["cells"] if cell["base"] in known]
    scored = [(cell, base) for cell, base in pairs if cell["value"] is not None and base["value"] is not None]
    return list(dict.fromkeys(cell["task"] for cell, base in scored if measured_by(cell) != measured_by(base)))


def _group(document: ResultDocument, name: str, tasks: Sequence[str]) -> str:
    """What a group's mean is over, and why there is none or what is mixed in it."""
    cells = [cell for cell in document["cells"] if cell["task"] in tasks]
    text = f"{name} (mean) is the plain mean of its {counted(len(tasks), 'task')}"
    if unscored := dict.fromkeys(task_name(cell["task"]) for cell in cells if "unscored" in cell):
        return f"{text}, and missing where {' or '.join(unscored)} is not scored"
    scales = {cell.get("own_scale") or (get_task(cell["task"]).top if cell["task"] in TASKS else 100) for cell in cells}
    directions = {cell.get("lower_is_better", False) for cell in cells}
    mixed = ["of different scales"] * (len(scales) > 1) + ["where smaller is better in some"] * (len(directions) > 1)
    return f"{text}, {' and '.join(mixed)}" if mixed else text


def _own_points(document: ResultDocument) -> bool:
    """Whether a task's score is on another scale than 0 to 100."""
    return any(cell.get("own_scale") for cell in document["cells"]) or any(
        task.top != 100 for task in known_tasks(tasks_of(document))
    )


def _counts(document: ResultDocument, task: str) -> list[int]:
    """The numbers of samples that a task's cells have, each once."""
    return sorted({cell["n"] for cell in document["cells"] if cell["task"] == task and cell["n"]})


def _official(document: ResultDocument, task: str) -> str:
    """The official number of samples, if the task's data must have another one. The embedded sets are no copies."""
    counts = _counts(document, task)
    if task not in TASKS or document["data"].get(task, MINI) == MINI or not counts:
        return ""
    official, limit, groups = _source(document, get_task(task)).rows, document["limit"], get_task(task).group_column
    if official is None:
        return ""
    if limit is not None and groups is not None and limit < official:
        return ""  # a limit is rounded down to whole groups
    wanted = official if limit is None else min(limit, official)
    return "" if set(counts) == {wanted} else f" (official: {official:,})"


def _published(document: ResultDocument) -> list[tuple[str, str]]:
    """How to read the published numbers, then one line per source."""
    used = sources_used(document)
    if not used:
        return []
    kinds = "; ".join(f"{name} {metric}" for name, metric in published_metrics(document).items())
    splits = ", ".join(map(split_name, other_splits(document)))
    apart = f"Published for another split than the measured one, and not compared with it: {splits}. " if splits else ""
    text = (
        "share and tokens are averages over the layers (~: inferred from printed FLOPs or scores; ?: the source's own "
        "label, if the average is unknown), or what the setting says. In parentheses after a score: measured minus "
        f"published, with '{OUTSIDE.strip()}' if the published score is outside the measured 95 % interval; not for "
        "models whose images have their own numbers of tokens, as tables differ in the size of the images. % of "
        "vanilla is a mean over the given number of benchmarks: a measured one over those of this table, a published "
        "one as its source prints it, which may be over others (?: it does not say over how many). "
        f"{apart}Metrics in the papers: {kinds}"
    )
    return [("Published numbers", text), *((f"Source {s.short}", citation(s)) for s in used)]


def _statistics(document: ResultDocument) -> str:
    stats = [cell["stats"] for cell in document["cells"] if "stats" in cell]
    compared = sum("against" in one for one in stats)
    if not compared:
        return ""
    tasks = known_tasks(tasks_of(document))
    units = "; ".join(f"{task.title}: {task.units}" for task in tasks if task.units != Task.units)
    soft = ", ".join(f"{task.title}'s" for task in tasks if task.soft)
    scale = ", and are on the scale of their score" if _own_points(document) else ""
    lower = any(cell.get("lower_is_better") for cell in document["cells"])
    return (
        f"differences from vanilla compare the same samples{scale}; their 95 % intervals are from a "
        f"bootstrap over images. {SIGNIFICANT.strip()}: exact McNemar test, p < {ALPHA:g} after Holm's correction for "
        f"{compared} comparisons. "
        f"Flips: samples{f' ({units})' if units else ''} that went from wrong to right, from right to "
        f"wrong{f' ({soft} soft score: right from {RIGHT:g} on)' if soft else ''}, and the share of samples "
        f"with the same parsed answer as vanilla{'; where smaller is better, only that share' if lower else ''}"
    )


def _older(document: ResultDocument) -> str:
    """The cells that --keep-cells took from an earlier version of the code."""
    cells = [cell for cell in document["cells"] if cell.get("older")]
    if not cells:
        return ""
    names = ", ".join(map(cell_key, cells))
    return f"answered by an earlier version of hidrop or of their method, and taken on purpose (--keep-cells): {names}"


def _warnings(document: ResultDocument) -> str:
    return "; ".join(
        f"{cell_key(cell)}: {', '.join(cell['warnings'])}" for cell in document["cells"] if cell["warnings"]
    )


def _samples(document: ResultDocument) -> str:
    counts = (f"{cell['n_failed']} in {cell_key(cell)}" for cell in document["cells"] if cell["n_failed"])
    return ", ".join(counts)


def _failed(document: ResultDocument) -> str:
    return "; ".join(_failure(entry) for entry in document["failed"])


def _failure(entry: FailureEntry) -> str:
    place = "/".join((entry["model"], entry["label"], entry["task"] or "timing"))
    message = (entry["error"].strip().splitlines() or ["no message"])[0]
    return f"{place}: {message[:ERROR_LENGTH]}"
