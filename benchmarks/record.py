"""Records of measurements as JSON, and their tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.race import OURS, Row

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("what", "who", "median", "least", "spread", "times ours", "of peak", "uncut")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of the benchmarks."""

    machine: dict[str, Any]
    setting: dict[str, Any]
    peaks: dict[str, float]
    """GFLOP per second of the fastest matrix product, by precision."""
    rows: tuple[Row, ...]
    skipped: dict[str, str]
    """Peers that were not measured, and why."""

    @property
    def kind(self) -> str:
        """Which records may be compared: the same machine, the same models, the same threads."""
        names = ("device", "quick", "threads", "batch")
        told = [str(self.setting[name]) for name in names]
        return " ".join([self.machine["processor"], self.machine["device"], *told])

    def find(self, part: str, case: str, who: str) -> Row | None:
        """The row with these names."""
        for row in self.rows:
            if (row.part, row.case, row.who) == (part, case, who):
                return row
        return None

    def renewed(self, newer: Record) -> Record:
        """This record with the parts of a newer one in their place, told with their commit."""
        assert self.kind == newer.kind, f"{newer.kind} is not of the kind of {self.kind}"
        parts = dict.fromkeys(row.part for row in newer.rows)
        kept = tuple(row for row in self.rows if row.part not in parts)
        told, rounds = newer.machine["commit"], newer.setting["rounds"]
        told += f" ({rounds} rounds)" if rounds != self.setting["rounds"] else ""
        again = self.machine.get("again", {}) | dict.fromkeys(parts, told)
        return replace(
            self,
            machine=self.machine | {"again": again},
            peaks={name: max(peak, newer.peaks[name]) for name, peak in self.peaks.items()},
            rows=(*kept, *newer.rows),
            skipped=self.skipped | newer.skipped,
        )

    def write(self, path: Path) -> None:
        values = {
            "machine": self.machine,
            "setting": self.setting,
            "peaks": self.peaks,
            "skipped": self.skipped,
            "rows": [row._asdict() for row in self.rows],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n")


def read(path: Path) -> Record:
    values = json.loads(path.read_text())
    return Record(**(values | {"rows": tuple(Row(**row) for row in values["rows"])}))


def records(folder: Path = RESULTS) -> list[Record]:
    """All that are kept, oldest first."""
    return sorted((read(path) for path in folder.glob("*.json")), key=lambda r: r.machine["date"])


def shown(kept: list[Record]) -> Record | None:
    """The record the page shows: the newest of the full models, else the newest."""
    full = [record for record in kept if not record.setting["quick"]]
    return next(reversed(full or kept), None)


def table(record: Record) -> str:
    """Markdown: each part's rows, with how many times ours a peer took."""
    lines = []
    for part in dict.fromkeys(row.part for row in record.rows):
        lines += [f"### {part}", "", f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
        lines += [_line(row, record.peaks) for row in record.rows if row.part == part]
        lines.append("")
    return "\n".join(lines)


def _line(row: Row, peaks: dict[str, float]) -> str:
    cells = [
        row.case,
        row.who,
        _value(row.median, row.unit),
        _value(row.minimum, row.unit),
        f"{row.spread:.0%}",
        "" if row.who == OURS or not row.ratio else f"{row.ratio:.2f}",
        *(_share(work, row, peaks) for work in (row.gflops, row.uncut)),
    ]
    return f"| {' | '.join(cells)} |"


def _share(gflops: float, row: Row, peaks: dict[str, float]) -> str:
    """So much work in the time it took, as a share of the fastest matrix product."""
    return f"{gflops / row.median / peaks[row.precision]:.0%}" if gflops else ""


def _value(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.4g} {unit}".strip()
