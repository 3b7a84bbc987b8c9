"""Figures of a results document, as SVG and PDF, and panel by panel for the page:

    accuracy     % of vanilla against tokens, operations and the measured times, with the Pareto front
    tokens       visual tokens entering each layer, one panel per budget
    speed        measured prefill speed-up against the ratio of operations
    retention    % of vanilla for each task

Only the document is read. The same document gives the same bytes. A method has the look of its name
(`evals.report.method_looks`), and what is far outside is drawn at the edge (`evals.report.figure_scale`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING

from evals.profiling.ratios import RatioEntry
from evals.report import figure_scale
from evals.report.columns import task_name
from evals.report.figure_scale import Scale, lines_of, scale_of, spot, write_value
from evals.report.figure_style import COLOURS, MARKERS, hover, in_turn, inside, legend, panels_of, pareto, saved
from evals.report.method_looks import Look, looks_of, own_look, shown_name
from evals.report.rows import TableRow, TimedPart, number, rows_of, tasks_in_percent
from evals.report.sections import VANILLA, Board, Section, boards
from evals.report.spreads import half_width
from evals.report.units import COUNTS, fixed, millis, ratio, unit_for
from evals.store.result_document import ResultDocument
from hidrop.visible import visible_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 4
COLUMNS = 3  # panels of a line
PANEL = 3.4, 2.7  # inches of a panel on the page: as wide as a phone

ASIDE = "dotted lines: the counts of the marks beside them"
FILLED = "filled: trained with its schedule"
VALUE, MOST_VALUES = 0.075, 4  # width of a number in a strip as a share of the axis; numbers before they become a range

Point = tuple[float, float]
Marked = list[tuple[TableRow, Point]]


@dataclass(frozen=True)
class Drawing:
    """A figure before it is drawn: its panels from left to right, and the entries of its legend.

    share_y: all panels have the same vertical axis. lines: methods are drawn as lines. height: inches of a panel.
    """

    panels: Sequence[Callable[[Axes], None]]
    y_label: str
    legend: dict[str, Look]
    note: str = ""
    share_y: bool = False
    lines: bool = False
    height: float = PANEL[1]

    def figure(self) -> Figure:
        """All panels with one legend."""
        figure, panels = panels_of(len(self.panels), share_y=self.share_y, height=self.height, columns=COLUMNS)
        for place, (axes, draw) in enumerate(zip(panels, self.panels, strict=True)):
            draw(axes)
            if place % COLUMNS == 0 or not self.share_y:
                axes.set_ylabel(self.y_label)
        legend(figure, looks=self.legend, lines=self.lines, note=self.note)
        return figure

    def panel(self, place: int) -> Figure:
        """One panel without a legend."""
        figure, (axes,) = panels_of(1, width=PANEL[0], height=self.height)
        self.panels[place](axes)
        axes.set_ylabel(self.y_label)
        return figure


def write(document: ResultDocument, folder: Path) -> list[Path]:
    """Write every figure that the document has numbers for into `folder`; return the paths.

    Each architecture has its own figures. If there are several, the file names are numbered.
    """
    return saved(drawn(document), folder)


def drawn(document: ResultDocument) -> Iterator[tuple[str, Figure]]:
    """(name, figure) pairs, one at a time: each figure is cleared before the next is drawn."""
    return in_turn((name, drawing.figure) for name, drawing in drawings(document))


def drawings(document: ResultDocument) -> list[tuple[str, Drawing]]:
    """(name, drawing) for every figure that the document has numbers for."""
    document = visible_values(document)
    found = boards(document)
    made = (
        (f"{name}-{place}" if len(found) > 1 else name, draw(board, document))
        for place, board in enumerate(found, start=1)
        for name, draw in DRAWN.items()
    )
    return [(name, drawing) for name, drawing in made if drawing]


def accuracy(board: Board, document: ResultDocument) -> Drawing | None:
    """One panel for each cost that is known of some rows."""
    rows = [row for row in board.rows if row.percent_of_vanilla is not None]
    costs = [cost for cost in _costs(board) if any(cost.of(row) is not None for row in rows)]
    if len(rows) < 2 or not costs:
        return None
    tasks, y = tasks_in_percent(document), scale_of(row.percent_of_vanilla or 0 for row in rows)
    known = [[row for row in rows if cost.of(row) is not None] for cost in costs]
    points = [
        [(cost.of(row) or 0, row.percent_of_vanilla or 0) for row in own]
        for cost, own in zip(costs, known, strict=True)
    ]
    scales = [scale_of(x for x, _ in own) for own in points]
    lines = [lines_of(own, x, y) for own, x in zip(points, scales, strict=True)]
    needed = [figure_scale.lines_needed(own, y) for own in lines]
    y = figure_scale.with_lines(y, *(max(ends) for ends in zip(*needed, strict=True)))
    looks = _looks(document)
    panels = [
        partial(_accuracy_panel, cost, list(zip(own, where, strict=True)), tasks, looks, (x, y), line)
        for cost, own, where, x, line in zip(costs, known, points, scales, lines, strict=True)
    ]
    strips = any(x.before or x.after for x in scales) or y.before or y.after
    note = f"{FILLED}; gray line: Pareto front"
    note += "; in gray strips: off the scale, with the value" if strips else ""
    note += f"; {ASIDE}"
    return Drawing(panels, "% of vanilla, mean over the tasks", _legend(rows, looks), note, share_y=True)


@dataclass(frozen=True)
class Cost:
    """What a method saves. `show`: a value in words.

    `counted`: not measured. Equal budgets have equal counts, so the marks would hide each other.
    """

    label: str
    of: Callable[[TableRow], float | None]
    show: Callable[[float], str]
    counted: bool = False


def _costs(board: Board) -> list[Cost]:
    """What is counted, and the times: in milliseconds, and for several models as a share of vanilla's in their rounds.

    Milliseconds of two models are of different minutes.
    """
    rows = board.rows
    flops = unit_for((row.flops for row in rows), COUNTS)
    lengths = {row.profile["new_tokens"] for row in rows if row.profile}
    length = f"of {' or '.join(map(str, sorted(lengths)))} output tokens"

    timed = [row for row in rows if row.profile]
    relative = len({row.model for row in timed}) > 1 and all(board.speed_up(row, "prefill") for row in timed)

    def share(part: TimedPart, row: TableRow) -> float | None:
        faster = board.speed_up(row, part)
        return None if faster is None else 100 / faster["ratio"]

    def time(name: str, part: TimedPart) -> Cost:
        if relative:
            return Cost(f"{name}, % of vanilla's", partial(share, part), lambda x: f"{fixed(x)} % of vanilla's time")
        return Cost(f"{name}, ms (median)", lambda row: row.milliseconds_of(part), lambda x: f"{millis(x)} ms")

    return [
        Cost("visual tokens per layer, on average", lambda row: row.average_tokens, lambda x: f"{x:.1f} tokens", True),
        Cost(
            f"{flops.prefix}FLOP of a prefill",
            lambda row: None if row.flops is None else row.flops / flops.size,
            lambda x: f"{x:.{flops.digits}f} {flops.prefix}FLOP",
            counted=True,
        ),
        *starmap(time, (("prefill", "prefill"), ("time to first token", "ttft"), (f"request {length}", "request"))),
    ]


def _accuracy_panel(
    cost: Cost,
    points: Marked,
    tasks: Sequence[str],
    looks: dict[str, Look],
    scales: tuple[Scale, Scale],
    lines: dict[Point, int],
    axes: Axes,
) -> None:
    x, y = scales
    front = pareto(point for _, point in points)
    inside = [point for point in front if point[0] <= x.high and point[1] >= y.low]
    axes.plot(*zip(*inside, strict=True), color="0.6", linewidth=1, drawstyle="steps-post", zorder=0.5)
    figure_scale.apply(axes, x=x, y=y)
    places = [spot(point, x, y, lines.get(point, 0)) for _, point in points]
    if cost.counted:
        places = _aside(axes, places, x, y)
    for (row, point), at in zip(points, places, strict=True):
        look = own_look(row, looks)
        half = half_width(row, tasks)
        far_x, far_y = x.outside(point[0]), y.outside(point[1])
        if half is not None and not far_y:
            error = [[min(half, at[1] - y.low)], [min(half, y.high - at[1])]]
            axes.errorbar(*at, yerr=error, color=look.colour, linewidth=0.8, fmt="none")
        interval = "" if half is None else f" ± {half:.1f}"
        words = f"{_name(row)}\n{fixed(point[1])}{interval} % of vanilla\n{cost.show(point[0])}"
        _mark(axes, at, look, words)
        if far_x or far_y:
            values = [f"{point[0]:.4g}"] * far_x + [fixed(point[1])] * far_y
            write_value(axes, "; ".join(values), at, beside=far_y)
    axes.set_xlabel(cost.label)


def _aside(axes: Axes, places: Sequence[Point], x: Scale, y: Scale) -> list[Point]:
    """Places side by side, with a line at the value that most of those had that are not at it any more."""
    found = figure_scale.side_by_side(places, x, y)
    moved = Counter(place[0] for place, now in zip(places, found, strict=True) if place != now)
    near, drawn = figure_scale.MARK[0] * (x.limits[1] - x.limits[0]), list[float]()
    for value, _ in sorted(moved.items(), key=lambda one: (-one[1], one[0])):
        if all(abs(value - other) > near for other in drawn):
            axes.axvline(value, color="#b0b0b0", linewidth=0.8, linestyle=":", zorder=0.4)  # the grid's colour
            drawn.append(value)
    return found


def _mark(axes: Axes, at: Point, look: Look, words: str) -> None:
    """A method's marker, with words for a pointer over it. The area around it counts as well: a cross is thin."""
    axes.plot(*at, look.marker, color=look.colour, markerfacecolor=inside(look), markersize=5, zorder=3)
    axes.plot(*at, "o", color="white", alpha=0, markersize=8, zorder=4, gid=hover(words))


def tokens(board: Board, document: ResultDocument) -> Drawing | None:
    sections = [s for s in board.sections if any(r.entering for r in s.rows) and s.rows[0].method != VANILLA]
    # Draw the sections with the most rows, in the order of the table.
    chosen = sorted(sections, key=lambda section: -len(section.rows))[:MAX_PANELS]
    sections = [section for section in sections if section in chosen]
    if not sections:
        return None
    looks = _looks(document)
    most = max(1, *(count for section in sections for row in section.rows for count in row.entering))
    return Drawing(
        [partial(_tokens_panel, section, looks, most) for section in sections],
        "visual tokens entering",
        _legend([row for section in sections for row in section.rows], looks),
        FILLED,
        share_y=True,
        lines=True,
    )


def _tokens_panel(section: Section, looks: dict[str, Look], most: int, axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    names: dict[tuple[int, ...], list[str]] = {}
    for row in section.rows:
        names.setdefault(row.entering, []).append(_name(row))
    for row in section.rows:
        if not row.entering:
            continue
        # Of equal lines a pointer finds the last alone, so each names all.
        words = [
            *names[row.entering],
            f"{row.average_tokens:.1f} tokens on average",
            f"layers {_runs(row.entering)}",
        ]
        look, counts = own_look(row, looks), [*row.entering, row.entering[-1]]
        changes = [n for n in range(len(row.entering)) if n == 0 or counts[n] != counts[n - 1]]
        axes.step(
            range(1, len(counts) + 1),
            counts,
            where="post",
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            markerfacecolor=inside(look),
            markevery=changes,
            markersize=4,
            linewidth=1.2,
            gid=hover("\n".join(words)),
        )
    axes.set_title(section.title.replace(", ", ",\n"), fontsize=8)  # two lines, so that panels do not overlap
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_ylim(-0.04 * most, 1.05 * most)
    axes.set_xlabel("layer")


def _runs(entering: Sequence[int]) -> str:
    """ "1-2: 100, 3-12: 18": layers with the tokens that enter them."""
    starts = [n for n in range(len(entering)) if n == 0 or entering[n] != entering[n - 1]]
    ends = [*starts[1:], len(entering)]
    return ", ".join(
        f"{start + 1}{f'-{end}' if end > start + 1 else ''}: {entering[start]}"
        for start, end in zip(starts, ends, strict=True)
    )


def speed(board: Board, document: ResultDocument) -> Drawing | None:
    whole = next((row.flops for row in board.rows if row.method == VANILLA and row.flops), None)
    points, ratios = Marked(), list[RatioEntry]()
    for row in board.rows:
        faster = board.speed_up(row, "prefill")
        if whole and row.flops and faster:
            points.append((row, (whole / row.flops, faster["ratio"])))
            ratios.append(faster)
    if len(points) < 2:
        return None
    looks = _looks(document)
    panel = partial(_speed_panel, points, ratios, looks)
    return Drawing(
        [panel],
        "measured prefill speed-up",
        _legend([row for row, _ in points], looks),
        f"{FILLED}; gray line: ratio of operations; {ASIDE}",
    )


def _speed_panel(points: Marked, ratios: Sequence[RatioEntry], looks: dict[str, Look], axes: Axes) -> None:
    # Nothing is cut off: the distance to the line is what the figure shows.
    x, y = (figure_scale.whole_scale(point[side] for _, point in points) for side in (0, 1))
    first, last = max(x.low, y.low), min(x.high, y.high)
    if first < last:
        axes.plot([first, last], [first, last], color="0.6", linewidth=1, zorder=0.5)
    figure_scale.apply(axes, x=x, y=y)
    places = _aside(axes, [point for _, point in points], x, y)
    for (row, point), at, faster in zip(points, places, ratios, strict=True):
        look, low, high = own_look(row, looks), faster["low"], faster["high"]
        if low is not None and high is not None:
            # The interval need not include the ratio.
            error = [[max(0, point[1] - low)], [max(0, high - point[1])]]
            axes.errorbar(*at, yerr=error, color=look.colour, linewidth=0.8, fmt="none")
        words = f"{_name(row)}\n{point[0]:.2f}x fewer operations\n{ratio(faster, interval=True)} as fast in the prefill"
        _mark(axes, at, look, words)
    axes.set_xlabel("vanilla's operations / the method's")


def retention(board: Board, document: ResultDocument) -> Drawing | None:
    """A line for each row, a mark for each task. Marks are of tasks here, so they have no method's look."""
    tasks = tasks_in_percent(document)
    vanilla = next((row for row in board.rows if row.method == VANILLA), None)
    rows = [row for row in board.rows if row.method != VANILLA]
    base = {task: number(vanilla.scores.get(task)) for task in tasks} if vanilla else {}
    found = [
        (
            row,
            {
                task: 100 * score / whole
                for task in tasks
                if (score := number(row.scores.get(task))) is not None and (whole := base.get(task))
            },
        )
        for row in rows
    ]
    if not any(values for _, values in found):
        return None
    looks = {task: Look(_at(COLOURS, n), _at(MARKERS, n)) for n, task in enumerate(tasks)}
    shown = {task_name(task): looks[task] for task in tasks if any(task in values for _, values in found)}
    x = scale_of([100.0, *(value for _, values in found for value in values.values())])
    most = max(sum(map(x.outside, values.values())) for _, values in found)
    wide = VALUE * min(most, MOST_VALUES) * (x.high - x.low)
    x = replace(x, before=x.before and wide, after=x.after and wide)
    note = "gray line: vanilla"
    note += "; numbers in a gray strip: off the scale, in the order of the tasks (·: on the scale)" if most else ""
    panel = partial(_retention_panel, found, looks, x)
    return Drawing([panel], "", shown, note, height=0.9 + 0.17 * len(rows))


def _retention_panel(
    found: list[tuple[TableRow, dict[str, float]]], looks: dict[str, Look], x: Scale, axes: Axes
) -> None:
    labels = [row.label for row, _ in found]
    names = [_name(row) if row.trained or labels.count(row.label) > 1 else row.label for row, _ in found]
    places = range(len(found), 0, -1)
    axes.axvline(100, color="0.6", linewidth=1, zorder=0.5)
    axes.set_ylim(0.2, len(found) + 0.8)
    figure_scale.apply(axes, x=x)
    for place, (row, values) in zip(places, found, strict=True):
        for task, value in values.items():
            look = looks[task]
            at = (x.place(value), place)
            if not x.outside(value):
                axes.plot(*at, look.marker, color=look.colour, markersize=4)
                axes.plot(*at, "o", alpha=0, markersize=7, gid=hover(_kept(row, task, value)), zorder=4)
        # Several marks would hide each other in the strip: the values alone, in the order of the tasks.
        edge = 0.01 * (x.limits[1] - x.limits[0])
        for far, start, side in (("before", x.limits[0] + edge, "left"), ("after", x.limits[1] - edge, "right")):
            own = {t: v for t, v in values.items() if (v < x.low if far == "before" else v > x.high)}
            if own:
                each = " ".join(f"{own[task]:.0f}" if task in own else "·" for task in values)
                brief = each if len(values) <= MOST_VALUES else f"{min(own.values()):.0f} to {max(own.values()):.0f}"
                text = axes.text(start, place, brief, ha=side, va="center")
                text.set(fontsize=figure_scale.SMALL, gid=hover("\n".join(_kept(row, t, v) for t, v in own.items())))
    axes.set_yticks(list(places), names)
    axes.set_xlabel("% of vanilla")


def _kept(row: TableRow, task: str, value: float) -> str:
    return f"{_name(row)}, {task_name(task)}: {fixed(value)} % of vanilla"


def _name(row: TableRow) -> str:
    return f"{row.model}, {row.label}"


def _at(values: Sequence[str], place: int) -> str:
    return values[place % len(values)]


DRAWN: dict[str, Callable[[Board, ResultDocument], Drawing | None]] = {
    "accuracy": accuracy,
    "tokens": tokens,
    "speed": speed,
    "retention": retention,
}


def _looks(document: ResultDocument) -> dict[str, Look]:
    """The looks of all methods of the document: the same in each of its figures."""
    return looks_of(shown_name(row) for row in rows_of(document))


def _legend(rows: Sequence[TableRow], looks: dict[str, Look]) -> dict[str, Look]:
    """The looks of the methods of these rows, vanilla first. A trained row has an entry of its own, as its mark is."""
    found = {f"{shown_name(row)}{', trained' if row.trained else ''}": own_look(row, looks) for row in rows}
    return {name: found[name] for name in sorted(found, key=lambda name: name != VANILLA)}
