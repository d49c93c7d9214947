"""Views of labelled images: the random ones of training and the fixed ones of evaluation.

Images with masks carry the labels as one more channel, uint8 [H,W,C+1], so that mirroring and
cropping treat both alike. Random erasing, mixup and CutMix work on whole batches and run on the
device, not here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from beit.batch import ImageBatch, LabelledBatch, SegmentedBatch
from beit.config.data import AugmentConfig, Resize
from beit.config.segment_run import IGNORE, JointConfig
from beit.config.tokenizer import Interpolation
from beit.data.sources import Target
from beit.data.transforms import ATTEMPTS, Box, crop_box, mirrored, resize_crop
from beit.errors import ConfigError, DataError
from beit.jitter import changed, draw_jitter

if TYPE_CHECKING:
    from timm.data.auto_augment import RandAugment

TRANSLATION = 0.45
"""Largest shift of RandAugment as a fraction of the shorter side, as in timm."""
GREY = 128
LONGEST = 4  # limit of the longer side, in base sides: the published scale is 2048 x 512


def _posterize(image: Image.Image, bits: int, **_unused: object) -> Image.Image:
    """Keep the upper `bits` of each channel; 0 gives black, as it did before Pillow refused it."""
    if bits <= 0:
        return Image.new(image.mode, image.size)
    return image if bits >= 8 else ImageOps.posterize(image, bits)


def _policy(config: AugmentConfig, size: tuple[int, int]) -> RandAugment:
    # Imported here: timm takes seconds to import, and evaluation and serving do not need it.
    from timm.data.auto_augment import rand_augment_transform

    settings = {
        "translate_const": int(min(size) * TRANSLATION),
        "img_mean": (GREY, GREY, GREY),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        policy: RandAugment = rand_augment_transform(config.rand_augment, settings)
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"rand_augment '{config.rand_augment}' is not a policy of timm ({error})",
            remedy="write it as 'rand-m9-mstd0.5-inc1', or leave it empty to switch it off",
        ) from error
    for operation in policy.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return policy


def _labelled(image: Tensor, target: Target | None) -> LabelledBatch:
    if target is None:
        raise DataError(
            "an image without a label came to a view of labelled images",
            remedy="use one folder per class, or a list file with labels",
        )
    return LabelledBatch(image[None], torch.as_tensor(target)[None])


class TrainView:
    """The random view of fine-tuning: crop, mirroring, RandAugment or jitter (table 13).

    Symmetries are applied before the crop: the distribution is the same, and quarter turns stay
    correct for views that are not square.

    Raises:
        ConfigError: If RandAugment is requested for other than three channels.
    """

    def __init__(self, config: AugmentConfig, size: tuple[int, int], channels: int = 3) -> None:
        if config.rand_augment and channels != 3:
            raise ConfigError(
                f"rand_augment '{config.rand_augment}' needs 3 channels, the images have "
                f"{channels}",
                remedy="use rand_augment '' and perhaps jitter",
            )
        self.config = config
        self.size = size
        self._policy = _policy(config, size) if config.rand_augment else None

    def _changed(self, pixels: np.ndarray, generator: random.Random) -> np.ndarray:
        """The pixels uint8 [H,W,C] after RandAugment or jitter."""
        if self._policy is None:
            return changed(pixels, draw_jitter(pixels, self.config.jitter, generator))
        # RandAugment draws from two global generators: seed them from ours, then restore them.
        state, numpy_state = random.getstate(), np.random.get_state()
        try:
            random.seed(generator.getrandbits(64))
            np.random.seed(generator.getrandbits(32))
            return np.array(self._policy(Image.fromarray(pixels)))
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)

    def __call__(
        self, decoded: np.ndarray, target: Target | None, generator: random.Random
    ) -> LabelledBatch:
        """A random view of decoded pixels, uint8 [H,W,C]. Raises DataError without a label."""
        config = self.config
        decoded = mirrored(decoded, config.symmetry, generator)
        height, width = decoded.shape[:2]
        box = crop_box(height, width, config.crop_scale, config.crop_ratio, generator)
        image = resize_crop(decoded, box, self.size, "bicubic")
        if self._policy is not None or config.jitter > 0:
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            image = torch.from_numpy(self._changed(pixels, generator)).permute(2, 0, 1)
        return _labelled(image, target)


def central_view(
    image: np.ndarray,
    size: tuple[int, int],
    crop: float,
    resize: Resize = "cover",
    interpolation: Interpolation = "bicubic",
) -> UInt8[Tensor, "channels height width"]:
    """Resize an image, then take its centre.

    Args:
        image: Pixels uint8 [H,W,C].
        size: Height and width of the result.
        crop: Fraction of each side of the resized image that is kept.
        resize: "cover" keeps the proportions and makes the image just large enough to cover
            int(size / crop): for a square size its short side becomes that long, for another the
            side that needs the larger factor decides. "stretch" makes it exactly that high and
            wide.
        interpolation: How pixels are resampled.
    """
    height, width = image.shape[:2]
    cover_height, cover_width = (int(side / crop) for side in size)
    if resize == "stretch":
        scaled = cover_height, cover_width
    elif cover_height * width >= cover_width * height:
        scaled = cover_height, max(int(cover_height * width / height), cover_width)
    else:
        scaled = max(int(cover_width * height / width), cover_height), cover_width
    resized = resize_crop(image, Box(0, 0, height, width), scaled, interpolation)
    top, left = (round((scaled[side] - size[side]) / 2) for side in (0, 1))
    return resized[:, top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class EvaluationView:
    """The fixed view of evaluation. Published: a crop of 0.875, or 1.0 from 384 pixels up."""

    size: tuple[int, int]
    crop: float = 0.875
    resize: Resize = "cover"
    interpolation: Interpolation = "bicubic"
    labelled: bool = True
    """Whether a view carries the label of its image."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ConfigError(f"crop is {self.crop}", remedy="use a fraction above 0, up to 1")

    def __call__(
        self, image: np.ndarray, target: Target | None, _generator: random.Random
    ) -> LabelledBatch | ImageBatch:
        """The centre of an image, uint8 [H,W,C]. Raises DataError if a label is missing."""
        view = central_view(image, self.size, self.crop, self.resize, self.interpolation)
        return _labelled(view, target) if self.labelled else ImageBatch(view[None])


def _shaded(image: np.ndarray, factor: float, shift: float) -> np.ndarray:
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)
    shaded: np.ndarray = table[image]
    return shaded


def _coloured(image: np.ndarray, saturation: float, turn: int) -> np.ndarray:
    """Scale the saturation, and turn the hue by `turn` of the circle's 256 steps."""
    hue, depth, value = Image.fromarray(image).convert("HSV").split()
    hue = hue.point([(step + turn) % 256 for step in range(256)])
    depth = depth.point([min(round(step * saturation), 255) for step in range(256)])
    return np.array(Image.merge("HSV", (hue, depth, value)).convert("RGB"))


def distorted(image: np.ndarray, generator: random.Random) -> np.ndarray:
    """Photometric distortion of an image, uint8 [H,W,C].

    Each with probability one half: brightness is shifted by up to 32 values; contrast is scaled by
    0.5 to 1.5, before or after the colours; in three channels saturation is scaled by 0.5 to 1.5,
    and hue is turned by up to a tenth of the circle (mmsegmentation's PhotoMetricDistortion, which
    the published configs use).
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
    """Resize labels: every new pixel takes the label under its centre."""
    rows, columns = (
        (2 * np.arange(to) + 1) * side // (2 * to)
        for to, side in zip(size, labels.shape, strict=True)
    )
    resized: np.ndarray = labels[rows[:, None], columns]
    return resized


def _balanced(labels: np.ndarray, largest: float) -> bool:
    """Whether there are two classes or more, each on less than this fraction of labelled pixels."""
    counts = np.bincount(labels.reshape(-1), minlength=256)[:IGNORE]
    return int((counts > 0).sum()) > 1 and bool(counts.max() < largest * counts.sum())


def _extent(side: int, to: int, ratio: float) -> tuple[int, int]:
    """How many pixels of an image's side a crop takes, and how long they become, at most `to`."""
    cut = max(round(to / ratio), 1)
    return (cut, to) if cut <= side else (side, min(max(round(side * ratio), 1), to))


@dataclass(frozen=True)
class JointView:
    """The random view of segmentation training: scale, crop, mirroring, colours and padding, as
    published.

    The crop is cut out of the image at its own scale and only then resized. An image smaller than
    the crop is padded at the bottom and the right with `fill`, its mask with 255. `fill` has one
    value per channel, the model's mean colour, which is zero once normalised.
    """

    config: JointConfig
    size: tuple[int, int]
    fill: tuple[int, ...]

    def _region(self, image: np.ndarray, box: tuple[int, int], generator: random.Random
    ) -> np.ndarray:  # fmt: skip
        """A random crop of the size `box`: the first balanced one of ten, or the tenth."""
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
        """A random view of decoded pixels and labels, uint8 [H,W,C+1]."""
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
        """The whole of decoded pixels and labels, uint8 [H,W,C+1]."""
        image = torch.from_numpy(np.ascontiguousarray(decoded[..., :-1])).permute(2, 0, 1)
        return SegmentedBatch(image[None], torch.from_numpy(decoded[None, ..., -1].copy()))
