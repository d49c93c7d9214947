"""What the pages on speed show of a record, between two marks: one goal of each part on the page
for users, all goals and tables on the one for maintainers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.goals import Verdict, goals, headlines, judge
from benchmarks.goals import table as goals_table
from benchmarks.record import Record, table

DOCS = Path(__file__).parents[1] / "docs"
GOALS, TABLES = DOCS / "performance.md", DOCS / "notes" / "performance.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"


def goals_part(record: Record) -> str:
    """One goal of each part, and how it was measured."""
    return f"{_measured(record)}\n\n{_goals(headlines(_judged(record)))}\n"


def tables_part(record: Record) -> str:
    """The record's goals, and every row of it."""
    machine = record.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in record.peaks.items())
    skipped = "; ".join(f"{name} ({why})" for name, why in record.skipped.items()) or "none"
    again = ", ".join(f"{part} at {commit}" for part, commit in machine.get("again", {}).items())
    return "\n".join(
        [
            _measured(record),
            f"Fastest matrix product in GFLOP/s: {peaks}. Peers left out: {skipped}.",
            *([f"Measured again later: {again}."] if again else []),
            f"Versions: {versions}.",
            "",
            "### goals",
            "",
            _goals(_judged(record)),
            "",
            table(record),
        ]
    )


def _judged(record: Record) -> list[Verdict]:
    """The verdicts on the goals that were measured."""
    return [found for found in judge(record, goals()) if found.ratio]


def _goals(verdicts: list[Verdict]) -> str:
    return goals_table(verdicts) if verdicts else "They are for models of full size."


def _measured(record: Record) -> str:
    machine, setting = record.machine, record.setting
    models = "two narrow blocks (`--quick`)" if setting["quick"] else "BEiT base"
    return (
        f"Measured {machine['date'][:10]} at commit {machine['commit']}: {models}, batch "
        f"{setting['batch']}, {setting['rounds']} rounds, {setting['threads']} threads, on "
        f"{machine['device']}; processor {machine['processor']} with {machine['cores']} cores, "
        f"{machine['capability']}, load {machine['load'][0]} at the start."
    )


def write(record: Record) -> None:
    """Put what is shown of a record between the marks of both pages."""
    for path, part in ((GOALS, goals_part(record)), (TABLES, tables_part(record))):
        text = path.read_text()
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        path.write_text(f"{before}{BEGIN}\n{part}{END}{after}")


def shown(path: Path) -> str:
    """What a page shows now."""
    return path.read_text().partition(f"{BEGIN}\n")[2].partition(END)[0]
