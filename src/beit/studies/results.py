"""What a study found: scores with intervals, differences of pairs, verdicts, and the tables.

Every score keeps its parts: one value for each pre-training seed, label draw and test image (or
class). An interval is a bootstrap over all that another study would draw anew: pre-training seeds,
label draws, and units of the test images, which are its classes or groups that belong together.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

REPLICATES = 2000
Values = Float[np.ndarray, "seeds draws items"]


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def text(self, sign: str = "", digits: int = 1) -> str:
        """As tables have it: `41.2 (37.0 to 45.1)`."""
        mean, low, high = (f"{value:{sign}.{digits}f}" for value in self)
        return f"{mean} ({low} to {high})"


class Score(NamedTuple):
    """One measure of one arm."""

    values: Values
    units: Sequence[object]
    """The unit of each item; items of one unit are drawn together."""

    def interval(self) -> Interval:
        """The mean, and percentiles of a bootstrap with a fixed seed."""
        _, places = np.unique(np.asarray(self.units, dtype=str), return_inverse=True)
        number = places.max() + 1
        counts = np.bincount(places, minlength=number)
        sums = np.zeros((*self.values.shape[:2], number))
        for place, column in zip(places, np.moveaxis(self.values, 2, 0), strict=True):
            sums[:, :, place] += column
        chance = np.random.default_rng(0)
        # How often each is drawn, used as a weight: the same as drawing them and adding them up.
        seeds, draws, units = (
            chance.multinomial(size, np.full(size, 1 / size), REPLICATES) for size in sums.shape
        )
        over_units = np.tensordot(units, sums, axes=(1, 2))
        totals = np.einsum("rsd,rs,rd->r", over_units, seeds, draws)
        means = totals / (sums.shape[0] * sums.shape[1] * (units @ counts))
        low, high = np.percentile(means, (2.5, 97.5))
        return Interval(float(self.values.mean()), float(low), float(high))

    def minus(self, other: Score) -> Score:
        """The difference, pair by pair, over the seeds and draws that both scores have."""
        seeds, draws = (min(self.values.shape[i], other.values.shape[i]) for i in (0, 1))
        return self._replace(values=self.values[:seeds, :draws] - other.values[:seeds, :draws])


Scores = Mapping[tuple[str, str], Score]
"""By arm and measure."""


class Claim(NamedTuple):
    """A statement that is shown if one arm's score lies above another's beyond the interval."""

    text: str
    source: str
    """Where it is made."""
    arm: str
    """Empty if it cannot be tried at this scale."""
    than: str
    measure: str
    smaller: bool = False
    """Whether less is better."""
    command: str = ""
    """What tries it, on a GPU if this scale is too small."""


UNTRIED = ("not run", "not affordable here")
"""The verdicts on claims that were not tried, because of their arms or of this scale."""


class Verdict(NamedTuple):
    """A claim, and what the study says of it."""

    claim: str
    source: str
    verdict: str
    evidence: str


def judge(claim: Claim, scores: Scores) -> Verdict:
    """Judge a claim: shown or not or, with the command, not run or not affordable here.

    Values that do not differ at all among seeds, draws and units are too few to show anything.
    """
    first, second = (scores.get((arm, claim.measure)) for arm in (claim.arm, claim.than))
    if first is None or second is None:
        verdict = UNTRIED[0] if claim.arm else UNTRIED[1]
        return Verdict(claim.text, claim.source, verdict, claim.command)
    gain = first.minus(second).interval()
    varied = gain.low < gain.high
    beyond = varied and (gain.high < 0 if claim.smaller else gain.low > 0)
    against = varied and (gain.low > 0 if claim.smaller else gain.high < 0)
    verdict = "shown" if beyond else "not shown: the opposite" if against else "not shown"
    evidence = f"{claim.measure}: {claim.arm} - {claim.than} {gain.text('+')}"
    return Verdict(claim.text, claim.source, verdict, evidence)


class Line(NamedTuple):
    """A score as the files of a study list it."""

    arm: str
    measure: str
    score: Interval
    seeds: int
    draws: int
    gain: Interval | None
    """Difference from training from scratch, pair by pair."""

    def flat(self) -> dict[str, object]:
        """The columns of its row, one value each."""
        columns: dict[str, object] = {
            "arm": self.arm, "measure": self.measure, "seeds": self.seeds, "draws": self.draws
        }  # fmt: skip
        for name, interval in (("", self.score), ("gain_", self.gain)):
            for field in Interval._fields:
                value = None if interval is None else round(getattr(interval, field), 3)
                columns[f"{name}{field}"] = value
        return columns


def lines(scores: Scores, base: str) -> Iterator[Line]:
    """Every score with its difference from the arm `base`."""
    for (arm, measure), score in scores.items():
        other = scores.get((base, measure))
        gain = None if other is None or arm == base else score.minus(other).interval()
        seeds, draws, _ = score.values.shape
        yield Line(arm, measure, score.interval(), seeds, draws, gain)


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV, for other programs."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def pivot(
    scores: Scores, measures: Sequence[str], digits: Callable[[str], int] = lambda _: 1
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table to read: an arm per row, a measure per column.

    Args:
        scores: The scores by arm and measure.
        measures: Order of the columns; measures without a score are left out.
        digits: Decimal places by measure.
    """
    shown = [name for name in measures if any(name == measure for _, measure in scores)]
    rows = []
    for arm in dict.fromkeys(arm for arm, _ in scores):
        cells = [scores.get((arm, measure)) for measure in shown]
        if any(cells):
            rows.append([arm, *(
                "" if cell is None else cell.interval().text(digits=digits(measure))
                for cell, measure in zip(cells, shown, strict=True)
            )])  # fmt: skip
    return ["", *shown], rows
