"""Segmenting images of any size: whole or through a sliding window, at several scales, mirrored.

Averages are taken in the order of mmsegmentation: of logits over the windows that see a pixel, then
of probabilities over scales and mirror images. The model should be in evaluation mode. An image
that has to be padded is padded at the bottom and the right with the mean colour, and the padding is
cut off again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from beit.config.segment_run import InferenceConfig, Size, window_and_stride
from beit.config.validation import require
from beit.models.segmenter import Segmenter
from beit.models.upernet import resize
from beit.models.vit import Images

Reader = Callable[[Segmenter, Images], Tensor]
"""Logits [B, C, H, W] of images [B, channels, H, W] of any size."""


@torch.no_grad()
def whole_logits(
    segmenter: Segmenter, images: Images
) -> Float[Tensor, "batch classes height width"]:
    """Logits of whole images at once, padded to full patches, at least two per side.

    The memory of the relative position bias grows with the square of the pixels: read large images
    through a window instead.
    """
    patch = segmenter.backbone.config.patch
    height, width = images.shape[-2:]
    full = [max(math.ceil(side / patch), 2) * patch for side in (height, width)]
    pixels = _padded(segmenter.backbone.normalise(images), (full[0], full[1]))
    logits: Tensor = segmenter(pixels)
    return logits[..., :height, :width]


@torch.no_grad()
def sliding_logits(
    segmenter: Segmenter,
    images: Images,
    *,
    window: Size | None = None,
    stride: Size | None = None,
    batch: int = 8,
) -> Float[Tensor, "batch classes height width"]:
    """Mean of the logits of all windows that see a pixel.

    Windows that would leave the image are moved back into it; an image smaller than the window is
    padded to it.

    Args:
        segmenter: In evaluation mode.
        images: uint8, or floats already normalised.
        window: Height and width; by default the size the backbone was built for.
        stride: By default two thirds of the window (512 and 341, 640 and 426 in the published
            configs).
        batch: Windows read at a time.

    Raises:
        ConfigError: The patch does not divide the window, the stride leaves gaps, or `batch` is not
            positive.
    """
    window, stride = window_and_stride(segmenter.backbone.config, window, stride)
    require(batch > 0, f"batch is {batch}", "read at least one window at a time")
    height, width = images.shape[-2:]
    pixels = _padded(segmenter.backbone.normalise(images), window)
    number, _, *padded = pixels.shape
    tops, lefts = (_starts(*sides) for sides in zip(padded, window, stride, strict=True))
    places = [
        (image, slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
        for image in range(number)
        for top in tops
        for left in lefts
    ]
    total = pixels.new_zeros(number, segmenter.classes, *padded, dtype=torch.float32)
    count = pixels.new_zeros(number, 1, *padded, dtype=torch.float32)
    for first in range(0, len(places), batch):
        group = places[first : first + batch]
        parts = segmenter(torch.stack([pixels[place] for place in group]))
        for place, part in zip(group, parts, strict=True):
            total[place] += part
            count[place] += 1
    return (total / count)[..., :height, :width]


def scaled_sizes(
    size: Size, scales: Sequence[float], *, patch: int, short_side: int | None = None
) -> tuple[Size, ...]:
    """The different sizes of an image at these scales, in their order.

    Each side is the nearest multiple of the patch, at least two patches; an image that keeps its
    size is left as it is.

    Args:
        size: Height and width of the image.
        scales: Factors; 1 is the image itself or, with `short_side`, that resized image.
        patch: Side of a patch in pixels.
        short_side: Length of the shorter side at scale 1; None for that of the image.

    Raises:
        ConfigError: There are no scales, or a scale or `short_side` is not above zero.
    """
    require(
        len(scales) > 0 and min(scales) > 0 and (short_side is None or short_side > 0),
        f"scales is {tuple(scales)}, short_side {short_side}",
        "use at least one scale, and sizes above zero",
    )
    unit = 1.0 if short_side is None else short_side / min(size)
    sizes = []
    for factor in (unit * scale for scale in scales):
        height, width = (max(round(side * factor / patch), 2) * patch for side in size)
        sizes.append(size if factor == 1 else (height, width))
    return tuple(dict.fromkeys(sizes))


@torch.no_grad()
def predict_probabilities(
    segmenter: Segmenter,
    images: Images,
    *,
    read: Reader = sliding_logits,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    short_side: int | None = None,
) -> Float[Tensor, "batch classes height width"]:
    """Class probabilities of each pixel, averaged over scales and, with `flip`, mirror images.

    The published multi-scale test reads sizes whose shorter side is 1, 1.25, 1.5 and 1.75 times the
    window (`short_side`), mirrored too; its scales 0.5 and 0.75 are raised to 1, so that 1
    counts three times. Here every size counts once.

    Args:
        segmenter: In evaluation mode.
        images: uint8, or floats already normalised.
        read: `whole_logits` or `sliding_logits`, with options bound by `functools.partial`.
        scales: Factors of the size, as for `scaled_sizes`.
        flip: Also read the mirror image at each scale.
        short_side: As for `scaled_sizes`.

    Raises:
        ConfigError: As for `scaled_sizes` and `read`.
    """
    own = images.shape[-2], images.shape[-1]
    pixels = segmenter.backbone.normalise(images)
    patch = segmenter.backbone.config.patch
    sizes = scaled_sizes(own, scales, patch=patch, short_side=short_side)
    total = pixels.new_zeros(len(images), segmenter.classes, *own, dtype=torch.float32)
    for size in sizes:
        scaled = pixels
        if size != own:
            scaled = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        total += resize(read(segmenter, scaled), own).softmax(dim=1)
        if flip:
            mirrored = read(segmenter, scaled.flip(-1)).flip(-1)
            total += resize(mirrored, own).softmax(dim=1)
    return total / (len(sizes) * (1 + flip))


def label_map(
    segmenter: Segmenter,
    image: UInt8[Tensor, "channels height width"],
    inference: InferenceConfig,
    *,
    batch: int = 8,
) -> UInt8[Tensor, "height width"]:
    """The most probable class of each pixel of one image of any size, on the model's device.

    Args:
        segmenter: In evaluation mode.
        image: On any device.
        inference: Window, stride, scales, and whether to mirror.
        batch: Windows read at a time.
    """
    window = functools.partial(
        sliding_logits, window=inference.window, stride=inference.stride, batch=batch
    )
    probabilities = predict_probabilities(
        segmenter,
        image[None].to(segmenter.backbone.mean.device),
        read=whole_logits if inference.whole else window,
        scales=inference.scales,
        flip=inference.flip,
        short_side=inference.short_side,
    )
    return probabilities[0].argmax(dim=0).to(torch.uint8)


def _padded(
    pixels: Float[Tensor, "batch channels _ _"], size: Size
) -> Float[Tensor, "batch channels _ _"]:
    """Normalised images padded to at least this size; zero is the mean colour."""
    below, right = (max(to - side, 0) for to, side in zip(size, pixels.shape[-2:], strict=True))
    return F.pad(pixels, (0, right, 0, below))


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows start along a side that is at least as long as they are; the last ends with
    it."""
    return [*range(0, side - window, stride), side - window]
