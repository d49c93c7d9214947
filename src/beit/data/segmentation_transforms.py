"""Views of images with masks: the random one of training and the whole one of evaluation.

What comes in has the labels behind the channels, uint8 [H,W,C+1], so that mirroring and cropping
cannot tell them apart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from beit.batch import SegmentedBatch
from beit.config.segment_run import IGNORE, JointConfig
from beit.data.sources import Target
from beit.data.transforms import Box, mirrored, resize_crop

ATTEMPTS = 10
LONGEST = 4  # times the shorter side: the published base scale is 2048 x 512


def _shaded(image: np.ndarray, factor: float, shift: float) -> np.ndarray:
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)
    shaded: np.ndarray = table[image]
    return shaded


def _coloured(image: np.ndarray, saturation: float, turn: int) -> np.ndarray:
    """Another saturation, and hues `turn` of 256 steps further round the circle."""
    hue, depth, value = Image.fromarray(image).convert("HSV").split()
    hue = hue.point([(step + turn) % 256 for step in range(256)])
    depth = depth.point([min(round(step * saturation), 255) for step in range(256)])
    return np.array(Image.merge("HSV", (hue, depth, value)).convert("RGB"))


def distorted(image: np.ndarray, generator: random.Random) -> np.ndarray:
    """Photometric distortion, uint8 [H,W,C] to the same.

    Each with a chance of one half: brightness by up to 32 values; contrast by 0.5 to 1.5, first or
    last; saturation by 0.5 to 1.5 and hue by up to a tenth of the circle, where there are three
    channels (mmsegmentation's PhotoMetricDistortion, which the published configs use).
    """

    def decided() -> bool:
        return generator.random() < 0.5

    def contrasted(pixels: np.ndarray) -> np.ndarray:
        return _shaded(pixels, generator.uniform(0.5, 1.5), 0) if decided() else pixels

    if decided():
        image = _shaded(image, 1, generator.uniform(-32, 32))
    contrast_first = decided()
    if contrast_first:
        image = contrasted(image)
    if image.shape[2] == 3:
        saturation = generator.uniform(0.5, 1.5) if decided() else 1.0
        turn = round(generator.uniform(-18, 18) * 256 / 180) if decided() else 0
        if saturation != 1 or turn:
            image = _coloured(image, saturation, turn)
    return image if contrast_first else contrasted(image)


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels at another size, each the one under the centre of its pixel."""
    rows, columns = (
        (2 * np.arange(to) + 1) * side // (2 * to)
        for to, side in zip(size, labels.shape, strict=True)
    )
    resized: np.ndarray = labels[rows[:, None], columns]
    return resized


def _balanced(labels: np.ndarray, largest: float) -> bool:
    """Whether there are two classes, none of them above this fraction of what is not ignored."""
    counts = np.bincount(labels.reshape(-1), minlength=256)[:IGNORE]
    return int((counts > 0).sum()) > 1 and bool(counts.max() < largest * counts.sum())


def _extent(side: int, to: int, ratio: float) -> tuple[int, int]:
    """How much of a side of the image a crop takes, and how long that becomes, at most `to`."""
    cut = max(round(to / ratio), 1)
    return (cut, to) if cut <= side else (side, min(max(round(side * ratio), 1), to))


@dataclass(frozen=True)
class JointView:
    """The random view of training: size, crop, mirroring, colours, padding (published pipeline).

    The crop is cut out of the image as it is and only then resized; an image smaller than the
    crop is padded at the bottom and the right with `fill`, its mask with 255. `fill` is one value
    per channel, the model's mean colour, which is zero once normalised.
    """

    config: JointConfig
    size: tuple[int, int]
    fill: tuple[int, ...]

    def _region(self, image: np.ndarray, box: tuple[int, int], generator: random.Random
    ) -> np.ndarray:  # fmt: skip
        """A random part of this size: the first balanced one of ten, or the tenth."""
        largest = self.config.largest_class
        for _ in range(ATTEMPTS):
            top, left = (generator.randint(0, side - cut)
                         for side, cut in zip(image.shape, box, strict=False))  # fmt: skip
            region = image[top : top + box[0], left : left + box[1]]
            if largest == 1 or _balanced(region[..., -1], largest):
                break
        return np.ascontiguousarray(region)

    def __call__(
        self, decoded: np.ndarray, _target: Target | None, generator: random.Random
    ) -> SegmentedBatch:
        """A view of a decoded uint8 [H,W,C+1]."""
        decoded = mirrored(decoded, self.config.symmetry, generator)
        sides = decoded.shape[:2]
        base = self.config.base_side or min(self.size)
        ratio = min(base / min(sides), LONGEST * base / max(sides))
        ratio *= generator.uniform(*self.config.resize_ratio)
        (cut_height, height), (cut_width, width) = (
            _extent(side, to, ratio) for side, to in zip(sides, self.size, strict=True)
        )
        region = self._region(decoded, (cut_height, cut_width), generator)
        whole = Box(0, 0, cut_height, cut_width)
        shown = resize_crop(region[..., :-1].copy(), whole, (height, width), "bilinear")
        if self.config.distortion:
            pixels = distorted(shown.permute(1, 2, 0).contiguous().numpy(), generator)
            shown = torch.from_numpy(pixels).permute(2, 0, 1)
        image = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None].repeat(1, *self.size)
        image[:, :height, :width] = shown
        labels = np.full(self.size, IGNORE, np.uint8)
        labels[:height, :width] = _nearest(region[..., -1], (height, width))
        return SegmentedBatch(image[None], torch.from_numpy(labels)[None])


@dataclass(frozen=True)
class WholeView:
    """The image and its mask as they are."""

    def __call__(
        self, decoded: np.ndarray, _target: Target | None, _generator: random.Random
    ) -> SegmentedBatch:
        """The same of a decoded uint8 [H,W,C+1], without chance."""
        image = torch.from_numpy(np.ascontiguousarray(decoded[..., :-1])).permute(2, 0, 1)
        return SegmentedBatch(image[None], torch.from_numpy(decoded[None, ..., -1].copy()))
