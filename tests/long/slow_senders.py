"""Two hundred who send a byte every half second, while others ask as they should."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from served_requests import IMAGES, Clients, watched
from trial import Trial, Try

from served import Running, wait_for

TOGETHER = 200
PAUSE = 0.5
CLOSED_WITHIN = 10.0
GOOD = 4
"""Good clients beside them."""
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
STARTS = (
    b"",
    HEAD,
    HEAD + b"Content-Length: 5000\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n",
)


def send_slowly(server: Running, number: int) -> None:
    """Until the server closes, which it does soon."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        began = time.monotonic()
        connection.sendall(STARTS[number % len(STARTS)])
        connection.settimeout(PAUSE)
        answer = b""
        while True:
            try:
                connection.sendall(b"P")
                part = connection.recv(65536)
            except TimeoutError:
                assert time.monotonic() - began < CLOSED_WITHIN, "it was not closed"
                continue
            except (BrokenPipeError, ConnectionResetError):
                part = b""
            if not part:
                break
            answer += part
    assert not answer or b" 408 " in answer, answer


def ask_until(clients: Clients, server: Running, done: threading.Event) -> int:
    """Ask and check the answers; how many there were."""
    chance, asked = random.Random(0), 0
    while not done.is_set():
        clients.ask(server, chance.randrange(IMAGES))
        asked += 1
    return asked


def tries(folder: Path, count: int) -> Iterator[Try]:
    clients = Clients(folder)
    done = threading.Event()
    with (
        watched(str(clients.artifact), "--batch", "4") as server,
        ThreadPoolExecutor(TOGETHER + GOOD) as pool,
    ):
        good: list[Future[int]] = [
            pool.submit(ask_until, clients, server, done) for _ in range(GOOD)
        ]
        for begin in range(0, count, TOGETHER):
            numbers = range(begin, min(begin + TOGETHER, count))
            slow = [pool.submit(send_slowly, server, number) for number in numbers]
            for one in slow:
                yield partial(one.result, 60)
        done.set()
        assert all(one.result(60) > 0 for one in good)
        wait_for(lambda: server.number("beit_requests_waiting") == 0)


TRIAL = Trial(
    fault="200 clients at once send a byte every half second, in the head or in the body, while "
    "four others ask as they should",
    promise="each slow one is closed within 10 s, and every good one gets its right answer",
    count=1_000,
    tries=tries,
)
