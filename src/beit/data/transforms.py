"""What happens to an image on its way to the model: crops, mirrorings, jitter, two renderings.

The pre-training view is that of the published code: colour jitter on the whole image, a
mirroring, then ONE random crop rendered twice, for the model and for the tokenizer.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from beit.batch import ImageBatch, MaskedBatch
from beit.config.data import CropScale, Symmetry, ViewConfig
from beit.config.tokenizer import Interpolation
from beit.data.order import sample_generator
from beit.data.sources import Target
from beit.jitter import changed, changes_tensor, draw_jitter
from beit.masking import MaskSampler

ATTEMPTS = 10
LANCZOS_SINCE = "2.13"
"""The version of torch whose `interpolate` has Lanczos."""


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_box(
    height: int, width: int, scale: CropScale, ratio: CropScale, generator: random.Random
) -> Box:
    """A random crop: part of the area uniform in `scale`, width over height log-uniform in `ratio`.

    After ten misses the largest centred crop within `ratio`, as torchvision's RandomResizedCrop.
    """
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(ATTEMPTS):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(*log_ratio))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = generator.randint(0, height - box_height)
            left = generator.randint(0, width - box_width)
            return Box(top, left, box_height, box_width)
    box_height, box_width = height, width
    if width < height * ratio[0]:
        box_height = max(round(width / ratio[0]), 1)
    elif width > height * ratio[1]:
        box_width = max(round(height * ratio[1]), 1)
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def _pillow_lanczos(region: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Pillow's Lanczos, band by band; for versions of torch that have none."""
    height, width = size
    bands = (np.ascontiguousarray(band) for band in np.moveaxis(region, 2, 0))
    resized = [
        np.array(Image.fromarray(band).resize((width, height), Image.Resampling.LANCZOS))
        for band in bands
    ]
    return torch.from_numpy(np.stack(resized))


class Crop(NamedTuple):
    """A part of an image as it lies in memory, and what the view it comes from does to it.

    Turns and mirrorings cost much when large parts are copied, and little at the size of a view.
    """

    pixels: np.ndarray
    turned: bool
    flipped: tuple[int, ...]


def cut(image: np.ndarray, box: Box) -> Crop:
    """The box of an image [H,W,C], which may be a turned or mirrored view."""
    region = image[box.top : box.top + box.height, box.left : box.left + box.width]
    turned = abs(region.strides[0]) < abs(region.strides[1])
    if turned:
        region = region.swapaxes(0, 1)
    flipped = tuple(axis for axis in (0, 1) if region.strides[axis] < 0)
    return Crop(np.flip(region, flipped), turned, flipped)


def resize(
    crop: Crop, size: tuple[int, int], interpolation: Interpolation
) -> UInt8[Tensor, "channels height width"]:
    """A crop at another size, with antialiasing; nothing outside the crop is seen.

    One that already has the size is copied bit for bit. The result may have the strides of [H,W,C].
    """
    pixels, turned, flipped = crop
    size = size[::-1] if turned else size
    if pixels.shape[:2] == size:
        resized = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    elif interpolation == "lanczos" and torch.__version__ < LANCZOS_SINCE:
        resized = _pillow_lanczos(pixels, size)
    else:
        # In uint8 and on the [H,W,C] memory this is five times faster than Pillow, and equal to it
        # within rounding.
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        resized = F.interpolate(planes, size, mode=interpolation, antialias=True)[0]
    resized = resized.flip([axis + 1 for axis in flipped]) if flipped else resized
    return resized.transpose(1, 2) if turned else resized


def resize_crop(
    image: np.ndarray, box: Box, size: tuple[int, int], interpolation: Interpolation
) -> UInt8[Tensor, "channels height width"]:
    """The box of an image, uint8 [H,W,C], at another size."""
    return resize(cut(image, box), size, interpolation)


def mirrored(image: np.ndarray, symmetry: Symmetry, generator: random.Random) -> np.ndarray:
    """A random symmetry of the rectangle, as a view: quarter turns swap height and width."""
    if symmetry == "horizontal":
        return image[:, ::-1] if generator.random() < 0.5 else image
    if symmetry == "all":
        quarter_turns, flip = divmod(generator.randrange(8), 2)
        turned = np.rot90(image, quarter_turns)
        return turned[:, ::-1] if flip else turned
    return image


def _jittered_crop(
    image: np.ndarray, config: ViewConfig, generator: random.Random
) -> tuple[Crop, Tensor | None]:
    """Jitter, mirroring and the crop, in the published order; and the jitter left for the device.

    What jitter does to a pixel does not depend on its neighbours, so only the crop is changed: the
    same as if the whole image were.
    """
    changes = draw_jitter(image, config.jitter, generator)
    image = mirrored(image, config.symmetry, generator)
    height, width = image.shape[:2]
    crop = cut(image, crop_box(height, width, config.crop_scale, config.crop_ratio, generator))
    if config.pipeline == "fast":
        return crop, changes_tensor(changes)[None] if changes else None
    return crop._replace(pixels=changed(crop.pixels, changes)), None


@dataclass(frozen=True, kw_only=True)
class SingleView:
    """The random view for tokenizer training."""

    config: ViewConfig
    size: tuple[int, int]
    interpolation: Interpolation = "bicubic"

    def __call__(
        self, image: np.ndarray, _target: Target | None, generator: random.Random
    ) -> ImageBatch:
        """A view of an image uint8 [H,W,C]; the target is not used."""
        crop, jitter = _jittered_crop(image, self.config, generator)
        return ImageBatch(resize(crop, self.size, self.interpolation)[None], jitter=jitter)


@dataclass(frozen=True, kw_only=True)
class MaskedViews:
    """The patch view, the token view of the same crop, and a mask (section 2.5).

    Without `token_size` the tokenizer looks at the patch view.
    """

    config: ViewConfig
    size: tuple[int, int]
    token_size: tuple[int, int] | None
    token_interpolation: Interpolation = "bicubic"  # noqa: S105
    sampler: MaskSampler

    def __call__(
        self,
        image: np.ndarray,
        _target: Target | None,
        generator: random.Random,
        mask_generator: random.Random | None = None,
    ) -> MaskedBatch:
        """The views of an image uint8 [H,W,C]; the target is not used.

        Without a generator of its own the mask goes on with that of the crop.
        """
        crop, jitter = _jittered_crop(image, self.config, generator)
        images = resize(crop, self.size, "bicubic")[None]
        token_images = images
        if self.token_size is not None:
            token_images = resize(crop, self.token_size, self.token_interpolation)[None]
        mask = torch.from_numpy(self.sampler(mask_generator or generator))[None]
        return MaskedBatch(images, token_images, mask, jitter=jitter)


@dataclass(frozen=True, kw_only=True)
class CachedViews:
    """`number` views of each image, one per epoch, then the first again under a new mask: what was
    computed from a view can be kept.

    Crop, mirroring and jitter of view v are those of epoch v: as long as there are as many views as
    epochs, everything is as if they did not recur.
    """

    views: MaskedViews | SingleView
    number: int

    def of(self, image: np.ndarray, seed: int, epoch: int, index: int) -> ImageBatch | MaskedBatch:
        """The view of an image uint8 [H,W,C] whose turn it is in this epoch."""
        view = epoch % self.number
        generator = sample_generator(seed, view, index)
        which = torch.tensor([[view, index]])
        if isinstance(self.views, SingleView):
            return self.views(image, None, generator)._replace(views=which)
        masks = generator if view == epoch else sample_generator(seed, epoch, index)
        return self.views(image, None, generator, masks)._replace(views=which)
