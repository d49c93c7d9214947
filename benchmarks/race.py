"""Contestants take turns, round by round, in one process; what they took is compared in pairs.

On a CPU with one thread the process's own CPU time is counted, which neighbours hardly change;
otherwise the wall clock. Ratios are of the same round, so that a slow minute slows both sides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

OURS = "beit"
WHOLE = ""


class Clock:
    """Reads the time between laps; a contestant may report a number of its own instead."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self._device = device
        self._read = (
            time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter
        )
        self.laps: dict[str, float] = {}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._read()

    def start(self) -> None:
        self.laps = {}
        self._began = self._last = self._now()

    def lap(self, name: str) -> None:
        """What was done since the last lap is called `name`."""
        now = self._now()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    def report(self, value: float) -> None:
        """A measured number, such as memory, in the place of the time."""
        self.laps[WHOLE] = value

    def stop(self) -> dict[str, float]:
        self.laps.setdefault(WHOLE, self._now() - self._began)
        return self.laps


Contestant = Callable[[Clock], object]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One thing to do, and who does it; ours comes first."""

    case: str
    contestants: Mapping[str, Contestant]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Peers that are not there, each with the reason."""
    unit: str = "s"
    precision: str = "fp32"
    counts_flops: bool = False
    uncut: str = ""
    """The peer whose counted work is that of the algorithm as published, without exact cuts."""
    warm_up: bool = True


class Row(NamedTuple):
    """What one contestant took for one thing."""

    part: str
    case: str
    who: str
    unit: str
    median: float
    minimum: float
    spread: float
    """Range between the quartiles, as a share of the median."""
    ratio: float
    """How many times ours it took: the median over the rounds."""
    gflops: float
    """Counted work of a call in 1e9 operations; 0 where it was not counted."""
    precision: str
    uncut: float = 0.0
    """Work of the algorithm as published, in 1e9 operations; 0 where it was not counted."""


def race(part: str, contest: Contest, *, rounds: int, clock: Clock) -> list[Row]:
    """Every contestant once to warm up, then in turns; another one begins each round."""
    names = list(contest.contestants)
    assert names[0] == OURS, f"{contest.case} begins with {names[0]}"
    work = dict.fromkeys(names, 0.0)
    for name in names if contest.warm_up else ():
        work[name] = _warm_up(contest.contestants[name], clock, contest.counts_flops)
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            clock.start()
            contest.contestants[name](clock)
            for lap, value in clock.stop().items():
                taken[name].setdefault(lap, []).append(value)
    uncut = work.get(contest.uncut, 0.0)
    return [
        _row(part, contest, name, lap, values, taken[OURS].get(lap), (work[name], uncut))
        for name in names
        for lap, values in taken[name].items()
    ]


def _warm_up(contestant: Contestant, clock: Clock, counts: bool) -> float:
    clock.start()
    if not counts:
        contestant(clock)
        return 0.0
    with FlopCounterMode(display=False) as counter:
        contestant(clock)
    return counter.get_total_flops() / 1e9


def _row(
    part: str,
    contest: Contest,
    who: str,
    lap: str,
    values: list[float],
    ours: list[float] | None,
    work: tuple[float, float],
) -> Row:
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median,) * 3
    pairs = [theirs / own for theirs, own in zip(values, ours or [], strict=False) if own]
    return Row(
        part=part,
        case=f"{contest.case}: {lap}" if lap else contest.case,
        who=who,
        unit=contest.unit,
        median=median,
        minimum=min(values),
        spread=(high - low) / median if median else 0.0,
        ratio=statistics.median(pairs) if pairs else 0.0,
        gflops=0.0 if lap else work[0],
        precision=contest.precision,
        uncut=0.0 if lap else work[1],
    )
