"""The metrics that a run has logged: the rows of metrics.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

from beit.training.run_folder import read_metrics

Kind = Literal["train", "evaluate"]
Point = tuple[float, float]


class History(NamedTuple):
    """Rows in the order of their steps. A value that was not finite is None."""

    rows: tuple[dict[str, Any], ...]

    def points(self, kind: Kind, name: str) -> tuple[Point, ...]:
        """The (step, value) pairs of one metric, where it is finite."""
        return tuple(
            (float(row["step"]), float(row[name]))
            for row in self.rows
            if row.get("kind") == kind and _is_finite(row.get(name))
        )

    def last(self, kind: Kind, name: str) -> float | None:
        """The newest value of a metric."""
        points = self.points(kind, name)
        return points[-1][1] if points else None

    def best(self, name: str) -> Point | None:
        """Step and value of the evaluation with the highest value, the last of equal ones."""
        return max(self.points("evaluate", name), key=lambda point: point[::-1], default=None)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Every metric of a kind, in the order of its first appearance."""
        found = {key: None for row in self.rows if row.get("kind") == kind for key in row}
        return tuple(name for name in found if name not in ("step", "kind"))

    @property
    def step(self) -> int:
        """The newest logged step; 0 before the first."""
        return max((int(row["step"]) for row in self.rows), default=0)

    def seconds(self, batch: int) -> float:
        """Seconds of training, from the logged speed; `batch` is the number of images per step."""
        before, total = 0.0, 0.0
        for step, speed in self.points("train", "images_per_second"):
            if speed > 0:
                total += (step - before) * batch / speed
            before = step
        return total


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def read_history(run: Path) -> History:
    """The metrics of a run, empty if there are none yet."""
    return History(tuple(sorted(read_metrics(run / "metrics.jsonl"), key=lambda row: row["step"])))
