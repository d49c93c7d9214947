"""Values of pixels to eight bits, and what is said of a picture that cannot be read."""

from __future__ import annotations

import numpy as np

from beit.errors import DataError

LARGEST_16_BIT = 65535
WHOLE = (LARGEST_16_BIT,)
"""The usual range of integers that are wider than 16 bits."""
REAL = (1, 255, LARGEST_16_BIT)
"""The usual ranges of floats, smallest first."""

_EIGHT_BITS = (
    (np.arange(LARGEST_16_BIT + 1) * 255 + LARGEST_16_BIT // 2) // LARGEST_16_BIT
).astype(np.uint8)


class UnreadableError(DataError):
    """A picture cannot be read; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the picture cannot be read: {reason}", remedy="repair, convert or remove the file"
        )

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str]]:
        return type(self), (self.reason,)


def from_16_bits(values: np.ndarray) -> np.ndarray:
    """65535 to 255, rounded."""
    found: np.ndarray = _EIGHT_BITS[values]
    return found


def scaled(values: np.ndarray, ranges: tuple[int, ...]) -> np.ndarray:
    """Numbers of any size to uint8 by the first range that holds them all."""
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnreadableError("it holds values that are not finite numbers")
    for largest in ranges:
        if low >= 0 and high <= largest:
            found: np.ndarray = np.rint(values * (255.0 / largest)).astype(np.uint8)
            return found
    raise UnreadableError(
        f"its values run from {low:g} to {high:g}; convert them to a range from 0 to {ranges[-1]}"
    )


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Pixels of any type of number to uint8, by the rules above."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return from_16_bits(values)
    return scaled(values, REAL if values.dtype.kind == "f" else WHOLE)
