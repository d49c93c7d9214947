"""What every study shares: runs in one folder that go on where they stopped, and paired results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from beit import tasks
from beit.config import RunConfig
from beit.errors import RunFolderError
from beit.training.run_folder import RunFolder

ARMS = ("pre-trained", "from scratch")


class Row(NamedTuple):
    """One line of a table: scores in per cent, one per seed, of both arms."""

    method: str
    labels: str
    pretrained: list[float]
    scratch: list[float]

    @property
    def gain(self) -> list[float]:
        """The difference, seed by seed: both arms of a seed see the same labelled images."""
        return [a - b for a, b in zip(self.pretrained, self.scratch, strict=True)]


class Stages:
    """The folder of a study. What is done there is not done again."""

    def __init__(self, folder: Path, plan: Mapping[str, object]) -> None:
        """Raises RunFolderError if the folder holds a study of another plan."""
        self.folder = folder
        record = folder / "plan.json"
        if record.exists():
            if json.loads(record.read_text()) != plan:
                raise RunFolderError(
                    f"{folder} holds a study of another length or version",
                    remedy="choose another --out",
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(plan, indent=1))

    def train(self, verb: str, config: RunConfig, *, quiet: bool = False) -> Path:
        """The folder of a finished run: done before, taken up again, or done now."""
        out = Path(config.out)
        if (out / "report.html").exists() or (quiet and (out / "model").exists()):
            return out
        if not quiet:
            print(f"\n== {verb}", flush=True)
        resume = RunFolder(out).config.exists()
        getattr(tasks, verb)(config, resume=resume, quiet=quiet, report=not quiet)
        return out

    def on_test(self, run: Path, data: str) -> dict[str, Any]:
        """What `beit evaluate` finds on the test part: looked at once per model, and kept."""
        record = run / "test.json"
        if not record.exists():
            found = tasks.evaluate(str(run), data=data, split="test")
            record.write_text(json.dumps(asdict(found), indent=1))
        kept: dict[str, Any] = json.loads(record.read_text())
        return kept

    def write(self, rows: Sequence[Row], name: str = "results") -> None:
        """The table, as JSON."""
        results = [row._asdict() for row in rows]
        (self.folder / f"{name}.json").write_text(json.dumps(results, indent=1))


def as_markdown(rows: Sequence[Row], setting: str = "labels per class") -> str:
    """The table: mean and standard deviation over seeds, and the gain with its own."""
    lines = [
        f"| method | {setting} | pre-trained | from scratch | gain | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [spread(values) for values in (row.pretrained, row.scratch)]
        gain = spread(row.gain, sign="+")
        lines.append(
            f"| {row.method} | {row.labels} | {cells[0]} | {cells[1]} | {gain} "
            f"| {len(row.pretrained)} |"
        )
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} ± {statistics.stdev(values):.1f}"
