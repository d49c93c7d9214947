"""Frozen features of many images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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


class PatchTable(NamedTuple):
    """Every patch vector of one block."""

    patches: Float16[Tensor, "images patches width"]
    targets: Int64[Tensor, " images"]


class PooledBlocks(NamedTuple):
    """The output of some blocks, one vector per image."""

    means: Float[Tensor, "batch blocks width"]
    """Over all patches."""
    cls: Float[Tensor, "batch blocks width"]


def pool_blocks(
    backbone: VisionTransformer, images: Tensor, out_indices: tuple[int, ...]
) -> PooledBlocks:
    """Mean patch and class token of the raw output of each selected block, fp32."""
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
) -> FeatureTable:
    """Class token and mean over the other patches of the raw output of each tapped block, fp32.

    Unlabelled images get the target -1.
    """
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    keys: list[str] = []
    for batch in batches:
        means, tokens = pool_blocks(backbone, batch.images.to(device), out_indices)
        unlabelled = torch.full((len(batch.keys),), -1)
        targets = batch.targets if isinstance(batch, LabelledBatch) else unlabelled
        rows.append((means.cpu(), targets, tokens.cpu()))
        keys += batch.keys
    features, targets, cls = (torch.cat(column) for column in zip(*rows, strict=True))
    return FeatureTable(features, targets, tuple(keys), cls)


def every_block(
    model: nn.Module, batches: Iterable[ImageBatch | LabelledBatch], device: torch.device
) -> FeatureTable:
    """`extract_features` of all blocks of a model with a backbone."""
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
    """The raw patch vectors of one block, kept in fp16."""
    rows: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        output = backbone(batch.images.to(device), out_indices=(block,)).intermediates[0]
        rows.append((output[:, 1:].half().cpu(), batch.targets))
    return PatchTable(*(torch.cat(column) for column in zip(*rows, strict=True)))


def standardised(
    features: Float[Tensor, "rows ..."], reference: Float[Tensor, "known ..."]
) -> Float[Tensor, "rows ..."]:
    """Features less the reference's mean, in units of its standard deviation."""
    deviation = reference.std(dim=0, correction=0).clamp_min(1e-6)
    return (features - reference.mean(dim=0)) / deviation
