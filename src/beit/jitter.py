"""Colour jitter: drawn once per image, applied to its pixels or to a whole batch on its device.

Brightness, contrast and saturation all move the values of a pixel away from a pivot, or towards it:
pivot + factor * (value - pivot), clipped to 0..255 and truncated, as in Pillow. The pivot is black,
the mean grey of the image, or the pixel's own grey.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

GREY_WEIGHTS = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""ITU-R 601 in Pillow's fixed point; float32 represents these numbers exactly."""
SAMPLED = 5000
"""About how many pixels stand for an image: their mean is right to half a grey level."""


class Change(NamedTuple):
    """One change of all pixels; the pivot is `level`, plus the pixel's grey if `own_grey` is 1."""

    factor: float
    level: int = 0
    own_grey: int = 0


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Grey of pixels uint8 [H,W,C]; unless they have three channels, the pixels themselves."""
    return np.asarray(Image.fromarray(pixels).convert("L")) if pixels.shape[2] == 3 else pixels


def _sample(image: np.ndarray) -> np.ndarray:
    """Evenly spread pixels of an image, uint8 [1,pixels,C]; all if there are few."""
    pixels = image.reshape(-1, image.shape[2])
    step = max(1, len(pixels) // SAMPLED)
    while math.gcd(step, image.shape[1]) > 1:  # else every row gives the same columns
        step += 1
    return np.ascontiguousarray(pixels[step // 2 :: step])[None]


def draw_jitter(image: np.ndarray, strength: float, generator: random.Random) -> list[Change]:
    """Draw random brightness, contrast and saturation, in random order, for an image.

    The pivot of contrast is the mean grey of the whole image after the changes before it. Images
    without three channels have no saturation to change.

    Args:
        image: Pixels, uint8 [H,W,C].
        strength: Each factor is uniform in [1 - strength, 1 + strength], at least 0, as in
            torchvision's ColorJitter. Zero changes nothing.
        generator: Draws the factors and their order.
    """
    if strength == 0:
        return []
    kinds = ["brightness", "contrast"]
    if image.shape[2] == 3:
        kinds.append("saturation")
    generator.shuffle(kinds)
    sample = _sample(image)
    changes: list[Change] = []
    for kind in kinds:
        factor = generator.uniform(max(0.0, 1 - strength), 1 + strength)
        if kind == "contrast":
            mean = int(_grey(changed(sample, changes)).mean() + 0.5)
            changes.append(Change(factor, level=mean))
        else:
            changes.append(Change(factor, own_grey=int(kind == "saturation")))
    return changes


def _saturated(pixels: np.ndarray, factor: float) -> np.ndarray:
    colour = Image.fromarray(pixels)
    return np.array(Image.blend(colour.convert("L").convert("RGB"), colour, factor))


def changed(pixels: np.ndarray, changes: list[Change]) -> np.ndarray:
    """Apply changes one after the other to pixels, uint8 [H,W,C]; the input is not modified."""
    for by_value, group in itertools.groupby(changes, lambda change: not change.own_grey):
        if by_value:  # consecutive changes become one lookup table
            values = np.arange(256, dtype=np.float32)
            for change in group:
                moved = change.level + np.float32(change.factor) * (values - change.level)
                values = np.floor(np.clip(moved, 0, 255))
            table = values.astype(np.uint8).tobytes()
            shifted = bytearray(np.ascontiguousarray(pixels)).translate(table)
            pixels = np.frombuffer(shifted, np.uint8).reshape(pixels.shape)
        else:
            for change in group:
                pixels = _saturated(pixels, change.factor)
    return pixels


def changes_tensor(changes: list[Change]) -> Float[Tensor, "changes numbers"]:
    """The changes of one image as a tensor, in which they travel to the device."""
    return torch.tensor(changes, dtype=torch.float32)


def changed_batch(
    images: UInt8[Tensor, "batch channels height width"],
    changes: Float[Tensor, "batch changes numbers"],
) -> UInt8[Tensor, "batch channels height width"]:
    """Like `changed` for a batch: each image has its own changes, and no branch depends on them."""
    has_colour = images.shape[1] == len(GREY_WEIGHTS)
    pixels = images.float()
    for change in changes.unbind(dim=1):
        factor, pivot, own_grey = change[:, :, None, None, None].unbind(dim=1)
        if has_colour:
            red, green, blue = (
                band * weight
                for band, weight in zip(pixels.split(1, dim=1), GREY_WEIGHTS, strict=True)
            )
            grey = red.add_(green).add_(blue).add_(0.5).floor_()
            pivot = grey.mul_(own_grey).add_(pivot)
        pixels = pixels.sub_(pivot).mul_(factor).add_(pivot).clamp_(0, 255).floor_()
    return pixels.to(torch.uint8)
