"""Every setting of a probe, tried on validation; only the best is measured on test."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from beit.config.evaluate import ProbeConfig
from beit.evaluation.features import FeatureTable, Patches
from beit.evaluation.metrics import fraction_right
from beit.evaluation.neighbours import neighbour_answers, neighbour_votes
from beit.evaluation.probe import (
    CPU,
    attentive_accuracies,
    linear_answers,
    train_attentive,
    train_heads,
)
from beit.evaluation.rows import Rows

BOTH = "linear, class token and mean"
MEAN = "linear, mean"
NEIGHBOURS = "nearest neighbours"
ATTENTIVE = "attentive"

Tables = Mapping[str, FeatureTable]
"""The features of `train`, `validation` and, where there is one, `test`."""


class Stored(NamedTuple):
    """Which blocks, of how many, the tables on disk hold."""

    depth: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A method with the setting that is best on validation; scores in [0, 1]."""

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
    baselines: list[Chosen]
    """The same linear probe of what any features must beat, chosen by the same search."""
    few_baselines: list[Few]
    unreadable: dict[str, str]
    several: list[str]
    """Images that are the first of several in their file."""
    notes: list[str]
    measure: str = "accuracy"
    """What the scores are; of images with several labels each, the mean average precision."""


class Sweep(NamedTuple):
    """The best validation score of each block, and the best of all."""

    blocks: list[float]
    best: Chosen


class FewLabels(NamedTuple):
    """What few labels per class give, and what was skipped."""

    rows: list[Few]
    notes: list[str]


def _sweep(
    method: str,
    scores: Float[Tensor, "blocks settings"],
    settings: Sequence[dict[str, float]],
    test: Callable[[int, int], float] | None,
) -> Sweep:
    """The best of validation (the first of equal ones), measured by `test(block, setting)`."""
    block, place = divmod(int(scores.argmax()), len(settings))
    best = Chosen(
        method=method,
        block=block,
        setting=settings[place],
        validation=float(scores[block, place]),
        test=test(block, place) if test else None,
    )
    return Sweep(scores.amax(dim=1).tolist(), best)


def sweep_linear(
    method: str,
    tables: Tables,
    *,
    classes: int,
    config: ProbeConfig,
    stored: Stored | None = None,
    device: torch.device = CPU,
) -> Sweep:
    """Linear heads of every block and learning rate; the method, BOTH or MEAN, says on what.

    `stored`: the tables are on disk, and of these blocks only.
    """
    features = {
        part: Rows(
            *((table.features,) if method == MEAN else (table.cls, table.features)),
            on_disk=stored is not None,
        )
        for part, table in tables.items()
    }
    if config.standardise:
        features = {part: rows.standardised(features["train"]) for part, rows in features.items()}
    heads = train_heads(
        features["train"],
        tables["train"].targets,
        classes=classes,
        config=config,
        some=stored and (stored.depth, stored.blocks),
        device=device,
    )

    def score(part: str) -> Tensor:
        return heads.score(features[part], tables[part].targets)

    def test(block: int, rate: int) -> float:
        return float(score("test")[block, rate])

    settings = [{"lr": rate} for rate in config.learning_rates]
    return _sweep(method, score("validation"), settings, test if "test" in tables else None)


def sweep_neighbours(tables: Tables, *, config: ProbeConfig, device: torch.device = CPU) -> Sweep:
    """Votes of every block, number of neighbours and temperature."""
    known = tables["train"]
    numbers, temperatures = config.neighbours, config.temperatures

    def accuracies(
        part: str, block: int, numbers: tuple[int, ...], temperatures: tuple[float, ...]
    ) -> Tensor:
        won = neighbour_votes(
            known.features[:, block],
            known.targets,
            tables[part].features[:, block],
            neighbours=numbers,
            temperatures=temperatures,
            device=device,
        )
        return (won == tables[part].targets).float().mean(dim=2).flatten()

    def test(block: int, place: int) -> float:
        row, column = divmod(place, len(temperatures))
        return float(accuracies("test", block, (numbers[row],), (temperatures[column],)))

    blocks = range(known.features.shape[1])
    scores = torch.stack([accuracies("validation", at, numbers, temperatures) for at in blocks])
    settings = [{"neighbours": float(n), "temperature": t} for n in numbers for t in temperatures]
    return _sweep(NEIGHBOURS, scores, settings, test if "test" in tables else None)


def sweep_attentive(
    tables: Mapping[str, Patches],
    *,
    block: int,
    heads: int,
    classes: int,
    config: ProbeConfig,
    device: torch.device = CPU,
) -> Chosen:
    """All learning rates on the patches of one block."""
    probes = train_attentive(
        tables["train"], heads=heads, classes=classes, config=config, device=device
    )
    scores = torch.tensor([attentive_accuracies(probes, tables["validation"])])
    settings = [{"lr": rate} for rate in config.learning_rates]

    def test(_: int, place: int) -> float:
        return attentive_accuracies([probes[place]], tables["test"])[0]

    sweep = _sweep(ATTENTIVE, scores, settings, test if "test" in tables else None)
    return replace(sweep.best, block=block)


Answers = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The features of known images and their classes, and the features of others: to their classes."""
LOW_SHOT: dict[str, Answers] = {"linear": linear_answers, NEIGHBOURS: neighbour_answers}
"""What is measured with few labels."""


def few_labels(
    tables: Tables,
    *,
    block: int,
    classes: int,
    config: ProbeConfig,
    methods: Mapping[str, Answers] = LOW_SHOT,
) -> FewLabels:
    """Some labels per class at one block, on test or, without one, on validation.

    All methods see the same draws.
    """
    known, queries = tables["train"], tables.get("test", tables["validation"])
    least = int(torch.bincount(known.targets, minlength=classes).min())
    found = FewLabels([], [])
    for labels in config.shots:
        if labels > least:
            found.notes.append(f"{labels} labels per class left out: one class has {least}")
            continue
        draws = [
            draw(known.targets, labels, classes, seed)
            for seed in range(config.seed, config.seed + config.seeds)
        ]
        for name, answers in methods.items():
            accuracies = [
                fraction_right(
                    answers(
                        known.features[rows, block],
                        known.targets[rows],
                        queries.features[:, block],
                    ),
                    queries.targets,
                )
                for rows in draws
            ]
            found.rows.append(Few(method=name, labels=labels, accuracies=accuracies))
    return found


def draw(
    targets: Int64[Tensor, " images"], labels: int, classes: int, seed: int
) -> Int64[Tensor, " drawn"]:
    """So many images of each class."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[targets[order] == index][:labels] for index in range(classes)])
