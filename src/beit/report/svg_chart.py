"""Line charts as inline SVG: ticks, reference lines, marks to hover over, smoothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from beit.report.history import Point
from beit.report.markup import Attributes, Markup, block, element, figure, join, number, percent

Role = Literal["curve", "reference", "marks"]

WIDTH, HEIGHT = 360.0, 212.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 10.0, 34.0
MOST_POINTS = 300
MOST_MARKS = 60
SMOOTH_FROM = 40
CENTRE: Attributes = {"text-anchor": "middle"}


class Line(NamedTuple):
    """A curve, a reference to compare it with (dashed), or single measurements (with dots)."""

    label: str
    points: tuple[Point, ...]
    role: Role = "curve"


class Chart(NamedTuple):
    """Lines under a title, with what a healthy one looks like."""

    title: str
    lines: list[Line]
    explanation: str
    as_share: bool = False
    from_zero: bool = False
    noisy: bool = True


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
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, at most so many: steps of 1, 2 or 5 times a power of 10."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [round(index * step, 12) for index in range(first, last + 1)]
    return [low, high]


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points: means of equally large neighbourhoods, the last point kept."""
    if len(points) <= most:
        return list(points)
    thinned = []
    for index in range(most):
        part = points[index * len(points) // most : (index + 1) * len(points) // most]
        thinned.append((part[-1][0], sum(value for _, value in part) / len(part)))
    return thinned


def smooth(points: Sequence[Point]) -> list[Point]:
    """A centred mean over a tenth of the curve, narrower towards both ends so that none shifts."""
    reach = max(len(points) // 20, 1)
    smoothed = []
    for index, (step, _) in enumerate(points):
        side = min(reach, index, len(points) - 1 - index)
        part = points[index - side : index + side + 1]
        smoothed.append((step, sum(value for _, value in part) / len(part)))
    return smoothed


def frame_of(lines: Sequence[Line], from_zero: bool) -> Frame:
    """The smallest frame around all points, with some air above and below."""
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    low, high = min(values), max(values)
    if from_zero and low >= 0:
        low = 0.0
    air = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    left, right = min(0.0, *steps), max(steps)
    return Frame(
        left, right if right > left else left + 1, low if low == 0 else low - air, high + air
    )


def _path(points: Sequence[Point], frame: Frame, kind: str) -> Markup:
    places = " L".join(f"{frame.x(step):.1f} {frame.y(value):.1f}" for step, value in points)
    return element("path", "", {"class": kind, "d": f"M{places}"})


def _marks(line: Line, frame: Frame, colour: str, as_share: bool, along: str) -> list[Markup]:
    """Dots that show their numbers when pointed at; those of a plain curve show only then."""
    kind = "dot" if line.role == "marks" else "hover"
    found = []
    for step, value in thin(line.points, MOST_MARKS):
        shown = percent(value) if as_share else number(value)
        title = element("title", f"{line.label} {shown} at {along} {step:,.0f}")
        place = {"cx": f"{frame.x(step):.1f}", "cy": f"{frame.y(value):.1f}"}
        radius = 3.0 if kind == "dot" else 5.0
        found.append(element("circle", title, {"class": f"{kind} {colour}", **place, "r": radius}))
    return found


def _drawn(
    line: Line, frame: Frame, colour: str, as_share: bool, noisy: bool, along: str
) -> list[Markup]:
    points = thin(line.points, MOST_POINTS)
    parts = []
    if len(points) > 1:
        style = "dashed" if line.role == "reference" else ""
        if noisy and line.role == "curve" and len(points) >= SMOOTH_FROM:
            parts.append(_path(points, frame, f"line raw {colour}"))
            points = smooth(points)
        parts.append(_path(points, frame, f"line {style} {colour}"))
    elif line.role != "marks":
        line = line._replace(role="marks")  # a single point would be invisible
    if line.role != "reference":
        parts += _marks(line, frame, colour, as_share, along)
    return parts


def _axes(frame: Frame, as_share: bool, along: str) -> list[Markup]:
    parts = []
    across: Attributes
    place: Attributes
    for value in ticks(frame.low, frame.high):
        y = f"{frame.y(value):.1f}"
        across = {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y}
        label = f"{100 * value:g}%" if as_share else number(value)
        place = {"x": LEFT - 7, "y": f"{frame.y(value) + 4:.1f}", "text-anchor": "end"}
        parts += [element("line", "", across), element("text", label, place)]
    for step in ticks(frame.left, frame.right):
        if step.is_integer():
            place = {"x": f"{frame.x(step):.1f}", "y": HEIGHT - BOTTOM + 16, **CENTRE}
            parts.append(element("text", f"{step:,.0f}", place))
    place = {"x": (LEFT + WIDTH - RIGHT) / 2, "y": HEIGHT - 3, **CENTRE}
    return [*parts, element("text", along, place)]


def _legend(lines: Sequence[Line], colours: Sequence[str], as_share: bool) -> Markup:
    """Every line's dash and colour, its name and its last value."""
    entries = []
    for line, colour in zip(lines, colours, strict=True):
        dashed = "dashed" if line.role == "reference" else ""
        stroke = element("path", "", {"class": f"line {dashed} {colour}", "d": "M1 5 L21 5"})
        swatch = element(
            "svg", stroke, {"viewBox": "0 0 22 10", "class": "swatch", "aria-hidden": "true"}
        )
        last = line.points[-1][1]
        shown = percent(last) if as_share else number(last)
        entries.append(element("span", [swatch, f"{line.label} ", element("b", shown)]))
    return block("legend", entries)


def chart(
    title: str,
    lines: Sequence[Line],
    explanation: str,
    *,
    as_share: bool = False,
    from_zero: bool = False,
    noisy: bool = True,
    along: str = "step",
) -> Markup:
    """A figure with the lines that have points; nothing if none has.

    Noisy curves of many points are smoothed over their pale selves. `as_share` writes values in
    per cent. `along` names the horizontal axis. A line without points keeps its colour free.
    """
    colours = [f"colour-{index}" for index, line in enumerate(lines) if line.points]
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    frame = frame_of(lines, from_zero)
    # References lie below, so that they do not hide the curve they are for.
    order = sorted(range(len(lines)), key=lambda index: lines[index].role != "reference")
    drawn = [
        part
        for index in order
        for part in _drawn(lines[index], frame, colours[index], as_share, noisy, along)
    ]
    last = ", ".join(
        f"{line.label} {percent(line.points[-1][1]) if as_share else number(line.points[-1][1])}"
        for line in lines
    )
    svg = element(
        "svg",
        [element("title", f"{title}; last: {last}"), *_axes(frame, as_share, along), *drawn],
        {"viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}", "role": "img", "class": "chart"},
    )
    head = [element("h3", title), _legend(lines, colours, as_share)]
    return figure([join(head), svg], explanation, "curve")
