"""What the probes of frozen features found."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A method with the setting that is best on validation; shares in [0, 1]."""

    method: str
    block: int
    setting: dict[str, float]
    validation: float
    test: float | None


@dataclass(frozen=True, kw_only=True)
class Few:
    """A method with few labels per class: an accuracy per seed."""

    method: str
    labels: int
    accuracies: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Over the seeds; 0 with a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Everything that was measured: per method the best validation accuracy of each block, the
    choice, and few labels on test (validation without one), at the block of the linear mean."""

    images: dict[str, int]
    blocks: dict[str, list[float]]
    chosen: list[Chosen]
    few: list[Few]
    unreadable: dict[str, str]
    several: list[str]
    """Images that are the first of several in their file."""
    notes: list[str]
    measure: str = "accuracy"
    """What the scores are; of images with several labels each, the mean average precision."""
