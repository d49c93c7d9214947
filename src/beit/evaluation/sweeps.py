"""Every setting of a probe is tried on validation; only the best is measured on test."""

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
    """Which of the `depth` blocks of a backbone the tables on disk hold."""

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
    """A method with few labels per class, and its accuracy for each seed."""

    method: str
    labels: int
    accuracies: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds; 0 with a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Everything that was measured.

    For each method: the best validation score of each block, the setting that was chosen, and the
    accuracy with few labels. The latter is measured on test (on validation if there is none), at
    the block that is best for the linear probe of the mean patch.
    """

    images: dict[str, int]
    blocks: dict[str, list[float]]
    chosen: list[Chosen]
    few: list[Few]
    baselines: list[Chosen]
    """The same linear probe of the baselines, chosen by the same search."""
    few_baselines: list[Few]
    unreadable: dict[str, str]
    several: list[str]
    """Images whose file holds several, of which the first was taken."""
    notes: list[str]
    measure: str = "accuracy"
    """What the scores are: if images have several labels each, the mean average precision."""


class Sweep(NamedTuple):
    """The best validation score of each block, and the best of all."""

    blocks: list[float]
    best: Chosen


class FewLabels(NamedTuple):
    """Accuracies with few labels per class, and notes on what was left out."""

    rows: list[Few]
    notes: list[str]


def _sweep(
    method: str,
    scores: Float[Tensor, "blocks settings"],
    settings: Sequence[dict[str, float]],
    test: Callable[[int, int], float] | None,
) -> Sweep:
    """The best on validation (the first of equal ones), measured by `test(block, setting)`."""
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
    """Try linear heads on every block with every learning rate.

    Args:
        method: What the heads are given: BOTH is class token and mean patch, MEAN the mean alone.
        tables: Features and labels of each part.
        classes: Number of classes.
        config: Learning rates and how heads are trained.
        stored: Which blocks the tables are of, if they are on disk.
        device: Where the heads are trained.
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
    """Try nearest-neighbour votes at every block, with every number and temperature.

    Args:
        tables: Features and classes of each part; training images vote.
        config: Numbers of neighbours, and temperatures.
        device: Where features are compared.
    """
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
    """Try attentive probes of one block with every learning rate.

    Args:
        tables: Patches of each part, from that block.
        block: Number of the block, which the result names.
        heads: Queries of a probe.
        classes: Number of classes.
        config: Learning rates and how probes are trained.
        device: Where the probes are trained.
    """
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
"""Takes features and classes of known images, and features of others; gives the others' classes."""
LOW_SHOT: dict[str, Answers] = {"linear": linear_answers, NEIGHBOURS: neighbour_answers}
"""The methods that are measured with few labels."""


def few_labels(
    tables: Tables,
    *,
    block: int,
    classes: int,
    config: ProbeConfig,
    methods: Mapping[str, Answers] = LOW_SHOT,
) -> FewLabels:
    """Measure methods with few labels per class, on test or, without one, on validation.

    All methods see the same draws.

    Args:
        tables: Features and classes of each part.
        block: Index of the block in the tables.
        classes: Number of classes.
        config: Numbers of labels per class, and seeds of the draws.
        methods: By the name that the rows have.
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
    """Draw the indices of some images of each class.

    Args:
        targets: Class of each image.
        labels: Images drawn of each class; of a class with fewer, all.
        classes: Number of classes.
        seed: Decides which images are drawn.
    """
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[targets[order] == index][:labels] for index in range(classes)])
