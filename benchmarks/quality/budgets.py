"""Seconds become steps, steps become accuracies, and what was measured is kept.

All stages count: imports, reading images, the tokenizer. Each learner's seconds per step are
measured first, by short trainings side by side; a budget is then a number of steps, and what is
learned does not depend on the load of the machine. So several can be trained at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from beit.studies.jobs import once
from benchmarks.child import run
from benchmarks.quality import contestant, scenes

TIMED = 60
"""Steps of the short trainings."""
MEASURES = {"fine-tuned": (40.0, 50.0, 60.0, 70.0), "linear": (15.0, 20.0, 25.0, 30.0)}
"""What is measured with 10 labels per class, and the marks whose times are reported."""


class Cost(NamedTuple):
    """CPU seconds of a learner before its first step, and of each."""

    start: float
    step: float

    def steps(self, seconds: float) -> int:
        """How many fit into a budget; 0 if not even one."""
        return max(math.floor((seconds - self.start) / self.step), 0)


class Quality:
    """The results in one folder; what is there is not measured again."""

    def __init__(self, folder: Path, *, quick: bool = False) -> None:
        self.folder, self.quick = folder, quick
        self.scenes = folder / "scenes"
        scenes.prepare(self.scenes, quick=quick)

    def measure(self, who: Sequence[str], seconds: Sequence[int], seeds: int, jobs: int) -> None:
        """All of them, so many at a time. The costs come first, all at once, as a machine that
        others use is slow for minutes, and should be so for all."""
        learners = [name for name in who if name in contestant.LEARNERS]
        wanted = [
            (name, budget, seed)
            for seed in range(seeds)
            for budget in seconds
            for name in who
            if name in learners or budget == seconds[0]
        ]
        with ThreadPoolExecutor(max(len(learners), 1)) as pool:
            for name, cost in zip(learners, pool.map(self.cost, learners), strict=True):
                print(f"{name}: {cost.start:.0f} s, then {cost.step:.2f} s a step", flush=True)
        with ThreadPoolExecutor(jobs) as pool:
            measured = pool.map(lambda work: self.accuracy(*work), wanted)
            for (name, budget, seed), found in zip(wanted, measured, strict=True):
                print(f"{name}, {budget} s, seed {seed}: {json.dumps(found)}", flush=True)

    def accuracy(self, who: str, seconds: int, seed: int) -> dict[str, Any]:
        """What somebody reaches; the baselines do not use their time."""
        learns = who in contestant.LEARNERS
        name = f"{who}-{seconds}-{seed}" if learns else f"{who}-{seed}"
        return self._once(name, lambda: self._compete(who, seconds if learns else 0, seed))

    def _compete(self, who: str, seconds: int, seed: int) -> dict[str, Any]:
        if self.quick:
            return contestant.compete(who, self.scenes, steps=1, seed=seed, quick=True)
        steps = self.cost(who).steps(seconds) if seconds else 0
        found: dict[str, Any] = json.loads(run(self._words(who, steps, str(seed))).splitlines()[-1])
        return found

    def cost(self, who: str) -> Cost:
        """Seconds per step, and those before the first."""
        if self.quick:
            return Cost(0.0, 1.0)
        words = self._words(who, TIMED, "train")
        return Cost(**self._once(f"{who}-cost", lambda: json.loads(run(words).splitlines()[-1])))

    def _words(self, who: str, steps: int, seed: str) -> list[str]:
        return ["-m", "benchmarks.quality.contestant", who, str(steps), seed, str(self.scenes)]

    def _once(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = once(self.folder / f"{name}.json", measure)
        return found

    def until(
        self, who: str, seconds: Sequence[int], seed: int, measure: str, mark: float
    ) -> float:
        """Seconds until a mark, between budgets along the logarithm of time; inf if never."""
        before: tuple[float, float] | None = None
        for budget in seconds:
            reached = self.accuracy(who, budget, seed)[measure]
            if reached >= mark:
                if before is None:
                    return budget
                part = (mark - before[1]) / (reached - before[1])
                return float(before[0] * (budget / before[0]) ** part)
            before = budget, reached
        return math.inf


def tables(quality: Quality, who: Sequence[str], seconds: Sequence[int], seeds: int) -> str:
    """Of each measure: accuracies at each budget, and times until each mark, a value per seed."""
    lines = []
    for measure, marks in MEASURES.items():
        there = [name for name in who if measure in quality.accuracy(name, seconds[0], 0)]
        learners = [name for name in there if name in contestant.LEARNERS]
        rest = [name for name in there if name not in learners]
        lines += [
            _row(f"{measure}, top-1 in %", [f"{budget} s" for budget in seconds]),
            _rule(seconds),
        ]
        for name in [*learners, *rest]:
            budgets = seconds if name in learners else seconds[:1]
            cells = [
                [f"{quality.accuracy(name, budget, seed)[measure]:.1f}" for seed in range(seeds)]
                for budget in budgets
            ]
            lines.append(_row(name, map(", ".join, cells)))
        lines += [
            "",
            _row(f"{measure}, seconds until", [f"{mark:g} %" for mark in marks]),
            _rule(marks),
        ]
        for name in learners:
            times = [
                [quality.until(name, seconds, seed, measure, mark) for seed in range(seeds)]
                for mark in marks
            ]
            lines.append(_row(name, [", ".join(map(_seconds, of)) for of in times]))
        lines.append("")
    return "\n".join(lines)


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _rule(columns: Sequence[object]) -> str:
    return _row("---", ["---"] * len(columns))


def _seconds(time: float) -> str:
    return f"{time:.0f}" if time < math.inf else "not reached"
