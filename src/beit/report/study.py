"""The page of a study: what it says in one sentence, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from beit.atomic_io import replace_file
from beit.report.markup import render


class StudyTable(NamedTuple):
    """A table with what it shows."""

    title: str
    explanation: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class StudyPage(NamedTuple):
    """All that the page has."""

    title: str
    verdict: str
    tables: tuple[StudyTable, ...]
    next: str
    """Commands that go on from it; empty while there are none."""


def write_study_page(place: Path, page: StudyPage) -> None:
    """Write the page, in place of an earlier one."""
    replace_file(place, [render("study.html.j2", page=page).encode()])
