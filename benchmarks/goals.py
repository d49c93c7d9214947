"""The goals of goals.toml against a record: met, missed, or not to be measured on that machine."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.race import OURS, Row
from benchmarks.record import Record

GOALS = Path(__file__).with_name("goals.toml")
FALL = 0.05
"""A ratio fell when it is lower than in the last record by more than this fraction."""


class Goal(NamedTuple):
    """A peer takes at least so many times what ours takes."""

    name: str
    part: str
    case: str
    peer: str
    at_least: float
    needs: str = ""
    """`bf16` or `cuda`: what a machine must have to measure it."""
    ours: str = OURS
    """Which of our contestants."""
    peer_case: str = ""
    """The case of the peer's row, if it is another: as shipped, against the best that we have."""

    @property
    def paired(self) -> bool:
        """Whether the plain contestant of ours stands against the peer in the same case."""
        return self.ours == OURS and not self.peer_case


class Verdict(NamedTuple):
    """What a record says of a goal."""

    goal: Goal
    word: str
    """`met`, `missed`, or why it was not measured."""
    ratio: float = 0.0
    limit: float = 0.0
    """The ratio if ours did its counted work as fast as the fastest matrix product of the machine,
    and nothing else; 0 where the work was not counted."""


def goals(path: Path = GOALS) -> list[Goal]:
    return [Goal(**values) for values in tomllib.loads(path.read_text())["goal"]]


def judge(record: Record, goals: Iterable[Goal]) -> list[Verdict]:
    """A verdict per goal. Of small models there is none: goals are for those of full size."""
    return [_judge(record, goal) for goal in goals]


def _judge(record: Record, goal: Goal) -> Verdict:
    reason = _unmeasurable(record, goal)
    peer = record.find(goal.part, goal.peer_case or goal.case, goal.peer)
    ours = record.find(goal.part, goal.case, goal.ours)
    if reason or peer is None or ours is None:
        return Verdict(goal, f"not measurable here: {reason}" if reason else "not measured")
    ratio = peer.ratio if goal.paired else peer.median / ours.median
    word = "met" if ratio >= goal.at_least else "missed"
    return Verdict(goal, word, ratio, _limit(record, ours, peer))


def _limit(record: Record, ours: Row, peer: Row) -> float:
    return peer.median * record.peaks[ours.precision] / ours.gflops if ours.gflops else 0.0


def headlines(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """One of each part, whether met or missed: its first, of those that compare the same case."""
    first: dict[str, Verdict] = {}
    for found in verdicts:
        if found.goal.paired:
            first.setdefault(found.goal.part, found)
    return list(first.values())


def lines(verdicts: Iterable[Verdict]) -> list[str]:
    """For a terminal."""
    lines = []
    for goal, word, ratio, limit in verdicts:
        numbers = f": {ratio:.2f}, required {goal.at_least:g}" if ratio else ""
        bound = f", at most {limit:.2f} here" if limit else ""
        place = f"{goal.case} / {goal.peer}"
        lines.append(f"{goal.name} [{place}]: {word}{numbers}{bound}")
    return lines


def table(verdicts: Iterable[Verdict]) -> str:
    """For the page: what is required, what was reached, and what this machine allows."""
    rows = ["| goal | required | reached | at most here | |", "| --- " * 5 + "|"]
    for goal, word, ratio, limit in verdicts:
        numbers = [f"{number:.2f}" if number else "" for number in (ratio, limit)]
        rows.append(f"| {' | '.join([goal.name, f'{goal.at_least:g}', *numbers, word])} |")
    return "\n".join(rows)


def _unmeasurable(record: Record, goal: Goal) -> str:
    if goal.needs == "cuda" and record.setting["device"] != "cuda":
        return "no GPU"
    if goal.needs != "cuda" and record.setting["device"] == "cuda":
        return "a goal for CPUs"
    if goal.needs == "bf16" and "bf16" not in record.peaks:
        return "no fast bfloat16"
    return "small models" if record.setting["quick"] else ""


def fallen(old: Record, new: Record) -> list[str]:
    """Ratios that are lower than they were."""
    found = []
    for row in new.rows:
        before = old.find(row.part, row.case, row.who)
        if row.who != OURS and before and row.ratio < (1 - FALL) * before.ratio:
            found.append(
                f"{row.part}, {row.case}, {row.who}: {before.ratio:.2f} fell to {row.ratio:.2f}"
            )
    return found
