"""Deadlines and a cap for connections, which uvicorn lacks: nobody can hold them for free.

Times are read from the loop's monotonic clock.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Literal

from uvicorn.protocols.http.h11_impl import H11Protocol

from beit.config.serve import ServeConfig
from beit.serve.http_errors import BAD_REQUEST, TIMED_OUT, TOO_MANY_CONNECTIONS, Reason, body_of

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

CHECK_EVERY = 0.5
LAST_MOMENT = 0.25
"""Seconds that a request may still be on its way when the server stops."""
Phase = Literal["idle", "head", "body", "answer"]


def raw_response(reason: Reason) -> bytes:
    """A whole HTTP response that refuses, for a connection without a request to answer."""
    body = body_of(reason, uuid.uuid4().hex)
    head = (
        f"HTTP/1.1 {reason.status} Refused\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1, with deadlines for head, body and reading, and a cap on connections."""

    def __init__(
        self,
        limits: ServeConfig,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._phase: Phase = "idle"
        self._since = self.loop.time()
        self._received = 0
        """Bytes received in this phase."""
        self._unwritten, self._unwritten_since = 0, 0.0
        self._refused = self._stopping = False
        self._next_check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(TOO_MANY_CONNECTIONS)
            return
        self._next_check = self.loop.call_later(CHECK_EVERY, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next_check is not None:
            self._next_check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._phase == "idle":
            self._enter("head")
        self._received += len(data)
        super().data_received(data)
        self._follow()
        if self._stopping:
            self._close_after_answer()

    def on_response_complete(self) -> None:
        self._enter("idle")
        super().on_response_complete()
        self._follow()  # the next request may have come with this one

    def send_400_response(self, msg: str) -> None:
        self._refuse(BAD_REQUEST)

    def shutdown(self) -> None:
        """The server stops: a request that is here or on its way is answered, and is the last."""
        self._stopping = True
        self._close_after_answer()
        self.loop.call_later(LAST_MOMENT, self._close_if_idle)

    def _close_after_answer(self) -> None:
        if not self._is_answered():
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self._is_answered() and self._phase == "idle" and not self.transport.is_closing():
            super().shutdown()

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _enter(self, phase: Phase) -> None:
        self._phase, self._since, self._received = phase, self.loop.time(), 0

    def _follow(self) -> None:
        """Note where the request is, once its head is complete: in its body, or past it."""
        if not self._is_answered():
            phase: Phase = "body" if self.cycle.more_body else "answer"
            if phase != self._phase:
                self._enter(phase)

    def _refuse(self, reason: Reason) -> None:
        """Answer, if nothing was answered yet, and close."""
        self._refused = True
        if self._is_answered() or not self.cycle.response_started:
            self.transport.write(raw_response(reason))
        if not self._is_answered():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(CHECK_EVERY, self.transport.abort)

    def _check(self) -> None:
        if self._is_stuck():  # also while it is closing: the answer may still be unread
            self.transport.abort()
        elif self._is_late() and not self.transport.is_closing():
            self._refuse(TIMED_OUT)
        else:
            self._next_check = self.loop.call_later(CHECK_EVERY, self._check)

    def _is_late(self) -> bool:
        took, limits = self.loop.time() - self._since, self._limits
        if self._phase == "idle":
            return took > limits.idle_deadline
        if self._phase == "head":
            return took > limits.header_deadline
        if self._phase == "body":
            slow = self._received < took * limits.body_rate
            return took > limits.body_deadline or (took > limits.header_deadline and slow)
        return False

    def _is_stuck(self) -> bool:
        """Whether the client has taken nothing of its answer for too long."""
        left, now = self.transport.get_write_buffer_size(), self.loop.time()
        if left == 0 or left != self._unwritten:
            self._unwritten, self._unwritten_since = left, now
        return left > 0 and now - self._unwritten_since > self._limits.write_deadline
