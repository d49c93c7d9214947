"""A shuffle of any length in constant memory: where each place goes is computed, never kept."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from beit.rng import derive_seed


class Permutation:
    """A keyed permutation of the numbers below `length`, of which any part can be computed alone.

    A Feistel network over pairs (left, right) with `left` below a and `right` below b, where a * b
    is just above the length and a and b are nearly equal (Black and Rogaway, "Ciphers with
    arbitrary finite domains", 2002, method 3); results beyond the length are permuted again until
    they are inside, which at a million numbers one in two thousand needs.
    """

    ROUNDS: ClassVar[int] = 10

    def __init__(self, length: int, *key: int | str) -> None:
        self.length = length
        self._left = math.isqrt(max(length - 1, 0)) + 1
        self._right = max(-(-length // self._left), 1)
        rounds = np.arange(self.ROUNDS, dtype=np.uint64)
        self._keys = _hashed(rounds + np.uint64(derive_seed("permutation", *key)))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Where the places go, both int64 of any shape, from 0 to `length` - 1."""
        found = self._permuted(places.astype(np.uint64))
        while (outside := found >= self.length).any():
            found[outside] = self._permuted(found[outside])
        return found.astype(np.int64)

    def _permuted(self, values: np.ndarray) -> np.ndarray:
        width = np.uint64(self._right)
        sides = [values // width, values % width]
        for number, key in enumerate(self._keys):
            here, size = number % 2, np.uint64((self._left, self._right)[number % 2])
            # The upper 32 bits times the size: a fair choice below it without a division.
            drawn = (_hashed(sides[1 - here] + key) >> np.uint64(32)) * size >> np.uint64(32)
            sides[here] = (sides[here] + drawn) % size
        return sides[0] * width + sides[1]


def _hashed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every bit of the value changes every bit of the result."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: np.ndarray = values ^ (values >> np.uint64(31))
    return hashed
