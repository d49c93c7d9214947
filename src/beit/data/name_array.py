"""Millions of names in little memory."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator

import numpy as np


class Names:
    """Byte strings in one block of memory with their ends.

    Worker processes share it, where a list of objects would be copied page by page as it is read.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        block, ends = bytearray(), array("q")
        for name in names:
            block += name
            ends.append(len(block))
        self.block = np.frombuffer(bytes(block), np.uint8)
        self.ends = np.array(ends, dtype=np.int64)

    @classmethod
    def joined(cls, block: np.ndarray, ends: np.ndarray) -> Names:
        """From what another one holds: uint8 [bytes] and int64 [n]."""
        names = cls(())
        names.block, names.ends = block, ends
        return names

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        start = int(self.ends[index - 1]) if index else 0
        return self.block[start : int(self.ends[index])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


def short_hash(name: bytes) -> int:
    """64 bits, the same on every machine: two of a billion names fall together once in 37 times."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
