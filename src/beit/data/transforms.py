"""Random views of images: crop, mirroring, colour jitter, and two renderings for pre-training.

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
"""The first version of torch whose `interpolate` has Lanczos."""


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_box(
    height: int, width: int, scale: CropScale, ratio: CropScale, generator: random.Random
) -> Box:
    """A random crop, drawn as by torchvision's RandomResizedCrop: if ten draws do not fit into the
    image, the largest centred crop within `ratio`.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        scale: Range of the fraction of the area, drawn uniformly.
        ratio: Range of width over height, drawn log-uniformly.
        generator: Draws the crop.
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
    """Resize by Pillow's Lanczos, band by band; for versions of torch without Lanczos."""
    height, width = size
    bands = (np.ascontiguousarray(band) for band in np.moveaxis(region, 2, 0))
    resized = [
        np.array(Image.fromarray(band).resize((width, height), Image.Resampling.LANCZOS))
        for band in bands
    ]
    return torch.from_numpy(np.stack(resized))


class Crop(NamedTuple):
    """A part of an image as it lies in memory, and how the view it was cut from turns and flips it.

    To turn and flip is slow on a large crop and fast once it has the size of a view, so `resize`
    does it last.
    """

    pixels: np.ndarray
    turned: bool
    flipped: tuple[int, ...]


def cut(image: np.ndarray, box: Box) -> Crop:
    """Cut a box out of an image [H,W,C], which may be a turned or mirrored view of an array."""
    region = image[box.top : box.top + box.height, box.left : box.left + box.width]
    turned = abs(region.strides[0]) < abs(region.strides[1])
    if turned:
        region = region.swapaxes(0, 1)
    flipped = tuple(axis for axis in (0, 1) if region.strides[axis] < 0)
    return Crop(np.flip(region, flipped), turned, flipped)


def resize(
    crop: Crop, size: tuple[int, int], interpolation: Interpolation
) -> UInt8[Tensor, "channels height width"]:
    """Resize a crop with antialiasing; no pixel outside the crop has an influence.

    A crop that already has the size is copied bit for bit. The result may have the strides of
    [H,W,C].

    Args:
        crop: The crop of an image, uint8.
        size: Height and width of the result.
        interpolation: The filter.
    """
    pixels, turned, flipped = crop
    size = size[::-1] if turned else size
    if pixels.shape[:2] == size:
        resized = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    elif interpolation == "lanczos" and torch.__version__ < LANCZOS_SINCE:
        resized = _pillow_lanczos(pixels, size)
    else:
        # With uint8 in the memory order [H,W,C] this is five times faster than Pillow, and equal to
        # it within rounding.
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        resized = F.interpolate(planes, size, mode=interpolation, antialias=True)[0]
    resized = resized.flip([axis + 1 for axis in flipped]) if flipped else resized
    return resized.transpose(1, 2) if turned else resized


def resize_crop(
    image: np.ndarray, box: Box, size: tuple[int, int], interpolation: Interpolation
) -> UInt8[Tensor, "channels height width"]:
    """Cut a box out of an image and resize it, as `cut` and `resize` do.

    Args:
        image: uint8 [H,W,C].
        box: The part to cut out.
        size: Height and width of the result.
        interpolation: The filter.
    """
    return resize(cut(image, box), size, interpolation)


def mirrored(image: np.ndarray, symmetry: Symmetry, generator: random.Random) -> np.ndarray:
    """Apply a random mirroring or turn; quarter turns swap height and width.

    Args:
        image: [H,W,C].
        symmetry: Which are possible: `horizontal` flips, `all` eight of the square, or `none`.
        generator: Draws one of these.

    Returns:
        A view of the image's memory.
    """
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
    """Draw jitter, mirroring and crop in the published order. Returns the crop, and the jitter that
    is left to the device (pipeline `fast`).

    As jitter changes each pixel independently of its neighbours, applying it to the crop alone has
    the same result as applying it to the whole image.
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
        """A random view of an image, uint8 [H,W,C]; the target is not used."""
        crop, jitter = _jittered_crop(image, self.config, generator)
        return ImageBatch(resize(crop, self.size, self.interpolation)[None], jitter=jitter)


@dataclass(frozen=True, kw_only=True)
class MaskedViews:
    """The patch view, the token view of the same crop, and a mask (section 2.5).

    Without `token_size` the tokenizer sees the patch view.
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
        """The random views of an image, uint8 [H,W,C]; the target is not used.

        Without `mask_generator` the mask is drawn from `generator`, after the crop.
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
    """Only `number` different views of each image, one per epoch, which then recur under new masks,
    so that what was computed from a view can be kept.

    Crop, mirroring and jitter of view v are those of epoch v, so with at least as many views as
    epochs a run is the same as without this class.
    """

    views: MaskedViews | SingleView
    number: int

    def of(self, image: np.ndarray, seed: int, epoch: int, index: int) -> ImageBatch | MaskedBatch:
        """The view of an image that is due in an epoch.

        Args:
            image: uint8 [H,W,C].
            seed: The seed of the run.
            epoch: Counted from 0.
            index: The place of the image in its source.
        """
        view = epoch % self.number
        generator = sample_generator(seed, view, index)
        which = torch.tensor([[view, index]])
        if isinstance(self.views, SingleView):
            return self.views(image, None, generator)._replace(views=which)
        masks = generator if view == epoch else sample_generator(seed, epoch, index)
        return self.views(image, None, generator, masks)._replace(views=which)
