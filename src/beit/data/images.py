"""Decoded images of a source: one by one, all at once into a cache, or a few as a sample.

The sample shows whether any image can be read, and whether images of more than 8 bits use so little
of their range that scaling loses grey levels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from beit.data.bands import count_bands, is_tiff, read_all_bands
from beit.data.colours import ValueRange, is_deep, own_range, stored_bits, to_eight_bits
from beit.data.decode import PIXEL_LIMIT, decode, decode_first, pillow_is_quiet
from beit.data.file_types import FORMATS
from beit.data.sources import ImageSource, Record, Target, spread, target_at
from beit.errors import DataError, UnreadableError
from beit.hardware import cores
from beit.terminal import counted, quoted

CACHE_LIMIT = 512 * 2**20
"""Most bytes of decoded images that are cached without being requested."""
ESTIMATE_FROM = 16
PROBES = 8
"""Size of the sample by which all images of a source are judged."""
NARROW_BITS = 14
"""Images that use at most this many of their 16 bits are reported; sensors have 10, 12 or 14. With
15 bits, every second of 256 levels is lost, as in dark images of full range; with fewer bits, more
levels are lost than kept."""


class DecodedImage(NamedTuple):
    """Pixels uint8 [H,W,C], which must not be written to, and the class id or labels, if any.

    A segmented image has its labels as one more channel: [H,W,C+1].
    """

    pixels: np.ndarray
    target: Target | None
    multi_frame: bool = False
    """Whether the file is animated or has several pages; this is the first image in it."""


class Images:
    """Decoded images by index. With `cache` they are kept in memory; None does so if they fit in
    half a gigabyte.

    Cached images are decoded by threads before the first use and lie in one flat tensor, so that
    worker processes share its memory however they are started.
    """

    def __init__(
        self,
        source: ImageSource,
        channels: int,
        cache: bool | None = False,
        value_range: ValueRange | None = None,
    ) -> None:
        self.source = source
        self._value_range = value_range
        self._channels = channels
        self._flat: torch.Tensor | None = None
        self._starts = np.zeros(0, np.int64)
        self._shapes = np.zeros((0, 3), np.int64)
        self._reasons: dict[int, str] = {}
        self._multi_frame: frozenset[int] = frozenset()
        if cache or (cache is None and self._fit()):
            self._keep()

    @property
    def cached(self) -> bool:
        """Whether the decoded images are in memory."""
        return self._flat is not None

    def _image(self, record: Record) -> DecodedImage:
        pixels, multi_frame = decode_first(
            record.data, channels=self._channels, value_range=self._value_range
        )
        if (labels := record.labels) is not None:
            if labels.shape != pixels.shape[:2]:
                raise UnreadableError(f"its mask is {labels.shape}, the image {pixels.shape[:2]}")
            pixels = np.dstack([pixels, labels])
        return DecodedImage(pixels, record.target, multi_frame)

    def _decoded(self, index: int) -> DecodedImage | str:
        """The image, or the reason why there is none."""
        try:
            return self._image(self.source.read(index))
        except UnreadableError as error:
            return error.reason

    def _fit(self) -> bool:
        """Whether all images probably fit in the cache, judged by a few spread over the source."""
        tried = [self._decoded(index) for index in spread(len(self.source), ESTIMATE_FROM)]
        sizes = [one.pixels.nbytes for one in tried if not isinstance(one, str)]
        return bool(sizes) and sum(sizes) / len(sizes) * len(self.source) <= CACHE_LIMIT

    def _keep(self) -> None:
        with ThreadPoolExecutor(cores()) as threads:
            decoded = list(threads.map(self._decoded, range(len(self.source))))
        self._reasons = {
            index: reason for index, reason in enumerate(decoded) if isinstance(reason, str)
        }
        read = {index: one for index, one in enumerate(decoded) if isinstance(one, DecodedImage)}
        self._multi_frame = frozenset(index for index, one in read.items() if one.multi_frame)
        self._shapes = np.zeros((len(decoded), 3), np.int64)
        for index, one in read.items():
            self._shapes[index] = one.pixels.shape
        sizes = self._shapes.prod(axis=1)
        self._starts = np.cumsum(sizes) - sizes
        self._flat = torch.empty(int(sizes.sum()), dtype=torch.uint8)
        memory = self._flat.numpy()
        for index in list(read):
            pixels, start = read.pop(index).pixels, int(self._starts[index])
            memory[start : start + pixels.size] = pixels.reshape(-1)
            decoded[index] = ""  # frees the image, so that few are in memory twice

    def read(self, index: int) -> DecodedImage:
        """One image. Raises UnreadableError, with the reason, if it cannot be read."""
        if self._flat is None:
            return self._image(self.source.read(index))
        if index in self._reasons:
            raise UnreadableError(self._reasons[index])
        shape, start = tuple(self._shapes[index].tolist()), int(self._starts[index])
        pixels = self._flat.numpy()[start : start + math.prod(shape)].reshape(shape)
        target = target_at(self.source.targets, index)
        return DecodedImage(pixels, target, index in self._multi_frame)


def check_readable(
    source: ImageSource, channels: int = 3, value_range: ValueRange | None = None
) -> None:
    """Check that any of a few images, spread over the source, can be read.

    Args:
        source: The images.
        channels: Channels that images are decoded to.
        value_range: What becomes 0 and 255 where values have more than eight bits.

    Raises:
        DataError: If none can be read, with the reasons.
    """
    reasons: list[str] = []
    indices = spread(len(source), PROBES)
    for index in indices:
        try:
            decode(source.read(index).data, channels=channels, value_range=value_range)
        except UnreadableError as error:
            reasons.append(f"{source.key(index)} ({error.reason})")
        else:
            return
    raise DataError(
        f"none of {counted(len(indices), 'image')} tried can be read: " + quoted(reasons),
        remedy="follow the reason given for each file; `beit data check` lists all of them",
    )


# -- bits in use -----------------------------------------------------------------------------------


class BitDepth(NamedTuple):
    """How much of 16 bits the values of an image use, if the file states no range of its own."""

    largest: int
    levels: int
    """Different values in the file; 0 if unknown, as of several channels, which Pillow cuts to 8
    bits."""
    kept: int
    """Different values that are left after scaling to eight bits."""

    @property
    def bits(self) -> int:
        """Bits that the largest value needs."""
        return self.largest.bit_length()

    def __str__(self) -> str:
        lost = f": {self.kept} of {self.levels} levels are left" if self.levels else ""
        return f"values up to {self.largest}, {self.bits} of 16 bits{lost}"


def bit_depth_of(data: bytes) -> BitDepth | None:
    """The bits that an encoded image uses; None if it has another depth than 16 bits, states its
    own range, or cannot be read."""
    try:
        with pillow_is_quiet:
            return _bit_depth_of(data)
    except Exception:  # reported when the image itself is read
        return None


def _bit_depth_of(data: bytes) -> BitDepth | None:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        bands = count_bands(data) if is_tiff(data) else None
        if bands is None or bands.height * bands.width > PIXEL_LIMIT:
            return None
        values = read_all_bands(data)
    else:
        with image:
            if stored_bits(image, data) != 16 or image.width * image.height > PIXEL_LIMIT:
                return None
            image.load()
            if not is_deep(image):  # of which Pillow decodes only the upper eight bits
                upper = np.asarray(image.convert("RGB"))
                return BitDepth(int(upper.max()) << 8 | 0xFF, 0, len(np.unique(upper)))
            if own_range(image, data):
                return None
            values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 2 or int(values.min()) < 0:
        return None
    found = np.unique(values)
    return BitDepth(int(found[-1]), len(found), len(np.unique(to_eight_bits(found))))


def narrow(depths: Iterable[BitDepth | None]) -> int | None:
    """The bits that the image with the largest values needs, if at most `NARROW_BITS`; else, or
    without any image, None. One dark image among others is no sign of a narrow range."""
    found = [depth.bits for depth in depths if depth is not None]
    return max(found) if found and max(found) <= NARROW_BITS else None


def narrow_note(source: ImageSource) -> str:
    """A note for a source whose images use few of their 16 bits, judged by a few spread over it;
    else empty."""
    depths = []
    for index in spread(len(source), PROBES):
        try:
            depths.append(bit_depth_of(source.read(index).data))
        except UnreadableError:
            continue
    bits = narrow(depths)
    if bits is None:
        return ""
    return (
        f"images of 16 bits hold at most {bits} (of {len(depths)} looked at): grey levels are lost "
        f"unless their range is given, as with --value-range 0 {2**bits - 1}"
    )


def range_note(value_range: ValueRange) -> str:
    """A note on the value range with which images are read."""
    first, last = value_range
    return f"values of more than 8 bits are scaled from {first:g} to {last:g} (--value-range)"
