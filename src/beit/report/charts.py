"""Charts of what a run has logged: their data, drawn as SVG for a page (as files by `plots`)."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import starmap
from typing import Literal, NamedTuple

from markupsafe import Markup

from beit.report.history import History, Kind, Point
from beit.report.markup import number, percent, render

Role = Literal["curve", "reference", "marks"]

WIDTH, HEIGHT = 360.0, 212.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 10.0, 34.0
MOST_POINTS = 300
TICKS = 5
MOST_MARKS = 60
MOST_ROWS = 12
"""Rows of the table below a chart."""
SMOOTH_FROM = 40


class Line(NamedTuple):
    """A curve, a reference to compare it with (dashed), or separate measurements (dots)."""

    label: str
    points: tuple[Point, ...] = ()
    role: Role = "curve"
    metric: tuple[Kind, str] = ("train", "")
    """The rows and the name with which its points are logged."""
    trivial: float | None = None
    """A line with no other value than this says nothing, and is not drawn."""


class Chart(NamedTuple):
    """Lines under a title, with an explanation of how healthy ones look."""

    title: str
    explanation: str
    lines: tuple[Line, ...]
    as_fraction: bool = False
    """Whether values are written in per cent."""
    from_zero: bool = False
    noisy: bool = True
    """Whether a curve of many points is drawn pale, with a smoothed one over it."""
    along: str = "step"


def read_charts(task: str) -> tuple[Chart, ...]:
    """The charts of a task as charts.toml describes them, without points."""
    text = resources.files("beit.report").joinpath("charts.toml").read_text("utf-8")
    return tuple(
        Chart(**chart | {"lines": tuple(starmap(_line, chart["lines"]))})
        for chart in tomllib.loads(text)[task]
    )


def _line(
    kind: Kind, metric: str, label: str, role: Role | None = None, trivial: float | None = None
) -> Line:
    usual: Role = "curve" if kind == "train" else "marks"
    return Line(label, (), role or usual, (kind, metric), trivial)


NOT_DRAWN = {
    "seconds_left", "memory_gib", "unreadable", "several", "collapsed", "nearly_collapsed",
    "neighbours_block", "scored_classes", "retrieval_block", "perplexity_limit", "chance_loss",
    "codes_revived", "token_agreement",
}  # fmt: skip
"""Metrics without a chart of their own: counts, limits, and those that are in other charts."""


def charts(specs: Sequence[Chart], history: History) -> list[Chart]:
    """The charts with their points, even those that have none yet; then one for each logged metric
    that is in no chart, so that the metrics of a new objective are seen at once."""
    specs = [*specs, *read_charts("always")]
    foreseen = {line.metric for spec in specs for line in spec.lines}
    kinds: tuple[tuple[Kind, Role], ...] = (("train", "curve"), ("evaluate", "marks"))
    for kind, role in kinds:
        for name in history.names(kind):
            if (kind, name) not in foreseen and name not in NOT_DRAWN:
                line = Line(name, role=role, metric=(kind, name))
                specs.append(Chart(name.replace("_", " "), f"From the {kind} rows.", (line,)))
    return [
        spec._replace(lines=tuple(
            line._replace(points=points)
            for line in spec.lines
            for points in [history.points(*line.metric)]
            if line.trivial is None or any(value != line.trivial for _, value in points)
        ))
        for spec in specs
    ]  # fmt: skip


class Frame(NamedTuple):
    """The part of the plane that a chart shows."""

    left: float
    right: float
    low: float
    high: float

    def x(self, step: float) -> float:
        """Horizontal place of a step."""
        return LEFT + (step - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Vertical place of a value; values outside stop at the border."""
        part = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        """The commands of an SVG path through the points."""
        return "M" + " L".join(f"{self.x(step):.1f} {self.y(value):.1f}" for step, value in points)


def frame_of(lines: Sequence[Line], from_zero: bool, as_fraction: bool = False) -> Frame:
    """The smallest frame around all points, with some air above and below.

    Args:
        lines: At least one of them has points.
        from_zero: Begin at 0 unless a value is negative.
        as_fraction: End at 1 rather than above it, unless a value reaches it.
    """
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    low, high = min(values), max(values)
    if from_zero and low >= 0:
        low = 0.0
    air = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    left, right = min(0.0, *steps), max(steps)
    top = 1.0 if as_fraction and high < 1 < high + air else high + air
    return Frame(left, right if right > left else left + 1, low if low == 0 else low - air, top)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between low and high, at most TICKS: multiples of 1, 2 or 5 times 10^n."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= TICKS:
            return [round(index * step, 12) for index in range(first, last + 1)]
    return [low, high]


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points: the means of groups of equal size, at the last step of each."""
    if len(points) <= most:
        return list(points)
    thinned = []
    for index in range(most):
        part = points[index * len(points) // most : (index + 1) * len(points) // most]
        thinned.append((part[-1][0], sum(value for _, value in part) / len(part)))
    return thinned


def smooth(points: Sequence[Point]) -> list[Point]:
    """A centred mean over a tenth of the curve, narrower towards the ends so that none shifts."""
    reach = max(len(points) // 20, 1)
    smoothed = []
    for index, (step, _) in enumerate(points):
        side = min(reach, index, len(points) - 1 - index)
        part = points[index - side : index + side + 1]
        smoothed.append((step, sum(value for _, value in part) / len(part)))
    return smoothed


class Stroke(NamedTuple):
    """Points that a line joins."""

    points: list[Point]
    style: Literal["solid", "pale", "dashed"]


def strokes(line: Line, noisy: bool) -> list[Stroke]:
    """The strokes that draw a line; none for a single point."""
    points = thin(line.points, MOST_POINTS)
    if len(points) < 2:
        return []
    if line.role == "reference":
        return [Stroke(points, "dashed")]
    if noisy and line.role == "curve" and len(points) >= SMOOTH_FROM:
        return [Stroke(points, "pale"), Stroke(smooth(points), "solid")]
    return [Stroke(points, "solid")]


def _table(lines: Sequence[Line], shown: Callable[[float], str]) -> list[list[str]]:
    """A few steps of each line, including its last, with the values of all lines at these steps."""
    columns = [dict(line.points) for line in lines]
    steps = {
        step for column in columns for step in [*column][:: -math.ceil(len(column) / MOST_ROWS)]
    }
    return [
        [f"{step:,.0f}", *(shown(column[step]) if step in column else "" for column in columns)]
        for step in sorted(steps)
    ]


def draw(chart: Chart) -> Markup:
    """The chart as a figure of a page; empty if no line has a point.

    The colour of a line without points stays unused.
    """
    drawn = [(f"colour-{index}", line) for index, line in enumerate(chart.lines) if line.points]
    if not drawn:
        return Markup("")
    lines = [line for _, line in drawn]
    frame = frame_of(lines, chart.from_zero, chart.as_fraction)
    shown = percent if chart.as_fraction else number
    return render(
        "chart.html.j2",
        chart=chart,
        drawn=drawn,
        # References are drawn first, so that they do not hide the curve that they are for.
        layers=sorted(drawn, key=lambda pair: pair[1].role != "reference"),
        frame=frame,
        shown=shown,
        strokes=lambda line: strokes(line, chart.noisy),
        marks=lambda line: thin(line.points, MOST_MARKS),
        values=ticks(frame.low, frame.high),
        steps=[step for step in ticks(frame.left, frame.right) if step.is_integer()],
        head=[chart.along, *(line.label for line in lines)],
        rows=_table(lines, shown),
        left=LEFT, right=WIDTH - RIGHT, bottom=HEIGHT - BOTTOM, width=WIDTH, height=HEIGHT,
    )  # fmt: skip
