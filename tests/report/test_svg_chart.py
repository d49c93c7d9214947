"""Charts: what is drawn lies where the numbers say."""

from __future__ import annotations

import re

import pytest

from beit.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_MARKS,
    MOST_ROWS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Frame,
    Line,
    draw,
    frame_of,
    smooth,
    thin,
    ticks,
)


def test_a_frame_maps_its_corners_to_the_corners_of_the_plot():
    frame = Frame(0.0, 10.0, 2.0, 4.0)
    assert (frame.x(0.0), frame.y(2.0)) == (LEFT, HEIGHT - BOTTOM)
    assert (frame.x(10.0), frame.y(4.0)) == (WIDTH - RIGHT, TOP)
    assert frame.y(3.0) == pytest.approx((TOP + HEIGHT - BOTTOM) / 2)
    assert frame.y(99.0) == TOP


def test_a_chart_has_the_path_of_its_points():
    line = Line("loss", ((0.0, 0.0), (5.0, 50.0), (10.0, 100.0)))
    svg = draw(Chart("Loss", "falls", (line,), from_zero=True))
    frame = frame_of([line], from_zero=True)
    assert frame == Frame(0, 10, 0, 106)
    path = re.findall(r'class="line colour-0" d="M([^"]+)"', svg)[-1]  # the first is the legend's
    places = [tuple(map(float, pair.split())) for pair in path.split("L")]
    assert places == [
        (pytest.approx(frame.x(s), abs=0.06), pytest.approx(frame.y(v), abs=0.06))
        for s, v in line.points
    ]
    assert "<title>loss 50 at step 5</title>" in svg


def test_fractions_end_at_one():
    line = Line("accuracy", ((10.0, 0.976),))
    assert frame_of([line], from_zero=False, as_fraction=True).high == 1
    assert frame_of([line], from_zero=False).high > 1


def test_a_chart_has_its_numbers_as_a_table():
    lines = (
        Line("loss", tuple((float(step), 2.0 * step) for step in range(1, 101))),
        Line("validation", ((50.0, 7.5),), "marks"),
    )
    svg = draw(Chart("Loss", "", lines))
    rows = re.findall(r'<tr><th scope="row">([\d,]+)</th>(.*?)</tr>', svg)
    assert len(rows) <= 2 * MOST_ROWS
    assert ("50", "<td>100</td><td>7.5</td>") in rows
    assert rows[-1] == ("100", "<td>200</td><td></td>")


def test_lines_without_points_are_left_out():
    assert draw(Chart("Loss", "", (Line("loss"),))) == ""
    svg = draw(Chart("Loss", "", (Line("loss", ((1.0, 2.0), (2.0, 1.0))), Line("chance"))))
    assert "chance" not in svg


def test_a_single_point_and_a_constant_are_visible():
    assert 'class="dot' in draw(Chart("Loss", "", (Line("loss", ((3.0, 2.0),)),)))
    assert "nan" not in draw(Chart("Loss", "", (Line("loss", ((0.0, 0.0), (1.0, 0.0))),)))


def test_references_are_dashed_and_have_no_marks():
    svg = draw(Chart("Loss", "", (Line("chance", ((0.0, 1.0), (1.0, 1.0)), "reference"),)))
    assert "dashed" in svg
    assert "circle" not in svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 5, 10]),
        (0, 1, [0, 0.5, 1]),
        (0.2, 4.3, [1, 2, 3, 4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(float(low), float(high)) == pytest.approx(expected)


def test_thinning_keeps_the_mean_and_the_end():
    points = [(float(step), float(step % 2)) for step in range(1, 1001)]
    thinned = thin(points, MOST_MARKS)
    assert len(thinned) == MOST_MARKS
    assert thinned[-1][0] == 1000
    assert sum(value for _, value in thinned) / MOST_MARKS == pytest.approx(0.5, abs=0.02)
    assert thin(points[:5], MOST_MARKS) == points[:5]


def test_smoothing_leaves_straight_lines_and_ends_alone():
    straight = [(float(step), 2.0 * step) for step in range(100)]
    assert dict(smooth(straight)) == pytest.approx(dict(straight))
    rough = [(float(step), float(step % 2)) for step in range(100)]
    assert smooth(rough)[0] == rough[0]
    assert all(0.4 < value < 0.6 for _, value in smooth(rough)[10:-10])
