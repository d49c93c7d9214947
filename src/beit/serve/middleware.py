"""Around the application: a request id, who may ask, the log, and an answer whatever happens."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beit.serve.connections import body_of
from beit.serve.http_errors import BAD_REQUEST, FOREIGN_HOST, FOREIGN_ORIGIN, INTERNAL, Reason
from beit.serve.metrics import Metrics

LOG = logging.getLogger("beit.serve")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PROBES = ("/health", "/ready")
"""Asked by orchestrators under the machine's address; they tell nothing."""
POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


def host_name(value: str) -> str:
    """The name in `name:port`, `[::1]:port`, or an origin; "" for what is none of them."""
    name = value.removeprefix("http://").removeprefix("https://").lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


class Guard:
    """Wraps the application. Refuses foreign hosts and origins; a failure of the application is
    logged with the request's id and answered with 500, never with its text. From when the server
    stops, each answer says that it is the last on its connection."""

    def __init__(
        self,
        application: ASGIApp,
        hosts: Iterable[str],
        paths: Iterable[str],
        metrics: Metrics,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._application = application
        self._hosts = {*LOOPBACK, *(name.lower() for name in hosts)}
        self._paths = frozenset(paths)
        self._metrics = metrics
        self._is_stopping = is_stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        began = time.monotonic()
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []), (b"x-request-id", request_id.encode()), *HEADERS,
                ]  # fmt: skip
                if self._is_stopping():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        reason = self._refusal(scope)
        try:
            if reason is not None:
                await refuse(tell, reason, request_id)
            else:
                await self._application(scope, receive, tell)
        except Exception:  # whatever it was, the client gets a fixed text
            LOG.exception("request %s failed", request_id)
            if not status:
                await refuse(tell, INTERNAL, request_id)
        path = scope["path"] if scope["path"] in self._paths else "other"
        took = time.monotonic() - began
        self._metrics.requests.labels(path, str(status)).inc()
        self._metrics.seconds.labels(path).observe(took)
        if status >= 400:
            # As JSON in ASCII: no line break or escape sequence of a path reaches the log.
            shown = json.dumps(scope["path"][:200])
            LOG.info(
                "%s %s %s: %s in %.3f s",
                request_id, json.dumps(scope["method"][:20]), shown, status, took,
            )  # fmt: skip

    def _refusal(self, scope: Scope) -> Reason | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        found: dict[bytes, list[str]] = {}
        for name, value in headers:
            found.setdefault(name, []).append(value.decode("latin-1"))
        if b"transfer-encoding" in found and b"content-length" in found:
            return BAD_REQUEST
        hosts = found.get(b"host", [])
        if len(hosts) > 1:
            return BAD_REQUEST
        if scope["path"] in PROBES and scope["method"] == "GET":
            return None
        if not hosts or host_name(hosts[0]) not in self._hosts:
            return FOREIGN_HOST
        origins = found.get(b"origin", [])
        if any(host_name(origin) not in self._hosts for origin in origins):
            return FOREIGN_ORIGIN
        return None


async def refuse(send: Send, reason: Reason, request_id: str) -> None:
    """Send a refusal. The connection is closed where the rest of a body may still come."""
    body = body_of(reason, request_id)
    headers: list[Any] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if reason.status in (400, 408, 413):
        headers.append((b"connection", b"close"))
    if reason.status in (429, 503):
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": reason.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
