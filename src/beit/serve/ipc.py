"""Frames between the server and the process of its models: a head in JSON, then bytes."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO, NamedTuple

SIZES = struct.Struct(">II")


class Frame(NamedTuple):
    """A head and the bytes that it speaks of."""

    head: dict[str, Any]
    data: bytes = b""

    def packed(self) -> bytes:
        """The frame as it travels."""
        head = json.dumps(self.head).encode()
        return SIZES.pack(len(head), len(self.data)) + head + self.data


async def receive(reader: asyncio.StreamReader) -> Frame:
    """The next frame. Raises IncompleteReadError or OSError when the other side is gone."""
    head, data = SIZES.unpack(await reader.readexactly(SIZES.size))
    return Frame(json.loads(await reader.readexactly(head)), await reader.readexactly(data))


def read(stream: BinaryIO) -> Frame | None:
    """The next frame, waited for; None when the other side is gone."""
    sizes = stream.read(SIZES.size)
    if len(sizes) < SIZES.size:
        return None
    head, data = SIZES.unpack(sizes)
    return Frame(json.loads(stream.read(head)), stream.read(data))
