"""The doctor's findings on this machine and on images, and how they are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from beit.errors import DataError, ResourceError
from beit.terminal import print_tables, printable_lines

Level = Literal["ok", "warn", "fail"]
COLOURS: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


class Finding(NamedTuple):
    """One line: the verdict, what was examined, what was found, and what to change."""

    level: Level
    subject: str
    found: str
    change: str = ""
    about: Literal["environment", "images"] = "environment"


def judge(subject: str, found: str, change: str = "", level: Level = "warn") -> Finding:
    """A finding that is ok unless something should be changed.

    Args:
        subject: What was examined.
        found: What was found.
        change: What should be changed; empty if nothing.
        level: The level if something should be changed.
    """
    return Finding(level if change else "ok", subject, found, change)


def print_table(findings: Sequence[Finding]) -> None:
    """Print a table for people, with what to change below what was found."""
    table = Table("", "examined", "found", box=None, pad_edge=False)
    for one in findings:
        words = Text(printable_lines(one.found))
        if one.change:
            words.append(f"\n-> {printable_lines(one.change)}", style="dim")
        table.add_row(Text(one.level, style=COLOURS[one.level]), Text(one.subject), words)
    print_tables(table)


def print_json(findings: Sequence[Finding]) -> None:
    """Print one JSON object: the worst level, and every finding."""
    worst = max((one.level for one in findings), key=list(COLOURS).index, default="ok")
    rows = [one._asdict() for one in findings]
    print(json.dumps({"level": worst, "findings": rows}, indent=1))


def must_hold(findings: Sequence[Finding]) -> None:
    """Raises ResourceError if a check of the environment failed, else DataError if one of images
    did."""
    failed = [one for one in findings if one.level == "fail"]
    environment = [one for one in failed if one.about == "environment"]
    kind = ResourceError if environment else DataError
    if failed:
        named = ", ".join(one.subject for one in environment or failed)
        raise kind(f"checks failed: {named}", remedy="follow the advice on the lines marked fail")
