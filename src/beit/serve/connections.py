"""Deadlines and a cap for connections, which uvicorn has not: nobody holds one for nothing.

Times are read from the loop's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from beit.config.serve import ServeConfig
from beit.serve.http_errors import BAD_REQUEST, TIMED_OUT, TOO_MANY_CONNECTIONS, Reason

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

LOOK_EVERY = 0.5
LAST_MOMENT = 0.25
"""Seconds that a request may still be on its way when the server stops."""


def body_of(reason: Reason, request_id: str) -> bytes:
    """The JSON body of a refusal."""
    error = {"code": reason.code, "message": reason.text, "request_id": request_id}
    return json.dumps({"error": error}).encode()


def raw_response(reason: Reason) -> bytes:
    """A whole refusal, for a connection that gets no request through."""
    body = body_of(reason, uuid.uuid4().hex)
    head = (
        f"HTTP/1.1 {reason.status} Refused\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines for the head, the body and the reader, and a cap."""

    limits = ServeConfig()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._refused = False
        self._stopping = False
        self._waiting_since = 0.0
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._body_bytes = 0
        self._written_since: float | None = None
        self._unwritten = 0
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        if len(self.connections) > self.limits.connections:
            self._refuse(TOO_MANY_CONNECTIONS)
            return
        self._look = self.loop.call_later(LOOK_EVERY, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._body_since is None and self._head_since is None:
            self._head_since = self.loop.time()
        self._body_bytes += len(data)
        super().data_received(data)
        self._follow()
        if self._stopping:
            self._close_after_answer()

    def shutdown(self) -> None:
        """The server stops: a request that is here or on its way is answered, and is the last."""
        self._stopping = True
        self._close_after_answer()
        self.loop.call_later(LAST_MOMENT, self._close_unless_asked)

    def _close_after_answer(self) -> None:
        if not self._at_rest():
            self.cycle.keep_alive = False

    def _close_unless_asked(self) -> None:
        if self._at_rest() and self._head_since is None and not self.transport.is_closing():
            super().shutdown()

    def on_response_complete(self) -> None:
        self._head_since = self._body_since = None
        self._waiting_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BAD_REQUEST)

    def _at_rest(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _follow(self) -> None:
        """Note where the request is: in its head, in its body, or past it."""
        if self._at_rest():
            return
        self._head_since = None
        if not self.cycle.more_body:
            self._body_since = None
        elif self._body_since is None:
            self._body_since, self._body_bytes = self.loop.time(), 0

    def _refuse(self, reason: Reason) -> None:
        """Answer, if nothing was answered yet, and close."""
        self._refused = True
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(raw_response(reason))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(LOOK_EVERY, self.transport.abort)

    def _check(self) -> None:
        if self.transport.is_closing():
            # What was answered may still be unread: the writer's deadline holds on.
            if self._is_stuck():
                self.transport.abort()
                return
        elif self._is_stuck():
            self.transport.abort()
            return
        elif self._is_late():
            self._refuse(TIMED_OUT)
            return
        self._look = self.loop.call_later(LOOK_EVERY, self._check)

    def _is_late(self) -> bool:
        now, limits = self.loop.time(), self.limits
        if self._head_since is not None:
            return now - self._head_since > limits.header_deadline
        if self._body_since is not None and not self._at_rest() and self.cycle.more_body:
            took = now - self._body_since
            slow = self._body_bytes < took * limits.body_rate
            return took > limits.body_deadline or (took > limits.header_deadline and slow)
        if self._at_rest() and self.conn.their_state is h11.IDLE:
            return now - self._waiting_since > limits.idle_deadline
        return False

    def _is_stuck(self) -> bool:
        """Whether the client has taken nothing of its answer for too long."""
        left = self.transport.get_write_buffer_size()
        now = self.loop.time()
        if left == 0 or left != self._unwritten or self._written_since is None:
            self._unwritten, self._written_since = left, now
            return False
        return now - self._written_since > self.limits.write_deadline
