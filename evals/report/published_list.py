"""The published numbers that hidrop knows, for `run.py reference`: scores, settings, and runs with answers.

Scores are in `results/reference/` (`evals.report.reference`), settings in the methods' own files
(`hidrop.method_facts`), and runs whose answers are public in `evals.report.published_runs`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evals.plain_table import aligned, with_wrapped_end, wrapped
from evals.report.columns import task_name
from evals.report.published import citation, grouped, printed
from evals.report.published_runs import PublishedRun, published_runs
from evals.report.reference import Published, Reference, available, load_reference
from evals.report.sections import VANILLA
from evals.tasks.registry import TASKS
from hidrop.errors import UserError, did_you_mean, shortened
from hidrop.method_facts import Facts, facts
from hidrop.methods import METHODS
from hidrop.program import program

# The model whose answers the published runs are.
RUNS_OF = "llava-1.5-7b"
AFTER = {"encoder": "after the encoder", "layer": "after its layer"}  # what a share of kept tokens counts
SETTING_HEADINGS = ("Method", "Setting", "Model", "Average", "Fields")
RUN_HEADINGS = ("Name", "Trained", "Run")
MODEL_HEADINGS = ("Model", "Rows", "Methods", "Tasks", "Sources")


@dataclass(frozen=True)
class Known:
    """What is published of the chosen models, methods and tasks. task: the only task to show; None: all of them."""

    scores: tuple[tuple[Reference, tuple[Published, ...]], ...]
    settings: tuple[Facts, ...]
    runs: dict[str, PublishedRun]
    task: str | None

    def text(self) -> str:
        """Tables that fit 80 columns, apart from links in the sources."""
        blocks = [block for reference, entries in self.scores for block in self._scores(reference, entries)]
        if settings := self._settings():
            blocks.append("Published settings: `published: SETTING` in a matrix gives the fields")
            blocks.append("\n".join(with_wrapped_end([SETTING_HEADINGS, *settings])))
            blocks.append("\n".join(line for one in self.settings for line in _paper(one)))
        if self.runs:
            found = published_runs()
            tasks = ", ".join(found.folders)
            blocks.append(f"Published answers of {RUNS_OF}, for `agree --published`: {tasks}")
            rows = [(name, "yes" if run.trained else "no", run.settings) for name, run in self.runs.items()]
            blocks.append("\n".join(with_wrapped_end([RUN_HEADINGS, *rows])))
        return "\n\n".join(blocks)

    def overview(self) -> str:
        """What is there, short enough for one screen, and how to ask for a part of it."""
        entries = [entry for _, own in self.scores for entry in own]
        methods, tasks = (list(dict.fromkeys(names)) for names in ([e.method for e in entries], _tasks(entries)))
        sources = {one.sources[entry.source].title for one, own in self.scores for entry in own}
        models = [
            (
                one.model,
                *(str(len(set(part))) for part in (range(len(own)), [e.method for e in own], _tasks(own), _cited(own))),
            )
            for one, own in self.scores
        ]
        settings = sum(1 for _ in self._plans())
        more = f"Also: {settings} published settings of {len(self.settings)} methods, and {len(self.runs)} runs of "
        command = f"{program()} reference"
        return "\n".join(
            [
                f"Published numbers: {len(entries)} rows from {len(sources)} sources",
                "",
                *aligned([MODEL_HEADINGS, *models]),
                "",
                *_hanging(f"{len(methods)} methods: {', '.join(sorted(methods))}"),
                *_hanging(f"{len(tasks)} tasks: {', '.join(sorted(tasks))}"),
                *_hanging(f"{more}{RUNS_OF} whose answers are public"),
                "",
                "Any of --model, --method and --task prints numbers with their sources:",
                f"`{command} --method fastv --task gqa`, or `--all` for everything.",
            ]
        )

    def document(self) -> dict[str, Any]:
        """What `text` says, for --json. Numbers are as printed by their sources."""
        return {
            "models": [
                {
                    "model": reference.model,
                    "geometry": reference.geometry,
                    "visual_tokens": None if reference.sizes.dynamic else reference.sizes.visual_tokens,
                    "scores": {
                        task: kind.model_dump()
                        for task, kind in reference.scores.items()
                        if any(task in self._shown(entry) for entry in entries)
                    },
                    "sources": {key: reference.sources[key].model_dump() for key in _cited(entries)},
                    "entries": [entry.model_dump(mode="json") | {"scores": self._shown(entry)} for entry in entries],
                }
                for reference, entries in self.scores
            ],
            "settings": [
                {
                    "method": method,
                    "setting": setting,
                    "model": model,
                    "average_tokens": average,
                    "fields": fields,
                }
                for method, setting, model, average, fields in self._plans()
            ],
            "papers": {one.name: {"paper": one.paper, "code": one.code} for one in self.settings},
            "runs": {name: run.model_dump(mode="json") for name, run in self.runs.items()},
        }

    def _scores(self, reference: Reference, entries: Sequence[Published]) -> Iterable[str]:
        """A table for each size of images that a model has, then what its scores are and where they were read."""
        tokens = "" if reference.sizes.dynamic else f", {reference.sizes.visual_tokens} visual tokens"
        for images in dict.fromkeys(entry.images for entry in entries):
            yield "\n".join(wrapped(f"{reference.model}{tokens}{f', {images}' if images else ''}"))
            own = [entry for entry in entries if entry.images == images]
            headings = ("Method", "Budget", "Average", "Source", task_name(self.task) if self.task else "Scores")
            yield "\n".join(with_wrapped_end([headings, *(self._line(entry, reference) for entry in own)])).replace(
                "\xa0", " "
            )
        shown = {task for entry in entries for task in self._shown(entry)}
        kinds = [
            f"{task_name(task)}: {kind.metric}, 0 to {kind.max:g}"
            for task, kind in reference.scores.items()
            if task in shown
        ]
        yield "\n".join(line for kind in kinds for line in _hanging(kind))
        sources = (reference.sources[key] for key in _cited(entries))
        yield "\n".join(line for one in sources for line in _hanging(f"{one.short}: {citation(one)}"))

    def _line(self, entry: Published, reference: Reference) -> tuple[str, ...]:
        scores = self._shown(entry)
        told = [
            printed(value) if self.task else f"{task_name(task)} {printed(value)}" for task, value in scores.items()
        ]
        text = ", ".join(one.replace(" ", "\xa0") for one in told)  # a name stays on the line of its number
        if entry.mean_percent is not None and self.task is None:
            mean = f"{printed(entry.mean_percent)} % of vanilla over {entry.mean_tasks or '?'} tasks"
            text = f"{text}, {mean}" if text else mean
        details = ["trained" if entry.trained else "", entry.setting or "", AFTER.get(entry.after or "", "")]
        text += f" ({'; '.join(filter(None, details))})" if any(details) else ""
        return (entry.method, *_tokens(entry), reference.sources[entry.source].short, text)

    def _shown(self, entry: Published) -> dict[str, float]:
        return {task: value for task, value in entry.scores.items() if self.task in (None, task)}

    def _plans(self) -> Iterable[tuple[str, str, str, float | None, dict[str, Any]]]:
        """Each published setting on each of its models. The average is None if the setting needs fields of the user."""
        chosen = {reference.model for reference, _ in self.scores}
        for one in self.settings:
            for setting in one.published:
                for plan in setting.plans:
                    if plan.model in chosen:
                        yield one.name, setting.name, plan.model, plan.average_tokens, dict(setting.fields)

    def _settings(self) -> list[tuple[str, ...]]:
        from hidrop.method_facts import as_yaml

        return [
            (
                method,
                setting,
                model,
                "?" if average is None else f"{average:.2f}",
                ", ".join(f"{key}: {as_yaml(value)}" for key, value in fields.items()),
            )
            for method, setting, model, average, fields in self._plans()
        ]


def known(model: str | None = None, method: str | None = None, task: str | None = None) -> Known:
    """What is published of a model, a method and a task; None: of all. Raises UserError for a name without numbers."""
    references = [load_reference(name) for name in available()]
    _check("--model", model, [reference.model for reference in references], ())
    _check("--method", method, [entry.method for reference in references for entry in reference.entries], METHODS)
    _check("--task", task, [name for one in references for entry in one.entries for name in entry.scores], TASKS)
    scores = []
    for reference in references:
        if model in (None, reference.model):
            entries = [
                entry
                for group in grouped(reference.entries)
                for entry in group
                if method in (None, entry.method) and (task is None or task in entry.scores)
            ]
            scores += [(reference, tuple(entries))] if entries else []
    if not scores:
        asked = " ".join(f"--{n} {v}" for n, v in (("model", model), ("method", method), ("task", task)) if v)
        raise UserError(
            f"{asked}: nothing is published for these together. Leave one out, such as `{program()} reference "
            f"{asked.rpartition(' --')[0]}`"
        )
    methods = dict.fromkeys(entry.method for _, entries in scores for entry in entries if entry.method in METHODS)
    settings = tuple(one for one in map(facts, methods) if one.published)
    return Known(tuple(scores), settings, _runs([reference.model for reference, _ in scores], method, task), task)


def _runs(models: Collection[str], method: str | None, task: str | None) -> dict[str, PublishedRun]:
    found = published_runs()
    if RUNS_OF not in models or (task is not None and task not in found.folders):
        return {}
    return {name: run for name, run in found.runs.items() if method in (None, run.method.get("name"))}


def _check(option: str, asked: str | None, published: Iterable[str], exists: Collection[str]) -> None:
    """Raises UserError for a name that no published number has. `exists`: names that hidrop has all the same."""
    names = list(dict.fromkeys(published))
    if asked is None or asked in names:
        return
    what = "no published numbers of it are known" if asked in exists else "unknown"
    hint = "" if asked in exists else did_you_mean(asked, names)
    raise UserError(f"{option} {shortened(asked)}: {what}.{hint} There are numbers of {', '.join(names)}")


def _tasks(entries: Iterable[Published]) -> list[str]:
    return [task for entry in entries for task in entry.scores]


def _cited(entries: Iterable[Published]) -> list[str]:
    return list(dict.fromkeys(entry.source for entry in entries))


def _tokens(entry: Published) -> tuple[str, str]:
    """The budget as the source calls it, and the average over the layers: ~ inferred, ? unknown."""
    budget = "" if entry.label is None else f"{entry.label:g}"
    if entry.share is not None:
        budget = f"{entry.share:g} %" + (f" ({budget})" if budget else "")
    if entry.true_average is None:
        known = entry.method == VANILLA or entry.after == "average"
        return budget, "" if known and entry.share is not None else "?"
    return budget, f"{'~' if entry.basis == 'inferred' else ''}{entry.true_average:g}"


def _paper(one: Facts) -> list[str]:
    return _hanging(f"{one.name}: {'; '.join(filter(None, (one.paper, one.code)))}")


def _hanging(text: str) -> list[str]:
    first, *rest = wrapped(text)
    return [first, *(f"  {line}" for line in wrapped(" ".join(rest), 78) if line)]
