"""The columns of the results table. Tables, CSV file and caption are made from them, so a new column is one entry:

Column("Peak MiB", "cost", show=..., fields={"peak_bytes": ...}, topic="Memory", note=lambda document: "...")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from evals.report.rows import Score, TableRow, TimeField, TimeStatistic, number, rows_of, sizes_are_of_profile
from evals.report.sections import speed_up
from evals.report.units import BYTES, COUNTS, MISSING, fixed, millis, ratio, share_text, unit_for
from evals.store.result_document import ProfileEntry, ResultDocument
from evals.tasks.registry import TASKS, get_task

SHARE_HEADER = "Share (tokens)"
# Follows a score with a warning; the caption has the reason.
WARNED = " (!)"

TablePart = Literal["name", "accuracy", "cost"]
CsvValue = str | float | None
Show = Callable[[TableRow], str]
Note = Callable[[ResultDocument], str]
Fields = Mapping[str, Callable[[TableRow], CsvValue]]


def no_note(document: ResultDocument) -> str:
    """For a column without a note: nothing to explain, or another column's note explains it."""
    return ""


@dataclass(frozen=True)
class Column:
    """One column of the tables and of the CSV file.

    part: the narrow table that shows it; narrow tables show accuracy and cost separately.
    show: its text for a row.
    fields: its CSV fields by name, in plain units (operations, bytes, milliseconds), None if not measured.
    topic, note: the caption's topic that explains the column, and the sentence added there.
    best: the number whose largest value in a section is marked, rounded as it is shown, so that equal texts tie.
    significant: whether the entry gets a mark.
    tabulated: False for columns that appear only in the CSV file.
    short, detail: its text on a narrow screen, and what that leaves out, in words.
    """

    header: str
    part: TablePart
    show: Show
    fields: Fields
    topic: str = ""
    note: Note = no_note
    best: Callable[[TableRow], float | None] | None = None
    significant: Callable[[TableRow], bool] | None = None
    tabulated: bool = True
    short: Show | None = None
    detail: str = ""

    def shortened(self) -> Column:
        return self if self.short is None else replace(self, show=self.short, short=None)


def columns_of(rows: Sequence[TableRow], tasks: Iterable[str]) -> list[Column]:
    """All columns, from left to right. Each column has one unit for all `rows`."""
    tasks = list(tasks)
    groups = list(dict.fromkeys(name for row in rows for name in row.groups))
    return [*naming_columns(), *score_columns(tasks, groups), *size_columns(rows), *time_columns(rows)]


def only_in_csv(part: TablePart, fields: Fields) -> Column:
    """Fields of the CSV file without a table column of their own."""
    return Column("", part, lambda row: "", fields, tabulated=False)


# ---- which row -----------------------------------------------------------------------------------------------------


def naming_columns() -> list[Column]:
    """Model, method, and the share and average of the visual tokens."""
    method: Fields = {
        "method": lambda row: row.method,
        "label": lambda row: row.label,
        "trained": lambda row: str(row.trained).lower(),
        "budget": lambda row: row.budget,
    }
    tokens: Fields = {
        "share": lambda row: rounded(row.share),
        "share_of_total": lambda row: rounded(row.share_of_total),
        "average_tokens": lambda row: rounded(row.average_tokens),
        "kept": lambda row: row.kept,
    }
    return [
        Column("Model", "name", lambda row: row.model, {"model": lambda row: row.model}),
        Column("Method", "name", lambda row: row.label, method),
        Column(
            SHARE_HEADER,
            "accuracy",
            lambda row: share_and_tokens(row.share, row.average_tokens),
            tokens,
            topic="Tokens",
            note=_tokens_note,
            short=lambda row: MISSING if row.share is None else share_text(row.share),
            detail="mean numbers of tokens",
        ),
    ]


def share_and_tokens(share: float | None, tokens: float) -> str:
    """For example: 11.1 % (64.0)"""
    return f"{MISSING if share is None else share_text(share)} ({tokens:.1f})"


def _tokens_note(document: ResultDocument) -> str:
    if not rows_of(document):
        return ""
    text = (
        "the share of the image's visual tokens that enter a layer, averaged over all layers and then over the "
        "samples, and in parentheses their mean number"
    )
    kept = "; a budget here is the number left after the last cut, as in other papers' tables"
    budget = kept if document["budget_reading"] == "kept" else "; a budget is this average"
    sizes = {str(cell["image_tokens"]) for cell in document["cells"] if "share_of_total" in cell}
    stated = f"a budget in tokens is for an image of {' or '.join(sorted(sizes))}"
    images = f"; images have different numbers of tokens, and {stated}" if sizes else ""
    adaptive = dict.fromkeys(cell["label"] for cell in document["cells"] if cell["adaptive"])
    by_sample = f"; counted in the run for methods that adapt to the sample: {', '.join(adaptive)}" if adaptive else ""
    return text + budget + images + by_sample


# ---- accuracy ------------------------------------------------------------------------------------------------------


def task_name(task: str) -> str:
    """A task's title in tables; an unknown task keeps its name."""
    return get_task(task).title if task in TASKS else task


def score_columns(tasks: Sequence[str], groups: Sequence[str] = ()) -> list[Column]:
    """Each task's score, the mean of each group, and the mean over all. Intervals and flips are in separate tables."""
    if not tasks:
        return []
    statistics: dict[str, Callable[[TableRow], CsvValue]] = {}
    for task in tasks:
        statistics |= {f"{task}_{name}": partial(_statistic, task, name) for name in STATISTICS}
    mean = Column(
        "% of vanilla",
        "accuracy",
        lambda row: fixed(row.percent_of_vanilla),
        {"percent_of_vanilla": lambda row: rounded(row.percent_of_vanilla)},
        topic="Scores",
        best=lambda row: _as_shown(row.percent_of_vanilla),
    )
    return [*map(_score_column, tasks), *map(_group_column, groups), only_in_csv("accuracy", statistics), mean]


def _score_column(task: str) -> Column:
    def value(row: TableRow) -> CsvValue:
        score = row.scores[task]
        return score if isinstance(score, str) else rounded(score)

    return Column(
        task_name(task),
        "accuracy",
        lambda row: row_score(row, task),
        {task: value},
        topic="Scores",
        best=lambda row: _rank(row, task),
        significant=lambda row: row.significant(task),
        short=lambda row: row_score(row, task, ranges=False),
        detail="ranges of the seeds",
    )


def _rank(row: TableRow, task: str) -> float | None:
    """A row's score as it is shown; its negative where smaller scores are better."""
    score = _as_shown(number(row.scores.get(task)), own_scale=task in row.own_scale)
    return -score if score is not None and task in row.lower_is_better else score


def _as_shown(score: float | None, *, own_scale: bool = False) -> float | None:
    return None if score is None else float(score_text(score, own_scale=own_scale))


def _group_column(group: str) -> Column:
    return Column(
        f"{group} (mean)",
        "accuracy",
        lambda row: score_text(row.groups.get(group), own_scale=bool(row.own_scale)),
        {f"{group}_mean": lambda row: rounded(row.groups.get(group))},
        topic="Scores",
    )


def score_text(score: Score, *, own_scale: bool = False) -> str:
    """A task's score with one decimal, "failed", or "-" if it was not run. Scores of 0 to 1 have three decimals."""
    if isinstance(score, str):
        return score
    return fixed(score, 3 if own_scale and score is not None and abs(score) <= 1 else 1)


def row_score(row: TableRow, task: str, *, ranges: bool = True) -> str:
    """A row's score in a task; for several seeds the mean, with `ranges` ± half of their range."""
    score, spread = score_text(row.scores.get(task), own_scale=task in row.own_scale), row.spread.get(task)
    spread = spread if ranges else None
    digits = len(score.partition(".")[2])
    warned = WARNED if row.warnings.get(task) else ""
    return score + ("" if spread is None else f" ± {fixed(spread, digits)}") + warned


STATISTICS = (
    "low", "high", "difference", "difference_low", "difference_high", "p_holm", "gained", "lost", "loyalty",
)  # fmt: skip


def _statistic(task: str, name: str, row: TableRow) -> CsvValue:
    """A number of the row's `stats` in a task: from its interval, or from the comparison with vanilla."""
    stats, against = row.stats.get(task), row.against(task)
    if name in ("low", "high"):
        return None if stats is None else rounded(stats["interval"][name == "high"])
    if against is None:
        return None
    if name in ("difference_low", "difference_high"):
        return rounded(against["interval"][name == "difference_high"])
    if name in ("gained", "lost"):
        flips = row.flips(task)
        return None if flips is None else flips[name == "lost"]
    numbers: dict[str, CsvValue] = {
        "difference": rounded(against["difference"]),
        "p_holm": rounded(against["p_holm"]),
        "loyalty": rounded(against["loyalty"]),
    }
    return numbers[name]


# ---- cost ----------------------------------------------------------------------------------------------------------


def size_columns(rows: Sequence[TableRow]) -> list[Column]:
    """Operations and bytes of a prefill, computed from the plan or from the counted tokens."""
    flops = unit_for((row.flops for row in rows), COUNTS)
    macs = unit_for((row.paper_macs for row in rows), COUNTS)
    cache = unit_for((row.kv_bytes for row in rows), BYTES)
    return [
        Column(
            f"{flops.prefix}FLOP",
            "cost",
            lambda row: flops.show(row.flops),
            {"flops": lambda row: whole(row.flops)},
            topic="Operations",
            note=_operations_note,
        ),
        Column(
            f"Paper {macs.prefix}MAC",
            "cost",
            lambda row: macs.show(row.paper_macs),
            {"paper_macs": lambda row: whole(row.paper_macs)},
            topic="Operations",
            note=_macs_note,
        ),
        Column(
            f"KV {cache.prefix}B",
            "cost",
            lambda row: cache.show(row.kv_bytes),
            {"kv_bytes": lambda row: whole(row.kv_bytes)},
            topic="Operations",
        ),
    ]


def _operations_note(document: ResultDocument) -> str:
    if all(row.flops is None for row in rows_of(document)):
        return ""
    texts = sorted({profile["text_tokens"] for profile in document["profiles"]})
    prompt = f"with {' or '.join(map(str, texts))} text tokens"
    length = prompt if texts and sizes_are_of_profile(document) else "mean over the tasks' prompts"
    return (
        f"FLOP and KV: one prefill of one sequence in the decoder, {length}. A multiply-accumulate counts as two "
        "operations, attention is causal, vision tower and LM head are not counted"
    )


def _macs_note(document: ResultDocument) -> str:
    if all(row.paper_macs is None for row in rows_of(document)):
        return ""
    return (
        "Paper MAC: multiply-accumulates of the visual tokens alone, 4nd^2 + 2n^2d + 3ndm per layer. PDrop and HiDrop "
        "print this number as FLOPs"
    )


def time_columns(rows: Sequence[TableRow]) -> list[Column]:
    """Measured times; in tables only if a row was timed or its timing failed."""
    timed = any(row.profile or row.timing_failed for row in rows)
    ups = {(row.model, row.label): speed_up(rows, row, "prefill") for row in rows}

    def up(row: TableRow, field: Literal["ratio", "low", "high"]) -> float | None:
        found = ups[row.model, row.label]
        return None if found is None else rounded(found[field])

    def faster(row: TableRow) -> str:
        found = ups[row.model, row.label]
        return MISSING if found is None else ratio(found)

    def column(header: str, time: TimeField, show: Show, note: Note, short: Show | None = None) -> Column:
        statistics: tuple[TimeStatistic, ...] = ("median", "p95", "min")
        fields: Fields = {f"{time}_{statistic}": partial(_millis, time, statistic) for statistic in statistics}
        found = Column(header, "cost", partial(_unless_failed, show), fields, topic="Time", note=note, tabulated=timed)
        if short is None:
            return found
        return replace(found, short=partial(_unless_failed, short), detail=f"95th percentiles of {header}")

    return [
        only_in_csv("cost", {"batch": partial(_profiled, "batch"), "text_tokens": partial(_profiled, "text_tokens")}),
        column("Prefill ms", "prefill_ms", _prefill, _times_note, lambda row: millis(row.millis("prefill_ms"))),
        Column(
            "Prefill speed-up",
            "cost",
            faster,
            {
                "prefill_speed_up": lambda row: up(row, "ratio"),
                "prefill_speed_up_low": lambda row: up(row, "low"),
                "prefill_speed_up_high": lambda row: up(row, "high"),
            },
            topic="Time",
            tabulated=any(one is not None and one["ratio"] != 1 for one in ups.values()),
        ),
        column("Decode ms", "decode_ms", lambda row: millis(row.millis("decode_ms")), no_note),
        column("TTFT ms", "ttft_ms", lambda row: millis(row.millis("ttft_ms")), no_note),
        Column(
            "Request ms",
            "cost",
            partial(_unless_failed, lambda row: millis(row.milliseconds_of("request"))),
            {
                "request_ms": lambda row: rounded(row.milliseconds_of("request")),
                "new_tokens": partial(_profiled, "new_tokens"),
            },
            topic="Time",
            tabulated=timed,
        ),
        only_in_csv("cost", {"peak_bytes": partial(_profiled, "peak_bytes")}),
    ]


def _profiled(name: Literal["batch", "text_tokens", "new_tokens", "peak_bytes"], row: TableRow) -> CsvValue:
    return None if row.profile is None else row.profile[name]


def _millis(time: TimeField, statistic: TimeStatistic, row: TableRow) -> CsvValue:
    return rounded(row.millis(time, statistic))


def _prefill(row: TableRow) -> str:
    return with_p95(row.millis("prefill_ms"), row.millis("prefill_ms", "p95"))


def _unless_failed(show: Show, row: TableRow) -> str:
    return "failed" if row.timing_failed and not row.profile else show(row)


def with_p95(median: float | None, p95: float | None) -> str:
    """A timing as "median (p95)"."""
    return MISSING if median is None else f"{millis(median)} ({millis(p95)})"


def _times_note(document: ResultDocument) -> str:
    profiles = document["profiles"]
    if not profiles:
        return ""
    repeats = " or ".join(map(str, sorted({profile["repeats"] for profile in profiles})))
    text = (
        f"batch {min(p['batch'] for p in profiles)}, median (95th percentile) of {repeats} runs, methods interleaved. "
        "Prefill: decoder and LM head, including token selection. "
        "TTFT (time to first token): prefill plus vision tower and projector. Decode: each further token. "
        f"Request: TTFT and the further ones of {_lengths(profiles)} output tokens. Speed-up: vanilla's time over the "
        "method's, on the same model (noise: its 95 % interval over the rounds has 1 inside)"
    )
    if len({profile["model"] for profile in profiles}) > 1:
        text += ". Milliseconds of two models are of different minutes: compare their speed-ups"
    if any(profile["prefill_source"] == "difference" for profile in profiles):
        text += ". Prefill is the whole forward minus the separately measured time of tower and projector"
    return text


def _lengths(profiles: Sequence[ProfileEntry]) -> str:
    return " or ".join(map(str, sorted({profile["new_tokens"] for profile in profiles})))


def rounded(value: float | None) -> float | None:
    """A number as the CSV file shows it."""
    return None if value is None else round(float(value), 4)


def whole(value: float | None) -> int | None:
    """A count as the CSV file shows it."""
    return None if value is None else round(value)
