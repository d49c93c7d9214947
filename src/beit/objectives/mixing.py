"""Mixup and cutmix between neighbours (Zhang et al. 2018, Yun et al. 2019)."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from beit.rng import SampleRNG, derive_seed


class Mixture(NamedTuple):
    """How two images are mixed: each keeps the fraction `blend` of itself outside a box and nothing
    inside it; its label gets this `weight`."""

    blend: float
    weight: float
    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


class Mixing:
    """Mixes the images at places 2n and 2n + 1 of the batch of an update, and their labels.

    Each pair draws for itself between mixup and cutmix, and then how much: timm's mode `pair`, with
    neighbours instead of opposite places. The published runs drew once for all images of a GPU, so
    that the number of GPUs would change the result. An image whose neighbour lies in another
    micro-batch, as with an odd number of them, is left alone.

    Args:
        mixup: Parameter of mixup's beta distribution; 0 for no mixup.
        cutmix: Parameter of cutmix's beta distribution; 0 for no cutmix.
        classes: Number of classes C.
    """

    def __init__(self, *, mixup: float, cutmix: float, classes: int) -> None:
        self._strengths = {"mixup": mixup, "cutmix": cutmix}
        self._ways = [way for way, strength in self._strengths.items() if strength]
        self._classes = classes

    def __bool__(self) -> bool:
        return bool(self._ways)

    def __call__(
        self,
        images: Float[Tensor, "batch channels height width"],
        targets: Int64[Tensor, " batch"] | Bool[Tensor, "batch classes"],
        rng: SampleRNG,
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
        """Mixed images, and the weight of each class in them. All labels of an image count in full,
        so that a mixture has the labels of both images, by their weights."""
        height, width = images.shape[-2:]
        partners, mixtures = [], []
        for row in range(len(images)):
            place = rng.first + row
            partner = (place ^ 1) - rng.first
            alone = not 0 <= partner < len(images)
            partners.append(row if alone else partner)
            mixtures.append(
                Mixture(1.0, 1.0) if alone else self._drawn(rng, place // 2, height, width)
            )
        partner_of = torch.tensor(partners).to(images.device, non_blocking=not images.is_mps)
        table = torch.tensor(mixtures).to(images.device, non_blocking=not images.is_mps)
        blend, weight, top, bottom, left, right = table[:, :, None].unbind(1)
        y = torch.arange(height, device=images.device)
        x = torch.arange(width, device=images.device)
        inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]
        own = torch.where(inside, 0.0, blend[:, :, None])[:, None]
        labels = self._vectors(targets) if targets.ndim == 1 else targets
        labels = labels.to(images.dtype)
        return (
            own * images + (1 - own) * images[partner_of],
            weight * labels + (1 - weight) * labels[partner_of],
        )

    def _vectors(self, targets: Int64[Tensor, " batch"]) -> Int64[Tensor, "batch classes"]:
        """One for the class, else zero; `one_hot` would wait for the device to check the
        classes."""
        vectors = targets.new_zeros(len(targets), self._classes)
        return vectors.scatter_(1, targets[:, None], 1)

    def _drawn(self, rng: SampleRNG, pair: int, height: int, width: int) -> Mixture:
        numbers = random.Random(derive_seed("mixing", rng.seed, rng.step, pair))
        way = numbers.choice(self._ways)
        strength = self._strengths[way]
        kept = numbers.betavariate(strength, strength)
        if way == "mixup":
            return Mixture(kept, kept)
        # A box of the fraction 1 - kept, cut off at the borders; its area decides the weight.
        half = 0.5 * math.sqrt(1 - kept)
        x, y = numbers.randrange(width), numbers.randrange(height)
        reach_x, reach_y = int(half * width), int(half * height)
        left, right = max(x - reach_x, 0), min(x + reach_x, width)
        top, bottom = max(y - reach_y, 0), min(y + reach_y, height)
        area = (right - left) * (bottom - top) / (width * height)
        return Mixture(1.0, 1 - area, top, bottom, left, right)
