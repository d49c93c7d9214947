"""Nearest neighbours among frozen features: accuracy with labels, retrieval without."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from beit.evaluation.precision import in_float32


@in_float32
def neighbour_accuracy(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "asked width"],
    query_targets: Int64[Tensor, " asked"],
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of queries whose class wins a vote of the nearest known pictures.

    Votes weigh exp(cosine / temperature), as in DINO (arXiv:2104.14294, appendix F). Features are
    standardised with the known pictures' mean and deviation first, since raw patch means are
    dominated by a few large dimensions.
    """
    known, asked = _standardised(features, features), _standardised(queries, features)
    classes = int(max(targets.max(), query_targets.max())) + 1
    similarity, nearest = (asked @ known.t()).topk(min(neighbours, len(known)), dim=1)
    votes = torch.zeros(len(asked), classes)
    votes.scatter_add_(1, targets[nearest], (similarity / temperature).exp())
    return float((votes.argmax(dim=1) == query_targets).float().mean())


@in_float32
def retrieval_accuracy(
    first: Float[Tensor, "pictures width"], second: Float[Tensor, "pictures width"]
) -> float:
    """Share of pictures whose nearest second view is their own: needs no labels."""
    similarity = _standardised(first, second) @ _standardised(second, second).t()
    return float((similarity.argmax(dim=1) == torch.arange(len(first))).float().mean())


def _standardised(
    features: Float[Tensor, "rows width"], reference: Float[Tensor, "known width"]
) -> Float[Tensor, "rows width"]:
    deviation = reference.std(dim=0, correction=0).clamp_min(1e-6)
    return F.normalize((features - reference.mean(dim=0)) / deviation, dim=1)
