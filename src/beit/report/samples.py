"""Which images a report looks at: always the same ones, and no more than the machine affords."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

from beit.batch import Batch
from beit.config.data import LoaderConfig
from beit.data.loader import View, evaluate_batches
from beit.data.pixel_types import ValueRange
from beit.data.sources import ImageSource, select

Kind = TypeVar("Kind", bound=Batch)

FEWEST = 8
BATCH = 16
BUDGET = {"cpu": 4e11, "cuda": 4e13}
"""Operations spent on one section: some seconds on two cores, or on any GPU."""


def affordable(model: nn.Module, positions: int, device: torch.device, most: int) -> int:
    """How many images of so many positions a section reads: from FEWEST to `most`.

    A function of the model, not of a clock, so that the same report shows the same images.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    operations = 2 * max(weights, 1) * positions
    return max(FEWEST, min(most, int(BUDGET.get(device.type, BUDGET["cpu"]) / operations)))


def named(source: ImageSource, keys: Sequence[str]) -> ImageSource:
    """The images of these names, in this order."""
    places = {source.key(index): index for index in range(len(source))}
    return select(source, [places[key] for key in keys])


def batches(
    kind: type[Kind],
    source: ImageSource,
    view: View,
    channels: int,
    value_range: ValueRange | None = None,
    batch: int = BATCH,
) -> Iterator[Kind]:
    """One ordered pass, read in this process. Errors: DataError if no image can be read."""
    loader = LoaderConfig(workers=0, cache=False, value_range=value_range)
    for found in evaluate_batches(source, view, channels=channels, batch=batch, config=loader):
        assert isinstance(found, kind)
        yield found


def best_typical_worst(scores: list[float], each: int) -> list[tuple[str, int]]:
    """Indices with their names: `each` from the middle of the scores, best and worst; few: all."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    if len(order) <= 3 * each:
        return [("", index) for index in order]
    middle = (len(order) - each) // 2
    groups = {
        "typical": order[middle : middle + each],
        "best": order[:each],
        "worst": order[-each:],
    }
    return [(name, index) for name, members in groups.items() for index in members]
