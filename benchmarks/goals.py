"""The goals of goals.toml against a record: met, missed, or not to be measured on that machine."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.race import OURS
from benchmarks.record import Record

GOALS = Path(__file__).with_name("goals.toml")
FALL = 0.05
"""A ratio fell when it is lower than in the last record by more than this share."""


class Goal(NamedTuple):
    """A peer takes at least so many times what ours takes."""

    name: str
    part: str
    case: str
    peer: str
    at_least: float
    needs: str = ""
    """`bf16` or `cuda`: what a machine must have to measure it."""


def goals(path: Path = GOALS) -> list[Goal]:
    return [Goal(**values) for values in tomllib.loads(path.read_text())["goal"]]


def judge(record: Record, asked: Iterable[Goal]) -> list[str]:
    """A line per goal. Small models are told apart: goals are for those of full size."""
    lines = []
    for goal in asked:
        row = record.find(goal.part, goal.case, goal.peer)
        reason = _unmeasurable(record, goal)
        if reason or row is None:
            verdict = f"not measurable here: {reason}" if reason else "not measured"
        else:
            word = "met" if row.ratio >= goal.at_least else "MISSED"
            verdict = f"{word}: {row.ratio:.2f}, asked {goal.at_least:g}"
        lines.append(f"{goal.name} [{goal.case} / {goal.peer}]: {verdict}")
    return lines


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
    lines = []
    for row in new.rows:
        before = old.find(row.part, row.case, row.who)
        if row.who != OURS and before and row.ratio < (1 - FALL) * before.ratio:
            lines.append(
                f"{row.part}, {row.case}, {row.who}: {before.ratio:.2f} fell to {row.ratio:.2f}"
            )
    return lines
