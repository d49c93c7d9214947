"""What surrounds the application: request ids, access control, the log, and security headers."""

from __future__ import annotations

import json
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Iterable

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beit.config.serve import ServeConfig
from beit.serve.http_errors import (
    BAD_REQUEST,
    FOREIGN_HOST,
    FOREIGN_ORIGIN,
    NO_KEY,
    Reason,
    body_of,
)

LOG = logging.getLogger("beit.serve")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PROBES = ("/health", "/ready")
"""Open to any host, as orchestrators use the machine's address; they reveal nothing."""
PAGE = "/"
"""Open without the key, which it asks for; it reveals nothing."""
KEY_HEADERS = ("Authorization", "X-API-Key")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
REQUESTS = Counter(
    "beit_requests", "Requests that were answered, by path and status.", ["path", "status"]
)
SECONDS = Histogram(
    "beit_request_seconds",
    "Time from the end of a request's head to the end of its answer.",
    ["path"],
)


def host_name(value: str) -> str:
    """The name in `name:port`, `[::1]:port`, or an origin; "" if it is none of them."""
    name = value.removeprefix("http://").removeprefix("https://").lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


def refusal(reason: Reason, request_id: str) -> Response:
    """The answer to a refused request; closes the connection if the rest of a body may come."""
    headers = {}
    if reason.status in (400, 408, 413):
        headers["connection"] = "close"
    if reason is NO_KEY:
        headers["www-authenticate"] = "Bearer"
    if reason.status in (429, 503):
        headers["retry-after"] = "1"
    body = body_of(reason, request_id)
    return Response(body, reason.status, headers, media_type="application/json")


class RequestGuard:
    """Wraps the application: refuses foreign hosts and origins, and requests without the key;
    counts and logs requests.

    A failure of the application is logged with the request's id; the client never gets its text.
    Once the server is stopping, each answer announces that it is the last on its connection.

    Args:
        application: Answers the requests that are not refused.
        limits: Names the hosts and origins that are allowed.
        paths: Paths that are counted by name; all others are counted together.
        is_stopping: Whether the server is stopping.
        key: What requests must bring; empty: nothing.
    """

    def __init__(
        self,
        application: ASGIApp,
        limits: ServeConfig,
        paths: Iterable[str],
        is_stopping: Callable[[], bool],
        key: str,
    ) -> None:
        self._application = application
        self._hosts = {*LOOPBACK, *(name.lower() for name in limits.allow_host)}
        self._origins = frozenset(limits.allow_origin)
        self._key = key.encode()
        self._paths = frozenset(paths)
        self._is_stopping = is_stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        began = time.monotonic()
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({**HEADERS, "x-request-id": request_id})
                if self._is_stopping():
                    headers["connection"] = "close"
            await send(message)

        reason = self._refusal(scope)
        answer = self._application if reason is None else refusal(reason, request_id)
        try:
            await answer(scope, receive, send_guarded)
        except Exception:  # it was answered with 500 already
            LOG.exception("request %s failed", request_id)
        path = scope["path"] if scope["path"] in self._paths else "other"
        took = time.monotonic() - began
        REQUESTS.labels(path, str(status)).inc()
        SECONDS.labels(path).observe(took)
        if status >= 400:
            # As JSON in ASCII: no line break or escape sequence of a path reaches the log.
            shown = json.dumps(scope["path"][:200])
            method = json.dumps(scope["method"][:20])
            LOG.info("%s %s %s: %s in %.3f s", request_id, method, shown, status, took)

    def _refusal(self, scope: Scope) -> Reason | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) > 1 or ("transfer-encoding" in headers and "content-length" in headers):
            return BAD_REQUEST
        if scope["path"] in PROBES and scope["method"] == "GET":
            return None
        if not hosts or host_name(hosts[0]) not in self._hosts:
            return FOREIGN_HOST
        if not all(map(self._may_ask, headers.getlist("origin"))):
            return FOREIGN_ORIGIN
        if self._key and scope["path"] != PAGE and not self._has_key(headers):
            return NO_KEY
        return None

    def _may_ask(self, origin: str) -> bool:
        return host_name(origin) in self._hosts or not self._origins.isdisjoint((origin, "*"))

    def _has_key(self, headers: Headers) -> bool:
        """Whether the key is right, compared in constant time."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return secrets.compare_digest(given.encode("latin-1"), self._key)
