"""Frozen features of many pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from beit.batch import ImageBatch, LabelledBatch
from beit.models.vit import VisionTransformer


class FeatureTable(NamedTuple):
    """One row per picture: mean patch vector of each block asked for, with labels and keys."""

    features: Float[Tensor, "pictures taps width"]
    targets: Int64[Tensor, " pictures"]
    keys: tuple[str, ...]


@torch.no_grad()
def extract_features(
    backbone: VisionTransformer,
    batches: Iterable[ImageBatch | LabelledBatch],
    *,
    taps: tuple[int, ...],
    device: torch.device,
) -> FeatureTable:
    """Mean over the patches (class token excluded) of the raw output of each tapped block, fp32.

    Unlabelled pictures get the target -1.
    """
    rows: list[Tensor] = []
    targets: list[Tensor] = []
    keys: list[str] = []
    for batch in batches:
        outputs = backbone(batch.images.to(device), taps=taps).taps
        pooled = torch.stack([output[:, 1:].float().mean(dim=1) for output in outputs], dim=1)
        rows.append(pooled.cpu())
        if isinstance(batch, LabelledBatch):
            targets.append(batch.targets)
        else:
            targets.append(torch.full((len(batch.keys),), -1))
        keys += batch.keys
    return FeatureTable(torch.cat(rows), torch.cat(targets), tuple(keys))
