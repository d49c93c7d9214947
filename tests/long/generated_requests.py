"""Requests that nobody wrote: from the server's own OpenAPI document, and from damaged bytes."""

from __future__ import annotations

import itertools
import random
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import strategies
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served_requests import LIMITS, watched
from trial import Trial, Try

from served import NAMES, Running, png, write_artifacts

CHUNK = 25
"""Cases of one path and kind, one after the other."""
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip
IMAGES = [png(number) for number in range(16)]
SETTINGS = hypothesis.settings(
    max_examples=CHUNK,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
REQUEST = (
    b"POST /predict?top=2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
CHUNKED = (
    b"POST /tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
)
WORDS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\0", b" ", b":", b"%", b"%00", b"../", b"Content-Length: 7\r\n",
    b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
    b"Host: b\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"HTTP/2.0", b"HTTP/0.9",
    b"OPTIONS * HTTP/1.1\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"X: " + b"a" * 20_000 + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\xff" * 9, "é".encode(), b"\x1b[31m",
)  # fmt: skip


def generated(document: dict[str, Any]) -> Iterator[Any]:
    """Cases that keep to the document and cases that break it, path by path, without end."""
    schemathesis.openapi.format(
        "binary", strategies.sampled_from(IMAGES) | strategies.binary(max_size=200)
    )
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    for seed in itertools.count():
        for operation in operations:
            for mode in schemathesis.GenerationMode:
                yield from examples(operation.as_strategy(generation_mode=mode), seed)


def examples(strategy: strategies.SearchStrategy[Any], seed: int) -> list[Any]:
    """A few that a strategy gives; fewer if there are no more."""
    found: list[Any] = []

    @hypothesis.seed(seed)
    @SETTINGS
    @hypothesis.given(strategy)
    def collect(case: Any) -> None:
        found.append(case)

    with suppress(hypothesis.errors.Unsatisfiable):  # a path without options breaks no rule
        collect()
    return found


def call(server: Running, session: requests.Session, case: Any, number: int) -> None:
    """What comes back is no failure, and is what the document says of it."""
    if number % 2 and "model" in {parameter.name for parameter in case.operation.query}:
        case.query = (case.query or {}) | {"model": NAMES[number // 2 % len(NAMES)]}
    response = case.call(base_url=f"http://127.0.0.1:{server.port}", session=session)
    case.validate_response(response, checks=CHECKS)


def damaged(number: int) -> bytes:
    """Two requests in a row, cut, changed, repeated or with foreign words in them."""
    chance = random.Random(number)
    image = chance.choice(IMAGES)
    whole = bytearray(REQUEST % (len(image), image) + CHUNKED % (len(image), image))
    heads = [place for place in range(len(whole)) if whole[place : place + 2] == b"\r\n"]
    for _ in range(chance.randint(1, 4)):
        place = chance.choice(heads) if chance.random() < 0.5 else chance.randrange(len(whole))
        kind = chance.randrange(5)
        if kind == 0:
            whole[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            whole[place:place] = chance.choice(WORDS)
        elif kind == 2:
            del whole[place : place + chance.randint(1, 30)]
        elif kind == 3:
            whole[place:place] = whole[place : place + chance.randint(1, 60)]
        else:
            del whole[max(1, place) :]
    return bytes(whole)


def send(server: Running, data: bytes) -> None:
    """Every answer is a refusal or a right one, and then the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        received = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert not received or received.startswith(b"HTTP/1.1 "), received[:100]
    for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received):
        assert status < b"500", received[:500]


def tries(folder: Path, count: int) -> Iterator[Try]:
    artifacts = write_artifacts(folder)
    named = [f"{name}={artifacts[name]}" for name in NAMES]
    with watched(*named, *LIMITS) as server, requests.Session() as session:
        cases = generated(server.ask("GET", "/openapi.json")[1])
        for number in range(count):
            if number % 2:
                yield partial(send, server, damaged(number))
            else:
                yield partial(call, server, session, next(cases), number // 2)
        assert server.ask("POST", "/predict", IMAGES[0])[0] == 200
        assert server.number("beit_models_restarts_total") == 0


TRIAL = Trial(
    fault="requests made from the server's own OpenAPI document, by its rules and against them, "
    "and raw bytes of requests that are cut, changed or have foreign words in them, half of each",
    promise="no answer is a failure of the server (5xx); each to a generated request has a status, "
    "a type and a form that the document names; the models are never started anew",
    count=20_000,
    tries=tries,
)
