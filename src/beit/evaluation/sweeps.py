"""Every setting of a probe, tried on validation; only the best is measured on test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from beit.config.probe import ProbeConfig
from beit.evaluation.attentive import attentive_accuracy, train_attentive
from beit.evaluation.features import FeatureTable, PatchTable, standardised
from beit.evaluation.heads import train_heads
from beit.evaluation.linear import linear_accuracy
from beit.evaluation.neighbours import neighbour_accuracies, neighbour_accuracy
from beit.evaluation.probes import Chosen, Few

BOTH = "linear, class token and mean"
MEAN = "linear, mean"
NEIGHBOURS = "nearest neighbours"
ATTENTIVE = "attentive"

Tables = Mapping[str, FeatureTable]
"""The features of `train`, `validation` and, where there is one, `test`."""


class Sweep(NamedTuple):
    """The best validation score of each block, and the best of all."""

    blocks: list[float]
    best: Chosen


class FewLabels(NamedTuple):
    """What few labels per class give, and what was left out."""

    rows: list[Few]
    notes: list[str]


def sweep_linear(method: str, tables: Tables, *, classes: int, config: ProbeConfig) -> Sweep:
    """Linear heads of every block and learning rate; the method, BOTH or MEAN, says on what."""
    features = {
        part: table.features if method == MEAN else torch.cat([table.cls, table.features], dim=2)
        for part, table in tables.items()
    }
    if config.standardise:
        features = {
            part: standardised(values, features["train"]) for part, values in features.items()
        }
    heads = train_heads(features["train"], tables["train"].targets, classes=classes, config=config)
    scores = heads.score(features["validation"], tables["validation"].targets)
    block, rate = _best(scores)
    test = None
    if "test" in tables:
        test = float(heads.score(features["test"], tables["test"].targets)[block, rate])
    best = Chosen(
        method=method,
        block=block,
        setting={"lr": config.learning_rates[rate]},
        validation=float(scores[block, rate]),
        test=test,
    )
    return Sweep(scores.amax(dim=1).tolist(), best)


def sweep_neighbours(tables: Tables, *, config: ProbeConfig) -> Sweep:
    """Votes of every block, number of neighbours and temperature."""
    known = tables["train"]

    def accuracies(
        part: str, block: int, numbers: tuple[int, ...], temperatures: tuple[float, ...]
    ) -> Tensor:
        asked = tables[part]
        return neighbour_accuracies(
            known.features[:, block],
            known.targets,
            asked.features[:, block],
            asked.targets,
            neighbours=numbers,
            temperatures=temperatures,
        )

    scores = torch.stack(
        [
            accuracies("validation", block, config.neighbours, config.temperatures).flatten()
            for block in range(known.features.shape[1])
        ]
    )
    block, place = _best(scores)
    row, column = divmod(place, len(config.temperatures))
    number, temperature = config.neighbours[row], config.temperatures[column]
    best = Chosen(
        method=NEIGHBOURS,
        block=block,
        setting={"neighbours": float(number), "temperature": temperature},
        validation=float(scores[block, place]),
        test=float(accuracies("test", block, (number,), (temperature,)))
        if "test" in tables
        else None,
    )
    return Sweep(scores.amax(dim=1).tolist(), best)


def sweep_attentive(
    tables: Mapping[str, PatchTable], *, block: int, heads: int, classes: int, config: ProbeConfig
) -> Chosen:
    """All learning rates on the patches of one block."""
    probes = [
        train_attentive(tables["train"], heads=heads, classes=classes, rate=rate, config=config)
        for rate in config.learning_rates
    ]
    scores = [attentive_accuracy(each, tables["validation"]) for each in probes]
    place = scores.index(max(scores))
    return Chosen(
        method=ATTENTIVE,
        block=block,
        setting={"lr": config.learning_rates[place]},
        validation=scores[place],
        test=attentive_accuracy(probes[place], tables["test"]) if "test" in tables else None,
    )


def few_labels(tables: Tables, *, block: int, classes: int, config: ProbeConfig) -> FewLabels:
    """Some labels per class at one block, on test or, without one, on validation; both methods see
    the same draws."""
    known, asked = tables["train"], tables.get("test", tables["validation"])
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
        for name, method in (("linear", linear_accuracy), (NEIGHBOURS, neighbour_accuracy)):
            accuracies = [
                method(
                    known.features[rows, block],
                    known.targets[rows],
                    asked.features[:, block],
                    asked.targets,
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


def _best(scores: Float[Tensor, "blocks settings"]) -> tuple[int, int]:
    """Row and column of the largest score; the first of equal ones."""
    return divmod(int(scores.argmax()), scores.shape[1])
