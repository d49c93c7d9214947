"""Eight times as many requests as the server can answer."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from served_requests import IMAGES, MEASURED, Clients, Growth, watched
from trial import Trial, Try

from served import Running

QUEUE = 8
GATHER = 0.25
"""So many seconds the server waits for a batch that the queue can never fill: it answers
QUEUE requests in each."""
CLIENTS = 8 * QUEUE
"""Each of them asks once in that time."""
QUICK = 0.05
"""Half of the refusals come sooner; in seconds."""
LIMITS = ["--queue", str(QUEUE), "--batch", str(2 * QUEUE), "--wait", str(GATHER)]


class Load:
    """The clients, what they were told, and how soon they were refused."""

    def __init__(self, clients: Clients, server: Running) -> None:
        self.clients = clients
        self.server = server
        self.told: Counter[int] = Counter()
        self.refused: list[float] = []

    def ask(self, number: int) -> None:
        """One request: the right answer, or a refusal that says when to ask again."""
        image = random.Random(number).randrange(IMAGES)
        began = time.monotonic()
        status, body, headers = self.server.ask("POST", "/predict", self.clients.images[image])
        took = time.monotonic() - began
        self.told[status] += 1
        if status == 429:
            assert (body["error"]["code"], headers["retry-after"]) == ("queue_full", "1")
            self.refused.append(took)
        else:
            self.clients.check(status, body, image)
        time.sleep(max(0.0, GATHER - took))


def tries(folder: Path, count: int) -> Iterator[Try]:
    clients = Clients(folder)
    with (
        watched(str(clients.artifact), *LIMITS) as server,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        load, growth = Load(clients, server), Growth(server, count)
        for begin in range(0, count, CLIENTS):
            numbers = range(begin, min(begin + CLIENTS, count))
            asked = [pool.submit(load.ask, number) for number in numbers]
            for one in asked:
                yield partial(one.result, 60)
            growth.look(begin)
        growth.check()
        assert load.told.keys() == {200, 429}, load.told
        middle = statistics.median(load.refused)
        print(f"{dict(load.told)}; half of the refusals within {middle * 1000:.1f} ms")
        assert count < MEASURED or middle < QUICK


TRIAL = Trial(
    fault="eight times as many requests as the server can answer, 64 at once for a queue of 8",
    promise="each gets its right answer, or 429 with Retry-After, half of these within 50 ms; "
    "memory of both processes grows by at most 2 %",
    count=20_000,
    tries=tries,
)
