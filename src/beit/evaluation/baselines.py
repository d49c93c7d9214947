"""What any features must beat: colours, a thumbnail, and the same backbone before any training.

An accuracy says little alone. Where a colour histogram answers as well as a pre-trained backbone,
the classes differ in colour; where the untrained backbone does, nothing was learned that helps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from beit.batch import ImageBatch, LabelledBatch
from beit.evaluation.features import FeatureTable, pool_blocks
from beit.models.vit import VisionTransformer

HISTOGRAM = "colour histogram"
PIXELS = "16 x 16 pixels"
UNTRAINED = "untrained backbone"
BINS = 6
"""Per channel; of one or two channels 36, so that gray images have about as many numbers."""
THUMBNAIL = 16

Batch = TypeVar("Batch", bound=ImageBatch | LabelledBatch)


def colour_histogram(
    images: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch bins"]:
    """Fraction of pixels in each cell of the space of colours.

    Three channels share one histogram of 6 x 6 x 6 cells; of any other number each has its own of
    36 cells.
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


class Baselines:
    """Collects the features of the baselines while the batches pass on their way to the backbone.

    No image is decoded a second time. `untrained` must be a backbone with its first weights.
    """

    def __init__(self, untrained: VisionTransformer, device: torch.device) -> None:
        self._device = device
        blocks = tuple(range(untrained.config.depth))
        self._features: dict[str, Callable[[Tensor], Tensor]] = {
            HISTOGRAM: lambda images: colour_histogram(images)[:, None],
            PIXELS: lambda images: thumbnail(images)[:, None],
            UNTRAINED: lambda images: pool_blocks(untrained, images, blocks).means,
        }
        self._rows: dict[str, list[Tensor]] = {name: [] for name in self._features}

    def passing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches."""
        for batch in batches:
            images = batch.images.to(self._device)
            with torch.no_grad():
                for name, features in self._features.items():
                    self._rows[name].append(features(images).float().cpu())
            yield batch

    def tables(self, table: FeatureTable) -> Mapping[str, FeatureTable]:
        """One table per baseline, with the targets and keys of the table of the same batches."""
        found = {name: torch.cat(rows) for name, rows in self._rows.items()}
        return {
            name: FeatureTable(features, table.targets, table.keys, features[..., :0])
            for name, features in found.items()
        }
