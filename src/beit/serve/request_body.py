"""The bytes of a request, within the limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from beit.config.serve import ServeConfig
from beit.serve.http_errors import (
    BODY_TOO_LARGE,
    EMPTY_BODY,
    QUEUE_FULL,
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
