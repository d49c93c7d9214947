"""Nearest neighbours among frozen features: accuracy with labels, retrieval without.

Also for watching a pre-training, where the best of all blocks counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.batch import ImageBatch, LabelledBatch, SkipLog
from beit.config.data import ViewConfig
from beit.config.runs import PretrainRunConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import LabelledSplits
from beit.data.loader import View
from beit.data.sources import ImageSource, evenly
from beit.data.transforms import SingleView
from beit.evaluation.eval_loader import EvalLoader, Kind
from beit.evaluation.features import FeatureTable, Moments, every_block, moments
from beit.evaluation.metrics import fraction_right, in_float32

CPU = torch.device("cpu")
QUERIES, KNOWN = 2048, 32768
"""Images that are compared at a time."""
SECOND_VIEW = ViewConfig(crop_scale=(0.4, 0.8), jitter=0.2)


class Nearest(NamedTuple):
    """The nearest other images of some, the nearest first."""

    indices: Int64[Tensor, "queries most"]
    cosines: Float[Tensor, "queries most"]


@in_float32
def neighbour_votes(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "queries width"],
    *,
    neighbours: tuple[int, ...],
    temperatures: tuple[float, ...],
    device: torch.device = CPU,
) -> Int64[Tensor, "neighbours temperatures queries"]:
    """The class that wins a vote of the nearest known images, for all settings. Exact: all are
    compared, a stretch of both at a time.

    Votes weigh exp(cosine / temperature), as in DINO (arXiv:2104.14294, appendix F). Features are
    standardised with the known images' mean and deviation first, since raw patch means are
    dominated by a few large dimensions.
    """
    classes, scale = int(targets.max()) + 1, moments(features)
    won = torch.zeros(len(neighbours), len(temperatures), len(queries), dtype=torch.int64)
    for start in range(0, len(queries), QUERIES):
        some = slice(start, start + QUERIES)
        directions = _directions(queries[some], scale)
        found = _nearest(features, directions, max(neighbours), scale, device)
        behind = found.cosines - found.cosines[:, :1]  # the nearest weighs 1: none overflows
        for row, number in enumerate(neighbours):
            for column, temperature in enumerate(temperatures):
                votes = torch.zeros(len(directions), classes)
                weights = (behind[:, :number] / temperature).exp()
                votes.scatter_add_(1, targets[found.indices[:, :number]], weights)
                won[row, column, some] = votes.argmax(dim=1)
    return won


def _nearest(
    known: Float[Tensor, "known width"],
    directions: Float[Tensor, "queries width"],
    most: int,
    scale: Moments,
    device: torch.device,
) -> Nearest:
    """The nearest of all known images, which are compared with a stretch of them at a time."""
    directions = directions.to(device)
    best, places = torch.zeros(len(directions), 0), torch.zeros(len(directions), 0).long()
    for start in range(0, len(known), KNOWN):
        some = _directions(known[start : start + KNOWN], scale).to(device)
        cosines, indices = (directions @ some.t()).topk(min(most, len(some)), dim=1)
        best = torch.cat([best, cosines.cpu()], dim=1)
        places = torch.cat([places, indices.cpu() + start], dim=1)
        best, order = best.topk(min(most, best.shape[1]), dim=1)
        places = places.gather(1, order)
    return Nearest(places, best)


def neighbour_answers(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "queries width"],
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Int64[Tensor, " queries"]:
    """`neighbour_votes` of one setting."""
    votes = neighbour_votes(
        features, targets, queries, neighbours=(neighbours,), temperatures=(temperature,)
    )
    return votes[0, 0]


@in_float32
def retrieval_accuracy(
    first: Float[Tensor, "images width"], second: Float[Tensor, "images width"]
) -> float:
    """Fraction of images whose nearest second view is their own: needs no labels."""
    scale = moments(second)
    similarity = _directions(first, scale) @ _directions(second, scale).t()
    return float((similarity.argmax(dim=1) == torch.arange(len(first))).float().mean())


@in_float32
def nearest_others(
    features: Float[Tensor, "images width"], queries: Int64[Tensor, " queries"], most: int
) -> Nearest:
    """For each of these images the others whose standardised features point most the same way."""
    directions = _directions(features, moments(features))
    cosines = directions[queries] @ directions.t()
    cosines[torch.arange(len(queries)), queries] = -torch.inf
    order = cosines.argsort(dim=1, descending=True, stable=True)[:, : min(most, len(features) - 1)]
    return Nearest(order, cosines.gather(1, order))


def _directions(
    features: Float[Tensor, "rows width"], scale: Moments
) -> Float[Tensor, "rows width"]:
    return F.normalize((features - scale.mean) / scale.deviation, dim=1)


class BlockScore:
    """Called with a model: the score of its best block by two sets of images, and which it is.

    The best block is chosen on the very images it is measured on: a curve to watch, not a result.
    """

    def __init__(
        self,
        name: str,
        loaders: tuple[EvalLoader[LabelledBatch], ...] | tuple[EvalLoader[ImageBatch], ...],
        score: Callable[[FeatureTable, FeatureTable, int], float],
        device: torch.device,
    ) -> None:
        self._name, self._loaders, self._score, self._device = name, loaders, score, device
        self.skips = loaders[0].skips  # which they share

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        first, second = (every_block(model, loader, self._device) for loader in self._loaders)
        scores = [self._score(first, second, block) for block in range(first.features.shape[1])]
        best = max(scores)
        return {self._name: best, f"{self._name}_block": float(scores.index(best))}


def neighbour_score(
    splits: LabelledSplits, config: PretrainRunConfig, device: torch.device
) -> BlockScore:
    """Accuracy of a nearest-neighbour vote among labelled images."""
    view = EvaluationView(config.model.size, config.evaluation_crop)

    def score(known: FeatureTable, queries: FeatureTable, block: int) -> float:
        answers = neighbour_answers(
            known.features[:, block], known.targets, queries.features[:, block]
        )
        return fraction_right(answers, queries.targets)

    parts = splits.train, splits.validation
    skips = SkipLog()
    loaders = tuple(_loader(LabelledBatch, part, view, config, skips) for part in parts)
    return BlockScore("neighbours", loaders, score, device)


def retrieval_score(
    source: ImageSource, config: PretrainRunConfig, device: torch.device
) -> BlockScore:
    """Fraction of images found again among second views: needs no labels."""
    size = config.model.size

    def score(first: FeatureTable, second: FeatureTable, block: int) -> float:
        return retrieval_accuracy(first.features[:, block], second.features[:, block])

    views: tuple[View, ...] = (
        EvaluationView(size, config.evaluation_crop, labelled=False),
        SingleView(config=SECOND_VIEW, size=size),
    )
    skips = SkipLog()
    loaders = tuple(_loader(ImageBatch, source, view, config, skips) for view in views)
    return BlockScore("retrieval", loaders, score, device)


def _loader(
    kind: type[Kind], source: ImageSource, view: View, config: PretrainRunConfig, skips: SkipLog
) -> EvalLoader[Kind]:
    return EvalLoader(
        kind,
        evenly(source, config.knn_images),
        view,
        size=config.model.size,
        channels=config.model.channels,
        loader=config.loader,
        skips=skips,
    )
