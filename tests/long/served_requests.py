"""Requests to a real server, sixteen at once; of each sixteen two mean harm."""

from __future__ import annotations

import io
import os
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from trial import Trial, Try

import beit
from served import Running, png, serving, write_artifacts

TOGETHER = 16
IMAGES = 64
"""Different images that are asked about."""
GROWTH = 1.02
"""Most memory at the end over that after a quarter of the requests."""
MEASURED = 10_000
"""From so many requests on memory is compared."""
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(beit.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
}
LIMITS = ["--body", "100000", "--pixels", "1000000", "--header-deadline", "1", "--body-deadline",
          "2", "--queue", "64"]  # fmt: skip


def bomb() -> bytes:
    """A small file of 100 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    return buffer.getvalue()


class Clients:
    """Good and bad clients of one server; the good ones know the right answers."""

    def __init__(self, folder: Path) -> None:
        self.artifact = write_artifacts(folder)["classifier"]
        self.images = [png(number) for number in range(IMAGES)]
        self.right = beit.load(self.artifact).probabilities(self.images)
        self.harm = (bomb(), bytes(200_000), b"<html>no image</html>", self.images[0][:60], b"")
        self.chance = random.Random(0)

    def ask(self, server: Any, number: int) -> None:
        """The answer belongs to the image."""
        status, body, _ = server.ask("POST", "/predict?top=3", self.images[number])
        self.check(status, body, number)

    def check(self, status: int, body: Any, number: int) -> None:
        """Whether it is the answer of this image."""
        assert status == 200, (status, body)
        found = {label["name"]: label["probability"] for label in body["labels"]}
        wanted = dict(zip(("disc", "stripes", "tiles"), self.right[number].tolist(), strict=True))
        assert max(found, key=found.__getitem__) == max(wanted, key=wanted.__getitem__)
        assert all(abs(found[name] - wanted[name]) < 1e-5 for name in wanted), (found, wanted)

    def harms(self, server: Any, number: int) -> None:
        """It is refused, or nobody is there to be answered; never a failure of the server."""
        slow = number % 40 == 39
        kind = number % (len(self.harm) + 1)
        if kind < len(self.harm) and not slow:
            status, body, _ = server.ask("POST", "/predict", self.harm[kind])
            assert 400 <= status < 500, (status, body)
            return
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
            )
            if not slow:  # leaves early
                return
            connection.sendall(b"Content-Type: image/png\r\n\r\nslow")
            answer = connection.recv(65536)  # closed at the deadline
            assert not answer or b" 408 " in answer, answer


@contextmanager
def watched(*arguments: str) -> Iterator[Running]:
    """A server that stops well."""
    with serving(*arguments, environment=ENVIRONMENT) as server:
        yield server
        assert server.stop() == 0


class Growth:
    """What a server holds after a quarter of the tries, and in the end."""

    def __init__(self, server: Running, count: int) -> None:
        self.server = server
        self.count = count
        self.settled = (0, 0)

    def look(self, tried: int) -> None:
        """Between two tries."""
        if not self.settled[0] and tried * 4 >= self.count:
            self.settled = self.server.memory(), self.server.handles()

    def check(self) -> None:
        """In the end; with few tries there is nothing to see."""
        if self.count < MEASURED:
            return
        memory, handles = self.server.memory(), self.server.handles()
        print(f"pages {self.settled[0]:,} to {memory:,}; handles {self.settled[1]} to {handles}")
        assert memory <= self.settled[0] * GROWTH, f"{self.settled[0]} pages grew to {memory}"
        assert handles <= self.settled[1] + TOGETHER, f"{self.settled[1]} grew to {handles}"


def tries(folder: Path, count: int) -> Iterator[Try]:
    clients = Clients(folder)
    with (
        watched(str(clients.artifact), *LIMITS) as server,
        ThreadPoolExecutor(TOGETHER) as pool,
    ):
        growth = Growth(server, count)
        for begin in range(0, count, TOGETHER):
            asked = []
            for number in range(begin, min(begin + TOGETHER, count)):
                bad = number % 8 == 7
                what = number // 8 if bad else clients.chance.randrange(IMAGES)
                asked.append(pool.submit(clients.harms if bad else clients.ask, server, what))
            for answer in asked:
                yield partial(answer.result, 60)
            growth.look(begin)
        growth.check()


TRIAL = Trial(
    fault="requests, sixteen at once: one in eight is a bomb, oversized, no image, cut, "
    "empty, slow or leaves early",
    promise="every good one gets the answer of its own image (to 1e-5), every bad one a refusal "
    "(4xx) or a closed connection; memory of both processes grows by at most 2 %, open files and "
    "threads not at all, and a stop ends with code 0",
    count=100_000,
    tries=tries,
)
