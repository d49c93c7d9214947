"""Nearest neighbours among frozen features: accuracy with labels, retrieval without."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from beit.evaluation.features import standardised
from beit.evaluation.precision import in_float32


@in_float32
def neighbour_accuracies(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "asked width"],
    query_targets: Int64[Tensor, " asked"],
    *,
    neighbours: tuple[int, ...],
    temperatures: tuple[float, ...],
) -> Float[Tensor, "neighbours temperatures"]:
    """Share of queries whose class wins a vote of the nearest known images, for all settings.

    Votes weigh exp(cosine / temperature), as in DINO (arXiv:2104.14294, appendix F). Features are
    standardised with the known images' mean and deviation first, since raw patch means are
    dominated by a few large dimensions.
    """
    known, asked = _directions(features, features), _directions(queries, features)
    classes = int(max(targets.max(), query_targets.max())) + 1
    similarity, nearest = (asked @ known.t()).topk(min(max(neighbours), len(known)), dim=1)
    behind = similarity - similarity[:, :1]  # the nearest weighs 1: no temperature overflows
    accuracies = torch.zeros(len(neighbours), len(temperatures))
    for row, number in enumerate(neighbours):
        for column, temperature in enumerate(temperatures):
            votes = torch.zeros(len(asked), classes)
            weights = (behind[:, :number] / temperature).exp()
            votes.scatter_add_(1, targets[nearest[:, :number]], weights)
            accuracies[row, column] = (votes.argmax(dim=1) == query_targets).float().mean()
    return accuracies


def neighbour_accuracy(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "asked width"],
    query_targets: Int64[Tensor, " asked"],
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """`neighbour_accuracies` of one setting."""
    found = neighbour_accuracies(
        features,
        targets,
        queries,
        query_targets,
        neighbours=(neighbours,),
        temperatures=(temperature,),
    )
    return float(found)


@in_float32
def retrieval_accuracy(
    first: Float[Tensor, "images width"], second: Float[Tensor, "images width"]
) -> float:
    """Share of images whose nearest second view is their own: needs no labels."""
    similarity = _directions(first, second) @ _directions(second, second).t()
    return float((similarity.argmax(dim=1) == torch.arange(len(first))).float().mean())


class Nearest(NamedTuple):
    """The nearest other images of some, the nearest first."""

    indices: Int64[Tensor, "asked most"]
    cosines: Float[Tensor, "asked most"]


@in_float32
def nearest_others(
    features: Float[Tensor, "images width"], asked: Int64[Tensor, " asked"], most: int
) -> Nearest:
    """For each of these images the others whose standardised features point most the same way."""
    directions = _directions(features, features)
    cosines = directions[asked] @ directions.t()
    cosines[torch.arange(len(asked)), asked] = -torch.inf
    order = cosines.argsort(dim=1, descending=True, stable=True)[:, : min(most, len(features) - 1)]
    return Nearest(order, cosines.gather(1, order))


def _directions(
    features: Float[Tensor, "rows width"], reference: Float[Tensor, "known width"]
) -> Float[Tensor, "rows width"]:
    return F.normalize(standardised(features, reference), dim=1)
