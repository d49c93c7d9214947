"""What docs/performance.md shows of a record, between two marks."""

from __future__ import annotations

from pathlib import Path

from benchmarks.goals import goals, judge
from benchmarks.goals import table as goals_table
from benchmarks.record import Record, table

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"


def page(record: Record) -> str:
    """What stands between the marks of docs/performance.md."""
    machine, setting = record.machine, record.setting
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    models = "two narrow blocks (`--quick`)" if setting["quick"] else "BEiT base"
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in record.peaks.items())
    skipped = "; ".join(f"{name} ({why})" for name, why in record.skipped.items()) or "none"
    load = machine["load"][0]
    again = ", ".join(f"{part} at {commit}" for part, commit in machine.get("again", {}).items())
    return "\n".join(
        [
            f"Measured {machine['date'][:10]} at commit {machine['commit']}: {models}, batch "
            f"{setting['batch']}, {setting['rounds']} rounds, {setting['threads']} threads, on "
            f"{machine['device']}; processor {machine['processor']} with {machine['cores']} cores, "
            f"{machine['capability']}, load {load} at the start.",
            f"Fastest matrix product in GFLOP/s: {peaks}. Peers left out: {skipped}.",
            *([f"Measured again later: {again}."] if again else []),
            f"Versions: {versions}.",
            "",
            "### Goals",
            "",
            *_goals(record),
            table(record),
        ]
    )


def _goals(record: Record) -> list[str]:
    verdicts = [found for found in judge(record, goals()) if found.ratio]
    return [goals_table(verdicts), ""] if verdicts else ["They are for models of full size.", ""]


def write(record: Record, path: Path = PAGE) -> None:
    """Put the tables of a record between the marks."""
    text = path.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{page(record)}{END}{after}")


def shown(path: Path = PAGE) -> str:
    """What the page shows now."""
    return path.read_text().partition(f"{BEGIN}\n")[2].partition(END)[0]
