"""Figures of a results document, as SVG and PDF:

    accuracy     % of vanilla against average tokens, operations and measured prefill, with the Pareto front
    tokens       visual tokens entering each layer, one panel per budget
    speed        measured prefill speed-up against the ratio of operations
    retention    % of vanilla for each task

Only the document is read. The same document gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.report.columns import task_name
from evals.report.figure_style import COLOURS, MARKERS, in_turn, legend, panels_of, pareto, saved
from evals.report.rows import TableRow, number, tasks_of, without_percent
from evals.report.sections import VANILLA, Board, boards
from evals.store.result_document import ResultDocument
from hidrop.visible import visible_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PANELS = 4


def write(document: ResultDocument, folder: Path) -> list[Path]:
    """Write every figure that the document has numbers for into `folder`; return the paths.

    Each architecture has its own figures. If there are several, the file names are numbered.
    """
    return saved(drawn(document), folder)


def drawn(document: ResultDocument) -> Iterator[tuple[str, Figure]]:
    """(name, figure) pairs, one at a time: each figure is cleared before the next is drawn."""
    document = visible_values(document)
    found = boards(document)
    return in_turn(
        (f"{name}-{place}" if len(found) > 1 else name, partial(draw, board, document))
        for place, board in enumerate(found, start=1)
        for name, draw in DRAWN.items()
    )


def accuracy(board: Board, document: ResultDocument) -> Figure | None:
    tasks, looks = _in_percent(document), _looks(board)
    axes_of: list[tuple[str, Callable[[TableRow], float | None]]] = [
        ("visual tokens per layer, on average", lambda row: row.average_tokens),
        ("operations per prefill", lambda row: row.flops),
        ("prefill, ms (median)", lambda row: row.millis("prefill_ms")),
    ]
    rows = [row for row in board.rows if row.percent_of_vanilla is not None]
    axes_of = [(label, x) for label, x in axes_of if any(x(row) is not None for row in rows)]
    if len(rows) < 2 or not axes_of:
        return None
    figure, panels = panels_of(len(axes_of), share_y=True)
    for axes, (label, x) in zip(panels, axes_of, strict=True):
        known = [row for row in rows if x(row) is not None]
        for row in known:
            colour, marker, _ = looks[row.method]
            half = half_width(row, tasks)
            filled = row.trained or row.method == VANILLA
            point: dict[str, Any] = {"fmt": marker, "color": colour, "markerfacecolor": colour if filled else "white"}
            height = number(row.percent_of_vanilla) or 0
            axes.errorbar(
                number(x(row)) or 0, height, yerr=half, markersize=5, linewidth=0.8, label=row.method, **point
            )
        front = pareto([(float(x(row) or 0), float(row.percent_of_vanilla or 0)) for row in known])
        axes.plot(*zip(*front, strict=True), color="0.6", linewidth=1, drawstyle="steps-post", zorder=0)
        axes.set_xlabel(label)
    panels[0].set_ylabel("% of vanilla, mean over the tasks")
    legend(figure, panels[-1], note="filled: trained with its schedule; gray: Pareto front")
    return figure


def tokens(board: Board, document: ResultDocument) -> Figure | None:
    sections = [s for s in board.sections if any(r.entering for r in s.rows) and s.rows[0].method != VANILLA]
    # Draw the sections with the most rows, in the order of the table.
    chosen = sorted(sections, key=lambda section: -len(section.rows))[:MAX_PANELS]
    sections, looks = [section for section in sections if section in chosen], _looks(board)
    if not sections:
        return None
    figure, panels = panels_of(len(sections), share_y=True)
    for axes, section in zip(panels, sections, strict=True):
        for row in section.rows:
            if row.entering:
                layers = range(1, len(row.entering) + 2)
                colour, _, line = looks[row.method]
                counts = [*row.entering, row.entering[-1]]
                axes.step(layers, counts, where="post", color=colour, linestyle=line, label=row.method)
        axes.set_title(section.title.replace(", ", ",\n"), fontsize=8)  # two lines, so that panels do not overlap
        axes.set_xlabel("layer")
    panels[0].set_ylabel("visual tokens entering")
    legend(figure, *panels)
    return figure


def speed(board: Board, document: ResultDocument) -> Figure | None:
    whole = {row.model: row for row in board.rows if row.method == VANILLA and row.millis("prefill_ms") and row.flops}
    first = next(iter(whole.values()), None)
    looks, points = _looks(board), []
    for row in board.rows:
        base = whole.get(row.model, first)
        time = row.millis("prefill_ms")
        if base and time and row.flops and base.flops:
            points.append((row, base.flops / row.flops, (base.millis("prefill_ms") or 0) / time))
    if len(points) < 2:
        return None
    figure, (axes,) = panels_of(1)
    most = max(max(ideal, achieved) for _, ideal, achieved in points) * 1.05
    axes.plot([0, most], [0, most], color="0.6", linewidth=1, label="ratio of operations")
    for row, ideal, achieved in points:
        colour, marker, _ = looks[row.method]
        axes.plot(ideal, achieved, marker, color=colour, markersize=5, label=row.method)
    axes.set(
        xlim=(0, most), ylim=(0, most), xlabel="vanilla's operations / the method's", ylabel="measured prefill speed-up"
    )
    legend(figure, axes)
    return figure


def retention(board: Board, document: ResultDocument) -> Figure | None:
    tasks = _in_percent(document)
    vanilla = next((row for row in board.rows if row.method == VANILLA), None)
    rows = [row for row in board.rows if row.method != VANILLA]
    base = {task: number(vanilla.scores.get(task)) for task in tasks} if vanilla else {}
    if not rows or not any(base.values()):
        return None
    figure, (axes,) = panels_of(1, height=0.9 + 0.17 * len(rows))
    for place, task in enumerate(tasks):
        points = [
            (100 * score / whole, len(rows) - line)
            for line, row in enumerate(rows)
            if (score := number(row.scores.get(task))) is not None and (whole := base.get(task))
        ]
        if points:
            look = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
            axes.plot(*zip(*points, strict=True), look[0], color=look[1], markersize=4, label=task_name(task))
    axes.axvline(100, color="0.6", linewidth=1)
    axes.set_yticks([len(rows) - line for line in range(len(rows))], [f"{row.model}, {row.label}" for row in rows])
    axes.set_xlabel("% of vanilla")
    legend(figure, axes)
    return figure


DRAWN: dict[str, Callable[[Board, ResultDocument], Figure | None]] = {
    "accuracy": accuracy,
    "tokens": tokens,
    "speed": speed,
    "retention": retention,
}


def half_width(row: TableRow, tasks: Sequence[str]) -> float | None:
    """Half of the 95 % interval of the mean % of vanilla, if the tasks' differences are independent.

    None if a task has no comparison with vanilla.
    """
    squares = []
    for task in tasks:
        against, score = row.against(task), number(row.scores.get(task))
        if not against or score is None or score == against["difference"]:
            return None
        low, high = against["interval"]
        squares.append((100 * (high - low) / 2 / (score - against["difference"])) ** 2)
    return sum(squares) ** 0.5 / len(squares) if squares else None


def _in_percent(document: ResultDocument) -> list[str]:
    """The tasks that count for % of vanilla."""
    without = without_percent(document)
    return [task for task in tasks_of(document) if task not in without]


def _looks(board: Board) -> dict[str, tuple[str, str, str]]:
    """Color, marker and line style of each method; vanilla is black."""
    methods = [method for method in dict.fromkeys(row.method for row in board.rows) if method != VANILLA]
    colours = COLOURS[:-1]
    looks = {
        method: (colours[i % len(colours)], MARKERS[i % len(MARKERS)], "--" if i // len(colours) % 2 else "-")
        for i, method in enumerate(methods)
    }
    return {VANILLA: (COLOURS[-1], "*", "-"), **looks}
