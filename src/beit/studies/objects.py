"""Scenes with exact masks, shown to a model: which patches an object covers, and which heads attend
to it.

As in the paper's figure of self-attention maps (arXiv:2106.08254, section 3.4), a patch of an
object is the query; here the mask says how much of what it attends to is the object.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from beit.models.features import attention_maps
from beit.models.vit import VisionTransformer
from beit.visualize import Grid

MASS = 0.6
"""Fraction of attention that counts, as in the figures of DINO (arXiv:2104.14294, figure 1)."""
BATCH = 32
EVEN = "even attention"
"""Name of the attention that any head must beat."""


class Objects(NamedTuple):
    """Scenes, and the largest object of each."""

    names: tuple[str, ...]
    images: UInt8[Tensor, "scenes channels height width"]
    inside: Bool[Tensor, "scenes patches"]
    """Patches that the object mostly covers; at least one."""
    centres: Int64[Tensor, " scenes"]
    """The patch that is deepest inside the object."""


def read_objects(part: Path, size: tuple[int, int], grid: Grid) -> Objects:
    """The scenes of a folder; those without an object that covers most of a patch are left out.

    Args:
        part: Folder with images/ and masks/.
        size: Height and width of the centre that is cut out of each scene.
        grid: Rows and columns of patches.
    """
    names, images, inside, centres = [], [], [], []
    for path in sorted((part / "images").iterdir()):
        labels = torch.from_numpy(_centre(part / "masks" / path.name, size))
        counts = labels.flatten().bincount()
        counts[0] = 0
        covered = F.adaptive_avg_pool2d((labels == counts.argmax())[None].float(), grid)
        if not counts.any() or float(covered.max()) <= 0.5:
            continue
        thick = covered + F.avg_pool2d(covered, 3, 1, 1)
        names.append(path.name)
        images.append(torch.from_numpy(_centre(path, size)).permute(2, 0, 1))
        inside.append(covered.flatten() > 0.5)
        centres.append(thick.flatten().argmax())
    return Objects(
        tuple(names), torch.stack(images), torch.stack(inside), torch.stack(centres)
    )  # fmt: skip


def _centre(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, ...]:
    with Image.open(path) as opened:
        left, top = (opened.width - size[1]) // 2, (opened.height - size[0]) // 2
        return np.array(opened.crop((left, top, left + size[1], top + size[0])))


@torch.no_grad()
def attention(
    backbone: VisionTransformer, objects: Objects
) -> Float[Tensor, "scenes heads patches"]:
    """What the central patch of each object attends to, in every head of every block."""
    found = []
    for start in range(0, len(objects.images), BATCH):
        images = objects.images[start : start + BATCH]
        centres = objects.centres[start : start + BATCH]
        maps = torch.cat(attention_maps(backbone, images, range(backbone.config.depth)), dim=1)
        found.append(maps[torch.arange(len(images)), :, 1 + centres, 1:])
    return torch.cat(found)


def overlaps(
    weights: Float[Tensor, "scenes heads patches"], inside: Bool[Tensor, "scenes patches"]
) -> Float[Tensor, "scenes heads"]:
    """IoU of each object with the fewest patches that hold `MASS` of a head's attention."""
    order = weights.argsort(dim=2, descending=True)
    fractions = (weights / weights.sum(dim=2, keepdim=True)).gather(2, order)
    before = fractions.cumsum(dim=2) - fractions
    looked = torch.zeros_like(weights, dtype=torch.bool).scatter_(2, order, before < MASS)
    truth = inside[:, None]
    union = (looked | truth).sum(dim=2)
    return (looked & truth).sum(dim=2) / union


def even_overlaps(test: Objects) -> Float[Tensor, " scenes"]:
    """IoU of each object with attention that knows nothing about the scene: all patches have the
    same weight, and their order is drawn at random."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(len(test.inside), 64, test.inside.shape[1], generator=generator)
    return overlaps(1 + 1e-3 * draws, test.inside).mean(dim=1)


def even_iou(test: Objects) -> float:
    """The mean of `even_overlaps`, in per cent."""
    return 100 * float(even_overlaps(test).mean())


def best_head(backbone: VisionTransformer, validation: Objects) -> int:
    """The head whose attention overlaps objects best, counted through all blocks."""
    scores = overlaps(attention(backbone, validation), validation.inside)
    return int(scores.mean(dim=0).argmax())


def best_overlaps(
    backbone: VisionTransformer, validation: Objects, test: Objects
) -> Float[Tensor, " scenes"]:
    """IoU of each test scene's object with what the best head attends to.

    Args:
        backbone: In evaluation mode.
        validation: Scenes that decide which head is the best.
        test: Scenes that are measured.
    """
    head = best_head(backbone, validation)
    return overlaps(attention(backbone, test)[:, [head]], test.inside)[:, 0]
