"""Frozen features of many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor, nn

from beit.batch import ImageBatch, LabelledBatch
from beit.models.heads import BackboneModel
from beit.models.vit import VisionTransformer


class FeatureTable(NamedTuple):
    """One row per image: mean patch vector of each selected block, with labels and keys."""

    features: Float[Tensor, "images blocks width"]
    targets: Int64[Tensor, " images"] | Bool[Tensor, "images classes"]
    keys: tuple[str, ...]
    cls: Float[Tensor, "images blocks width"]
    """The class token after each of these blocks."""


@runtime_checkable
class Patches(Protocol):
    """Every patch vector of one block, of images with one class each."""

    width: int

    def __len__(self) -> int:
        """Number of images."""

    def batches(
        self, order: Int64[Tensor, " images"], batch: int
    ) -> Iterator[tuple[Float16[Tensor, "batch patches width"], Int64[Tensor, " batch"]]]:
        """Patches and classes of the images, in the given order of their indices."""


class PatchTable:
    """Patches in memory."""

    def __init__(
        self, patches: Float16[Tensor, "images patches width"], targets: Int64[Tensor, " images"]
    ) -> None:
        self.patches, self.targets, self.width = patches, targets, patches.shape[2]

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, order: Int64[Tensor, " images"], batch: int
    ) -> Iterator[tuple[Float16[Tensor, "batch patches width"], Int64[Tensor, " batch"]]]:
        for rows in order.split(batch):
            yield self.patches[rows], self.targets[rows]


class PatchStream:
    """Patches that do not fit in memory: the images are read again each time.

    Args:
        backbone: On `device`.
        read: Takes indices of images and a batch size; gives batches of these images, in order.
        readable: Indices, as `read` takes them, of the images that can be read.
        block: The block whose output is taken.
        device: Where the backbone runs.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        read: Callable[[np.ndarray, int], Iterable[LabelledBatch]],
        readable: np.ndarray,
        *,
        block: int,
        device: torch.device,
    ) -> None:
        self._backbone, self._read, self._readable = backbone, read, readable
        self._block, self._device = block, device
        self.width = backbone.config.width

    def __len__(self) -> int:
        return len(self._readable)

    def batches(
        self, order: Int64[Tensor, " images"], batch: int
    ) -> Iterator[tuple[Float16[Tensor, "batch patches width"], Int64[Tensor, " batch"]]]:
        for read in self._read(self._readable[order.numpy()], batch):
            yield _patches_of(self._backbone, read.images, self._block, self._device), read.targets


class PooledBlocks(NamedTuple):
    """The output of some blocks, one vector per image."""

    means: Float[Tensor, "batch blocks width"]
    """Means over all patches."""
    cls: Float[Tensor, "batch blocks width"]


def pool_blocks(
    backbone: VisionTransformer, images: Tensor, out_indices: tuple[int, ...]
) -> PooledBlocks:
    """Mean patch and class token of the raw output of each selected block, fp32.

    Args:
        backbone: On the device of the images.
        images: A batch as the model sees it.
        out_indices: The selected blocks, counted from 0.
    """
    outputs = backbone(images, out_indices=out_indices).intermediates
    return PooledBlocks(
        torch.stack([output[:, 1:].float().mean(dim=1) for output in outputs], dim=1),
        torch.stack([output[:, 0].float() for output in outputs], dim=1),
    )


@torch.no_grad()
def extract_features(
    backbone: VisionTransformer,
    batches: Iterable[ImageBatch | LabelledBatch],
    *,
    out_indices: tuple[int, ...],
    device: torch.device,
    into: PooledBlocks | None = None,
) -> FeatureTable:
    """Class token and mean over the other patches of the raw output of each selected block, fp32.

    Unlabelled images get the target -1.

    Args:
        backbone: On `device`.
        batches: At least one image.
        out_indices: The selected blocks, counted from 0.
        device: Where the backbone runs.
        into: Tensors to write the features to, such as on disk; by default they stay in memory.
    """
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    keys: list[str] = []
    for batch in batches:
        means, tokens = pool_blocks(backbone, batch.images.to(device), out_indices)
        unlabelled = torch.full((len(batch.keys),), -1)
        targets = batch.targets if isinstance(batch, LabelledBatch) else unlabelled
        if into is None:
            rows.append((means.cpu(), targets, tokens.cpu()))
        else:
            here = slice(len(keys), len(keys) + len(batch.keys))
            into.means[here], into.cls[here] = means.cpu(), tokens.cpu()
            rows.append((means[:0].cpu(), targets, tokens[:0].cpu()))
        keys += batch.keys
    features, targets, cls = (torch.cat(column) for column in zip(*rows, strict=True))
    if into is not None:
        features, cls = into.means[: len(keys)], into.cls[: len(keys)]
    return FeatureTable(features, targets, tuple(keys), cls)


def every_block(
    model: nn.Module, batches: Iterable[ImageBatch | LabelledBatch], device: torch.device
) -> FeatureTable:
    """`extract_features` of all blocks of a model with a backbone.

    Args:
        model: A `BackboneModel`, on `device`.
        batches: At least one image.
        device: Where the model runs.
    """
    assert isinstance(model, BackboneModel)
    blocks = tuple(range(model.backbone.config.depth))
    return extract_features(model.backbone, batches, out_indices=blocks, device=device)


@torch.no_grad()
def extract_patches(
    backbone: VisionTransformer,
    batches: Iterable[LabelledBatch],
    *,
    block: int,
    device: torch.device,
) -> PatchTable:
    """The raw patch vectors of one block, kept in memory as fp16.

    Args:
        backbone: On `device`.
        batches: At least one image.
        block: The block whose output is taken, counted from 0.
        device: Where the backbone runs.
    """
    rows = [
        (_patches_of(backbone, batch.images, block, device).cpu(), batch.targets)
        for batch in batches
    ]
    return PatchTable(*(torch.cat(column) for column in zip(*rows, strict=True)))


@torch.no_grad()
def _patches_of(
    backbone: VisionTransformer, images: Tensor, block: int, device: torch.device
) -> Float16[Tensor, "batch patches width"]:
    """The raw patch vectors of one block in fp16."""
    output = backbone(images.to(device), out_indices=(block,)).intermediates[0]
    patches: Tensor = output[:, 1:].half()
    return patches


class Moments(NamedTuple):
    """Mean and standard deviation of every feature over some images."""

    mean: Float[Tensor, ...]
    deviation: Float[Tensor, ...]


STRETCH = 65536


def moments(reference: Float[Tensor, "known ..."]) -> Moments:
    """Mean and standard deviation over the rows; many rows are summed a chunk at a time."""
    if len(reference) <= STRETCH:
        return Moments(reference.mean(dim=0), reference.std(dim=0, correction=0).clamp_min(1e-6))
    total = square = torch.zeros(reference.shape[1:], dtype=torch.float64)
    for some in reference.split(STRETCH):
        total = total + some.double().sum(dim=0)
        square = square + some.double().square().sum(dim=0)
    mean = total / len(reference)
    deviation = (square / len(reference) - mean.square()).clamp_min(0).sqrt()
    return Moments(mean.float(), deviation.float().clamp_min(1e-6))


def standardised(
    features: Float[Tensor, "rows ..."], reference: Float[Tensor, "known ..."]
) -> Float[Tensor, "rows ..."]:
    """Features minus the reference's mean, in units of its standard deviation."""
    mean, deviation = moments(reference)
    return (features - mean) / deviation
