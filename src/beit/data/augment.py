"""Views of labelled images: the random one of fine-tuning and the fixed one of evaluation.

Erasing, mixup and cutmix mix whole batches and happen on the device, not here.
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

from beit.batch import ImageBatch, LabelledBatch
from beit.config.data import AugmentConfig, Resize
from beit.config.tokenizer import Interpolation
from beit.data.sources import Target
from beit.data.transforms import (
    Box,
    crop_box,
    mirrored,
    resize_crop,
)
from beit.errors import ConfigError, DataError
from beit.jitter import changed, draw_jitter

if TYPE_CHECKING:
    from timm.data.auto_augment import RandAugment

TRANSLATION = 0.45
"""Largest shift of RandAugment as a fraction of the shorter side, as in timm."""
GREY = 128


def _posterize(image: Image.Image, bits: int, **_unused: object) -> Image.Image:
    """Fewer bits per channel; none at all is black, as Pillow did before it refused to."""
    if bits <= 0:
        return Image.new(image.mode, image.size)
    return image if bits >= 8 else ImageOps.posterize(image, bits)


def _policy(config: AugmentConfig, size: tuple[int, int]) -> RandAugment:
    # Here, as timm takes seconds to import, and evaluation and serving do without.
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

    Symmetries are applied before the crop: the same in distribution, and right for quarter turns of
    targets that are not square. Errors: ConfigError if RandAugment is requested with other than
    three channels.
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

    def _augmented(self, policy: RandAugment, image: Tensor, generator: random.Random) -> Tensor:
        """RandAugment draws from two global generators: lend them ours, then put theirs back."""
        state, numpy_state = random.getstate(), np.random.get_state()
        try:
            random.seed(generator.getrandbits(64))
            np.random.seed(generator.getrandbits(32))
            changed_view = policy(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
        return torch.from_numpy(np.array(changed_view)).permute(2, 0, 1)

    def __call__(
        self, decoded: np.ndarray, target: Target | None, generator: random.Random
    ) -> LabelledBatch:
        """A view of a decoded uint8 [H,W,C]; DataError if it has no label."""
        config = self.config
        decoded = mirrored(decoded, config.symmetry, generator)
        height, width = decoded.shape[:2]
        box = crop_box(height, width, config.crop_scale, config.crop_ratio, generator)
        image = resize_crop(decoded, box, self.size, "bicubic")
        if self._policy is not None:
            image = self._augmented(self._policy, image, generator)
        elif config.jitter > 0:
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            pixels = changed(pixels, draw_jitter(pixels, config.jitter, generator))
            image = torch.from_numpy(pixels).permute(2, 0, 1)
        return _labelled(image, target)


def central_view(
    image: np.ndarray,
    size: tuple[int, int],
    crop: float,
    resize: Resize = "cover",
    interpolation: Interpolation = "bicubic",
) -> UInt8[Tensor, "channels height width"]:
    """Resize an image uint8 [H,W,C], keeping its proportions or not, then take the centre.

    It is made just large enough to cover int(size / crop): for a square size, its short side
    becomes that long; for another, the side that needs the larger factor decides. To stretch it
    makes it exactly that high and wide.
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
    """The fixed view of evaluation; published with a crop of 0.875, and 1.0 from 384 pixels up."""

    size: tuple[int, int]
    crop: float = 0.875
    resize: Resize = "cover"
    interpolation: Interpolation = "bicubic"
    labelled: bool = True
    """Whether the label goes with it."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ConfigError(f"crop is {self.crop}", remedy="use a fraction above 0, up to 1")

    def __call__(
        self, image: np.ndarray, target: Target | None, _generator: random.Random
    ) -> LabelledBatch | ImageBatch:
        """The centre of an image uint8 [H,W,C]; DataError if a label is missing."""
        view = central_view(image, self.size, self.crop, self.resize, self.interpolation)
        return _labelled(view, target) if self.labelled else ImageBatch(view[None])
