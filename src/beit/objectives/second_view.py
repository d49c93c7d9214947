"""A second view of images that are on the device already: another crop, in other colours.

The crop is a part of the first view, so that nothing is read or decoded twice. How an image is
changed follows from numbers of its own, and no branch depends on them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

NUMBERS = 11
"""Random numbers that each view takes."""
ASPECT = math.log(4 / 3)
"""The largest log of width over height of a crop, as usual (SimCLR, appendix A)."""
DISTORTED, GREY = 0.8, 0.2
"""How often colours are changed, and how often removed (SimCLR, appendix A)."""
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Brightness and two axes of colour (NTSC)."""
BRIGHTNESS, COSINE, SINE = (
    (np.linalg.inv(YIQ) @ np.array(part) @ YIQ).flatten().tolist()
    for part in (
        [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
    )
)
"""The matrix that rotates the hue of RGB: its constant part, and the factors of the cosine and the
sine of the angle. As numbers, since a tensor would be copied to the device in every step."""


@torch.no_grad()
def second_view(
    images: UInt8[Tensor, "batch channels height width"],
    numbers: Float[Tensor, "batch numbers"],
    *,
    crop: tuple[float, float],
    jitter: float,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch channels rows columns"]:
    """The views of SimCLR (arXiv:2002.05709, appendix A) without its blur, in [0, 1].

    Args:
        images: The first views.
        numbers: Uniform in [0, 1), `NUMBERS` per image.
        crop: Fraction of the area in the crop, smallest and largest.
        jitter: Strength of brightness, contrast and saturation; that of hue is a quarter of it.
        size: Height and width of the result; None for those of the images.
    """
    with torch.autocast(images.device.type, enabled=False):  # eight bits of colour are kept
        views = _cropped(images.float() / 255, numbers[:, :5], crop, size or images.shape[2:])
        return _recoloured(views, numbers[:, 5:], jitter)


def _cropped(
    images: Tensor, numbers: Tensor, scale: tuple[float, float], size: tuple[int, ...]
) -> Tensor:
    """A part of each image at a random aspect ratio, mirrored half of the time."""
    part, aspect, mirror, left, top = numbers.unbind(dim=1)
    area, log_aspect = scale[0] + (scale[1] - scale[0]) * part, ASPECT * (2 * aspect - 1)
    width, height = ((area * (sign * log_aspect).exp()).sqrt().clamp(max=1) for sign in (1, -1))
    zero = torch.zeros_like(width)
    across = torch.stack([torch.where(mirror < 0.5, -width, width), zero], dim=1)
    down = torch.stack([zero, height], dim=1)
    middle = torch.stack([(2 * left - 1) * (1 - width), (2 * top - 1) * (1 - height)], dim=1)
    places = torch.cat([torch.stack([across, down], dim=1), middle[:, :, None]], dim=2)
    shape = [*images.shape[:2], *size]
    grid = F.affine_grid(places, shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _recoloured(views: Tensor, numbers: Tensor, strength: float) -> Tensor:
    """Changes hue, saturation and brightness, then contrast; without three channels the last
    two."""
    distorted, grey, *amounts = numbers.unbind(dim=1)
    strengths = strength * (distorted < DISTORTED)
    brightness, contrast, saturation, hue = (strengths * (2 * one - 1) for one in amounts)
    if views.shape[1] == len(YIQ):
        saturation = (1 + saturation) * (grey >= GREY)
        angle = 2 * math.pi * hue / 4
        cosine, sine = angle.cos() * saturation, angle.sin() * saturation
        turned = [kept + cosine * c + sine * s
                  for kept, c, s in zip(BRIGHTNESS, COSINE, SINE, strict=True)]  # fmt: skip
        mixed = torch.stack(turned, dim=1).unflatten(1, (3, 3))
        views = (mixed @ views.flatten(2)).unflatten(2, views.shape[2:])
    views = views * (1 + brightness)[:, None, None, None]
    level = views.mean(dim=(1, 2, 3), keepdim=True)
    return ((views - level) * (1 + contrast)[:, None, None, None] + level).clamp(0, 1)
