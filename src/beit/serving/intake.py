"""From a request's bytes to pixels, within the limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from starlette.requests import Request

from beit.config.serve import ServeConfig
from beit.data.decode import UnreadableError, decode, read_header
from beit.serving.refusals import (
    BODY_TOO_LARGE,
    EMPTY_BODY,
    NOT_A_PICTURE,
    QUEUE_FULL,
    TOO_MANY_PIXELS,
    UNREADABLE,
    WRONG_TYPE,
    Refused,
)

PLAIN_TYPES = ("application/octet-stream",)


class Intake:
    """Reads bodies; the bytes of all bodies that are held at once are counted."""

    def __init__(self, limits: ServeConfig) -> None:
        self._limits = limits
        self._held = 0

    def check_head(self, request: Request) -> None:
        """Refuse by the head alone what would be refused later."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        encoded = request.headers.get("content-encoding", "identity").strip().lower()
        if encoded != "identity" or not (kind.startswith("image/") or kind in PLAIN_TYPES):
            raise Refused(WRONG_TYPE)
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.body:
            raise Refused(BODY_TOO_LARGE)

    @contextmanager
    def holding(self, body: bytearray) -> Iterator[None]:
        """Give the room of a body free again in the end."""
        try:
            yield
        finally:
            self._held -= len(body)

    async def read(self, request: Request, body: bytearray) -> None:
        """Read the body. Raises Refused, or ClientDisconnect if the client leaves."""
        async for chunk in request.stream():
            if len(body) + len(chunk) > self._limits.body:
                raise Refused(BODY_TOO_LARGE)
            if self._held + len(chunk) > self._limits.bodies:
                raise Refused(QUEUE_FULL)
            body += chunk
            self._held += len(chunk)
        if not body:
            raise Refused(EMPTY_BODY)

    def pixels(self, data: bytes, channels: int) -> np.ndarray:
        """The picture, uint8 [H, W, channels]. Raises Refused."""
        try:
            header = read_header(data)
        except UnreadableError as error:
            unknown = error.reason.startswith("its content is none of")
            raise Refused(NOT_A_PICTURE if unknown else UNREADABLE) from None
        if header.height * header.width > self._limits.pixels:
            raise Refused(TOO_MANY_PIXELS)
        try:
            return decode(data, channels=channels, pixel_limit=self._limits.pixels)
        except UnreadableError:
            raise Refused(UNREADABLE) from None
