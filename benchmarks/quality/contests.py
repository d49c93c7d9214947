"""Time to quality: top-1 on object scenes after so many CPU seconds of pre-training.

All stages count: imports, reading images, the tokenizer. Each contestant's seconds per step are
measured first, by two short trainings; a budget is then a number of steps, and what is learned does
not depend on the load of the machine. Accuracies are kept in runs/quality (or BEIT_QUALITY), so
that a night's work goes on where it stopped. A round is a seed: `--rounds 2` has two.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.child import processor_seconds, run
from benchmarks.quality import contestant, scenes
from benchmarks.race import Contest, Contestant
from benchmarks.setting import Setting

BUDGETS = (150, 300, 600, 1200)
"""CPU seconds."""
TIMED = (4, 20)
"""Steps of the two trainings whose difference is what a step costs."""
MEASURES = {"fine-tuned": (40.0, 50.0, 60.0, 70.0), "linear": (15.0, 20.0, 25.0, 30.0)}
"""What is measured with 10 labels per class, and the marks whose times are reported."""
LEFT_OUT = {
    "LightlyTrain": "commercial use takes a licence; its methods are here from their papers"
}
FOLDER = Path(os.environ.get("BEIT_QUALITY", "runs/quality"))


class Cost(NamedTuple):
    """CPU seconds of a contestant before its first step, and of each."""

    start: float
    step: float

    def steps(self, seconds: float) -> int:
        """How many fit into a budget; 0 if not even one."""
        return max(math.floor((seconds - self.start) / self.step), 0)


class Quality:
    """The results in one folder; what is there is not measured again."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.scenes = folder / "scenes"
        scenes.prepare(self.scenes, quick=quick)

    def accuracy(self, who: str, seconds: float, seed: int) -> dict[str, Any]:
        """What a contestant reaches; the baselines do not use their time."""
        learns = who in contestant.LEARNERS
        name = f"{who}-{seconds}-{seed}" if learns else f"{who}-{seed}"
        return self._once(name, lambda: self._compete(who, seconds if learns else 0, seed))

    def _compete(self, who: str, seconds: float, seed: int) -> dict[str, Any]:
        if self.quick:
            return contestant.compete(who, self.scenes, steps=1, seed=seed, quick=True)
        steps = self.cost(who).steps(seconds) if seconds else 0
        words = [
            "-m",
            "benchmarks.quality",
            who,
            str(steps),
            str(seed),
            str(self.scenes),
        ]
        found: dict[str, Any] = json.loads(run(words).splitlines()[-1])
        return found

    def cost(self, who: str) -> Cost:
        """Seconds per step, and those before the first."""

        def measure() -> dict[str, float]:
            few, more = (
                processor_seconds(
                    [
                        "-m",
                        "benchmarks.quality",
                        who,
                        str(steps),
                        "train",
                        str(self.scenes),
                    ]
                )
                for steps in TIMED
            )
            step = (more - few) / (TIMED[1] - TIMED[0])
            return {"start": few - TIMED[0] * step, "step": step}

        return Cost(**self._once(f"{who}-cost", measure))

    def _once(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        place = self.folder / f"{name}.json"
        if not place.exists():
            place.write_text(json.dumps(measure()))
        found: dict[str, Any] = json.loads(place.read_text())
        return found

    def until(self, who: str, seed: int, measure: str, mark: float) -> float:
        """Seconds until a mark, between budgets along the logarithm of time; inf if never."""
        before: tuple[float, float] | None = None
        for seconds in BUDGETS:
            reached = self.accuracy(who, seconds, seed)[measure]
            if reached >= mark:
                if before is None:
                    return seconds
                part = (mark - before[1]) / (reached - before[1])
                return float(before[0] * (seconds / before[0]) ** part)
            before = seconds, reached
        return math.inf


def contests(setting: Setting) -> Iterator[Contest]:
    """Accuracy at each budget, then the time until each mark for those that reach it."""
    if setting.quick:
        with tempfile.TemporaryDirectory() as folder:
            for measure in MEASURES:
                yield _accuracies(Quality(Path(folder), quick=True), measure, BUDGETS[0])
        return
    quality = Quality(FOLDER, quick=False)
    for measure in MEASURES:
        for seconds in BUDGETS:
            yield _accuracies(quality, measure, seconds)
    for measure, marks in MEASURES.items():
        for mark in marks:
            yield from _times(quality, measure, mark, setting.rounds)


def _rounds(value: Callable[[int], float]) -> Contestant:
    """A contestant whose every round is the next seed."""
    seeds = itertools.count()
    return lambda clock: clock.report(value(next(seeds)))


def _accuracies(quality: Quality, measure: str, seconds: int) -> Contest:
    def value(who: str) -> Callable[[int], float]:
        return lambda seed: float(quality.accuracy(who, seconds, seed)[measure])

    names = [*contestant.LEARNERS, contestant.SCRATCH]
    names += contestant.FEATURES if measure == "linear" else ()
    return Contest(
        case=f"top-1, 10 labels, {measure}, after {seconds} s",
        contestants={who: _rounds(value(who)) for who in names},
        skipped=LEFT_OUT,
        unit="%",
        warm_up=False,
    )


def _times(quality: Quality, measure: str, mark: float, rounds: int) -> Iterator[Contest]:
    """Who does not reach a mark with every seed is left out; all of them, if ours does not."""

    def value(who: str) -> Callable[[int], float]:
        return lambda seed: quality.until(who, seed, measure, mark)

    times = {who: value(who) for who in contestant.LEARNERS}
    there = {who: of for who, of in times.items() if max(map(of, range(rounds))) < math.inf}
    case = f"until {mark:g} %, 10 labels, {measure}"
    short = {f"{who}, {case}": "never reached" for who in times if who not in there}
    if contestant.LEARNERS[0] in there:
        contestants = {who: _rounds(of) for who, of in there.items()}
        yield Contest(case=case, contestants=contestants, skipped=short, warm_up=False)
