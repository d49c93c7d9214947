"""Nearest neighbours among frozen features: accuracy with labels, retrieval without.

Both also serve to watch a pre-training, where the best of all blocks counts.
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
"""Images compared at a time."""
SECOND_VIEW = ViewConfig(crop_scale=(0.4, 0.8), jitter=0.2)


class Nearest(NamedTuple):
    """The nearest images of each query, nearest first."""

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
    """Classify queries by a vote of their nearest known images, for all settings at once.

    The search is exact: every query is compared with every known image, a chunk of both at a time.
    Votes weigh exp(cosine / temperature), as in DINO (arXiv:2104.14294, appendix F). Features are
    standardised with the known images' mean and deviation first, since raw patch means are
    dominated by a few large dimensions.

    Args:
        features: Features of the known images.
        targets: Class of each known image.
        queries: Features of the images to classify.
        neighbours: Numbers of known images that vote, each a setting.
        temperatures: Temperatures of the votes, each a setting.
        device: Where features are compared; the answers are on the CPU.
    """
    classes, scale = int(targets.max()) + 1, moments(features)
    won = torch.zeros(len(neighbours), len(temperatures), len(queries), dtype=torch.int64)
    for start in range(0, len(queries), QUERIES):
        some = slice(start, start + QUERIES)
        directions = _directions(queries[some], scale)
        found = _nearest(features, directions, max(neighbours), scale, device)
        behind = found.cosines - found.cosines[:, :1]  # the nearest weighs 1: no weight overflows
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
    """The nearest known images of each query, found by comparing a chunk of them at a time."""
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
    """Classify queries by a vote of their nearest known images: `neighbour_votes` of one setting.

    Args:
        features: Features of the known images.
        targets: Class of each known image.
        queries: Features of the images to classify.
        neighbours: How many known images vote.
        temperature: Of the votes; the lower, the more the nearest ones count.
    """
    votes = neighbour_votes(
        features, targets, queries, neighbours=(neighbours,), temperatures=(temperature,)
    )
    return votes[0, 0]


@in_float32
def retrieval_accuracy(
    first: Float[Tensor, "images width"], second: Float[Tensor, "images width"]
) -> float:
    """Fraction of images whose nearest second view is their own; needs no labels."""
    scale = moments(second)
    similarity = _directions(first, scale) @ _directions(second, scale).t()
    return float((similarity.argmax(dim=1) == torch.arange(len(first))).float().mean())


@in_float32
def nearest_others(
    features: Float[Tensor, "images width"], queries: Int64[Tensor, " queries"], most: int
) -> Nearest:
    """The nearest other images of some images, by the cosine of standardised features.

    Args:
        features: Features of all images.
        queries: Indices of the images whose neighbours are wanted.
        most: Number of neighbours; fewer if there are not as many other images.
    """
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
    """A callable that takes a model and gives the score of its best block, and which block it is.

    The best block is chosen on the very images it is measured on: a curve to watch, not a result.

    Args:
        name: What the score is called.
        loaders: Two sets of images, or two views of one; they share a log of skipped images.
        score: Takes the features of both and the index of a block.
        device: Where the model runs.
    """

    def __init__(
        self,
        name: str,
        loaders: tuple[EvalLoader[LabelledBatch], ...] | tuple[EvalLoader[ImageBatch], ...],
        score: Callable[[FeatureTable, FeatureTable, int], float],
        device: torch.device,
    ) -> None:
        self._name, self._loaders, self._score, self._device = name, loaders, score, device
        self.skips = loaders[0].skips  # the loaders share it

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        first, second = (every_block(model, loader, self._device) for loader in self._loaders)
        scores = [self._score(first, second, block) for block in range(first.features.shape[1])]
        best = max(scores)
        return {self._name: best, f"{self._name}_block": float(scores.index(best))}


def neighbour_score(
    splits: LabelledSplits, config: PretrainRunConfig, device: torch.device
) -> BlockScore:
    """The accuracy of a nearest-neighbour vote, as a score to watch during a pre-training.

    Args:
        splits: Training images vote on the classes of the validation images.
        config: Sets how many images are used, and how they are read.
        device: Where the model runs.
    """
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
    """The fraction of images found again among second views, as a score that needs no labels.

    Args:
        source: The images.
        config: Sets how many of them are used, and how they are read.
        device: Where the model runs.
    """
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
