"""Pixel values to eight bits, and the error for an image that cannot be read."""

from __future__ import annotations

import numpy as np

from beit.errors import DataError

LARGEST_16_BIT = 65535
USUAL = (1, 255, LARGEST_16_BIT)
"""The usual ranges of floats and, but for the first, of integers wider than 16 bits."""
LEAST_USED = 16
"""Floats use at least this part of a usual range above 1, or it is not theirs."""

ValueRange = tuple[float, float]
"""The values that become 0 and 255."""
NOT_FINITE = "it holds values that are not finite numbers"
_WHOLE_BITS = tuple(2**bits for bits in range(9, 16))

# 65535 to 255, rounded.
_EIGHT_BITS = (
    (np.arange(LARGEST_16_BIT + 1) * 255 + LARGEST_16_BIT // 2) // LARGEST_16_BIT
).astype(np.uint8)


class UnreadableError(DataError):
    """An image cannot be read; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the image cannot be read: {reason}", remedy="repair, convert or remove the file"
        )

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str]]:
        return type(self), (self.reason,)


def _within(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Numbers to uint8, linearly: the ends of the range become 0 and 255."""
    first, last = value_range
    low, high = float(values.min()), float(values.max())
    if not (first <= low and high <= last):  # so that NaN is refused, too
        raise UnreadableError(
            f"its values run from {low:g} to {high:g}, and value_range is {first:g} to {last:g}"
            if np.isfinite([low, high]).all()
            else NOT_FINITE
        )
    found: np.ndarray = np.rint((values - first) * (255.0 / (last - first))).astype(np.uint8)
    return found


def to_eight_bits(values: np.ndarray, value_range: ValueRange | None = None) -> np.ndarray:
    """Pixels of any type of number to uint8; those that are uint8 stay as they are.

    Errors: UnreadableError for values outside of the range, or of every usual one, and for floats
    that use next to nothing of it.
    """
    if values.dtype == np.uint8:
        return values
    if value_range is not None:
        return _within(values, value_range)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        found: np.ndarray = _EIGHT_BITS[values]
        return found
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnreadableError(NOT_FINITE)
    for largest in USUAL if values.dtype.kind == "f" else USUAL[1:]:
        if low >= 0 and high <= largest:
            if values.dtype.kind == "f" and 1 < largest > high * LEAST_USED:
                break  # such as 0 to 1.2, of which 255 would leave one grey level
            return _within(values, (0, largest))
    raise UnreadableError(
        f"its values run from {low:g} to {high:g}, which is no usual range: models trained with "
        f"--value-range LOW HIGH read them, or convert them to 0 to 1, 255 or {LARGEST_16_BIT}"
    )


def stated_range(
    values: np.ndarray, *, bits: int = 0, largest: object = None, significant: bytes = b""
) -> ValueRange | None:
    """The range that a file states for its values of 16 bits, None if that is all of them.

    `bits` and `largest` are BitsPerSample and MaxSampleValue of TIFF, `significant` is the chunk
    sBIT of PNG. Most writers of MaxSampleValue put the largest value of that one image there, by
    which each would be stretched on its own: only the end of a whole number of bits is a range.
    By its standard a PNG file with sBIT 12 has values scaled up to 65535, with zeros or copies of
    the upper bits below; if none is above 4095 and the lower bits are used, they were not scaled.
    """
    if values.dtype.kind not in "iu" or not values.size:
        return None
    top = int(values.max())
    if 8 < bits < 16:
        return (0, 2**bits - 1)
    if isinstance(largest, tuple):
        largest = max(largest, default=None)
    if isinstance(largest, int | float) and top <= largest:
        whole = int(largest) + 1
        if largest == whole - 1 and whole in _WHOLE_BITS:
            return (0, whole - 1)
    if significant:
        used = max(significant)
        unscaled = 8 < used < 16 and top < 2**used
        if unscaled and (values.astype(np.int64) & (2 ** (16 - used) - 1)).any():
            return (0, 2**used - 1)
    return None
