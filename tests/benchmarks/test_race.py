"""Contestants take turns; ratios are of the same round; laps add up."""

from __future__ import annotations

import pytest
import torch

from benchmarks.race import Clock, Contest, race

CPU = torch.device("cpu")


def reporting(values):
    """A contestant that reports the next of these numbers each time."""
    left = iter(values)
    return lambda clock: clock.report(next(left))


def test_ratios_are_of_the_same_round():
    contest = Contest(
        case="x",
        contestants={"beit": reporting([1.0, 10.0, 2.0]), "peer": reporting([2.0, 30.0, 8.0])},
        warm_up=False,
    )
    ours, peer = race("part", contest, rounds=3, clock=Clock(CPU, 1))
    assert (ours.median, ours.minimum, ours.ratio) == (2.0, 1.0, 1.0)
    assert (peer.median, peer.minimum, peer.ratio) == (8.0, 2.0, 3.0)  # of 2, 3 and 4


def test_another_begins_each_round_after_everyone_warmed_up():
    turns = []
    contest = Contest(
        case="x",
        contestants={name: lambda _clock, name=name: turns.append(name) for name in ("beit", "b")},
    )
    race("part", contest, rounds=3, clock=Clock(CPU, 1))
    assert turns == ["beit", "b", *("beit", "b"), *("b", "beit"), *("beit", "b")]


def test_laps_are_rows_of_their_own_and_add_up():
    def step(clock):
        sum(range(10_000))
        clock.lap("first")
        sum(range(10_000))
        clock.lap("second")
        sum(range(10_000))
        clock.lap("first")

    rows = race("part", Contest(case="x", contestants={"beit": step}), rounds=1,
                clock=Clock(CPU, 1))  # fmt: skip
    named = {row.case: row.median for row in rows}
    assert set(named) == {"x", "x: first", "x: second"}
    parts = named["x: first"] + named["x: second"]
    assert parts <= named["x"]
    assert parts == pytest.approx(named["x"], rel=0.5)


def test_work_is_counted():
    matrix = torch.ones(10, 20)
    contest = Contest(
        case="x", contestants={"beit": lambda _clock: matrix @ matrix.t()}, counts_flops=True
    )
    (row,) = race("part", contest, rounds=1, clock=Clock(CPU, 1))
    assert row.gflops == pytest.approx(2 * 10 * 20 * 10 / 1e9)


def test_work_as_published_is_that_of_a_peer():
    matrix = torch.ones(10, 20)
    contestants = {
        "beit": lambda _clock: matrix[:5] @ matrix.t(),
        "peer": lambda _clock: matrix @ matrix.t(),
    }
    contest = Contest(case="x", contestants=contestants, counts_flops=True, uncut="peer")
    ours, peer = race("part", contest, rounds=1, clock=Clock(CPU, 1))
    assert peer.gflops == peer.uncut == ours.uncut == 2 * ours.gflops > 0
