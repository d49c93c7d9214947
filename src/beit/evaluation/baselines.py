"""What any features must beat: colours, texture, a thumbnail, and the backbone before any training.

An accuracy alone says little. Where a colour histogram answers as well as a pre-trained backbone,
the classes differ in colour; where the untrained backbone does, nothing was learned that helps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from beit.batch import ImageBatch, LabelledBatch
from beit.config.model import VisionTransformerConfig
from beit.evaluation.features import FeatureTable, pool_blocks
from beit.evaluation.metrics import DEVIATIONS, fraction_right
from beit.evaluation.probe import linear_answers
from beit.models.vit import VisionTransformer

HISTOGRAM = "colour histogram"
STATISTICS = "colour and texture statistics"
PIXELS = "16 x 16 pixels"
UNTRAINED = "untrained backbone"
BINS = 6
"""Per channel of RGB images; others have 36, so that gray ones have not too few numbers."""
THUMBNAIL = 16
ORIENTATIONS = 8
"""Bins of the orientation of edges, over half a turn."""
SCALES = 3
"""Scales at which edges are measured, each half as fine as the one before."""

Batch = TypeVar("Batch", bound=ImageBatch | LabelledBatch)


def colour_histogram(
    images: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch bins"]:
    """Fraction of pixels in each cell of the colour space.

    Three channels share one histogram of 6 x 6 x 6 cells; with any other number of channels, each
    has its own of 36 cells.
    """
    channels = images.shape[1]
    if channels == 3:
        cells = (images.long() * BINS).div(256, rounding_mode="floor")
        index = (cells[:, 0] * BINS + cells[:, 1]) * BINS + cells[:, 2]
        counts = _count(index.flatten(1), BINS**3)
    else:
        cells = (images.long() * BINS**2).div(256, rounding_mode="floor")
        counts = torch.cat([_count(band.flatten(1), BINS**2) for band in cells.unbind(1)], dim=1)
    return counts / images.shape[2:].numel()


def _count(cells: Tensor, number: int) -> Tensor:
    counts = torch.zeros(len(cells), number, device=cells.device)
    return counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=counts.dtype))


def thumbnail(
    images: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch pixels"]:
    """The image at 16 x 16 pixels (mean of each cell), in [0, 1]."""
    return F.adaptive_avg_pool2d(images.float() / 255, THUMBNAIL).flatten(1)


def statistics(
    images: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch numbers"]:
    """Mean, deviation and skewness of each channel, and the strength of edges of each orientation
    in the mean over the channels, at several scales."""
    pixels = images.float() / 255
    values = pixels.flatten(2)
    mean, deviation = values.mean(dim=2), values.std(dim=2)
    away = (values - mean[:, :, None]) / (deviation[:, :, None] + 1e-6)
    found = [mean, deviation, away.pow(3).mean(dim=2)]
    gray = pixels.mean(dim=1, keepdim=True)
    for _ in range(SCALES):
        down = gray[:, 0, 1:, :-1] - gray[:, 0, :-1, :-1]
        across = gray[:, 0, :-1, 1:] - gray[:, 0, :-1, :-1]
        turn = (torch.atan2(down, across) / torch.pi * ORIENTATIONS).long() % ORIENTATIONS
        strength = torch.hypot(down, across).flatten(1)
        sums = torch.zeros(len(images), ORIENTATIONS, device=images.device)
        found.append(sums.scatter_add_(1, turn.flatten(1), strength) / strength.shape[1])
        gray = F.avg_pool2d(gray, 2)
    return torch.cat(found, dim=1)


TRIVIAL: dict[str, Callable[[Tensor], Tensor]] = {
    HISTOGRAM: colour_histogram,
    STATISTICS: statistics,
    PIXELS: thumbnail,
}
"""Features that need no training."""


def untrained_like(config: VisionTransformerConfig, seed: int) -> VisionTransformer:
    """The same backbone with its initial weights; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(config).eval()


class Comparison(NamedTuple):
    """How a score compares with the best baseline."""

    beyond: bool
    """Whether it is better by more than the 95 % interval of the difference."""
    text: str


def compare(
    best: tuple[str, float], trivial: tuple[str, float], frequent: float, images: int
) -> Comparison:
    """Compare what was trained with the best baseline and with the most frequent class.

    The difference from the better of these two has the 95 % interval of independent images.

    Args:
        best: Name and accuracy of what was trained.
        trivial: Name and accuracy of the best baseline.
        frequent: Accuracy of always answering the most frequent training class.
        images: Number of images on which the accuracies were measured.
    """
    bar = max(trivial[1], frequent)
    gain = best[1] - bar
    variance = sum(score * (1 - score) for score in (best[1], bar)) / images
    doubt = DEVIATIONS * math.sqrt(variance)
    change = "a gain" if gain >= 0 else "a loss"
    text = (
        f"the {best[0]} gets {best[1]:.1%} of {images} images right, the best baseline "
        f"({trivial[0]}) {trivial[1]:.1%}, always answering the most frequent training class "
        f"{frequent:.1%}: {change} of {100 * abs(gain):.1f} ± {100 * doubt:.1f} points (95 %)"
    )
    text += ", compared with that class" * (frequent > trivial[1])
    return Comparison(gain > doubt, text)


class Baselines:
    """Collects the features of the baselines while batches pass on their way to the backbone.

    So no image is decoded twice. `untrained` is a backbone with its initial weights.
    """

    def __init__(self, untrained: VisionTransformer, device: torch.device) -> None:
        self._device = device
        blocks = tuple(range(untrained.config.depth))
        self._features: dict[str, Callable[[Tensor], Tensor]] = TRIVIAL | {
            UNTRAINED: lambda images: pool_blocks(untrained, images, blocks).means
        }
        self._rows: dict[str, list[Tensor]] = {name: [] for name in self._features}

    def passing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, whose features are taken as they pass."""
        for batch in batches:
            images = batch.images.to(self._device)
            with torch.no_grad():
                for name, features in self._features.items():
                    found = features(images).float().cpu()
                    self._rows[name].append(found if found.ndim == 3 else found[:, None])
            yield batch

    def features(self) -> dict[str, Float[Tensor, "images blocks width"]]:
        """The features of all images that have passed, by baseline."""
        return {name: torch.cat(rows) for name, rows in self._rows.items()}

    def tables(self, table: FeatureTable) -> Mapping[str, FeatureTable]:
        """One table per baseline; targets and keys are those of a table of the same batches."""
        return {
            name: FeatureTable(features, table.targets, table.keys, features[..., :0])
            for name, features in self.features().items()
        }


def baseline_accuracies(
    untrained: VisionTransformer,
    known: Iterable[LabelledBatch],
    queries: Iterable[LabelledBatch],
    device: torch.device,
) -> dict[str, float]:
    """The accuracy of a linear classifier (`linear_answers`) on the features of each baseline.

    Of the untrained backbone the block with the highest accuracy counts.

    Args:
        untrained: A backbone with its initial weights, on `device`.
        known: Images from which the classifiers learn.
        queries: Images on which the accuracy is measured.
        device: Where the features are computed.
    """
    features, targets = [], []
    for batches in (known, queries):
        collected = Baselines(untrained, device)
        targets.append(torch.cat([batch.targets for batch in collected.passing(batches)]))
        features.append(collected.features())
    classes, right = targets
    learned, measured = features

    def accuracy(name: str, block: int) -> float:
        answers = linear_answers(learned[name][:, block], classes, measured[name][:, block])
        return fraction_right(answers, right)

    return {
        name: max(accuracy(name, block) for block in range(rows.shape[1]))
        for name, rows in learned.items()
    }
