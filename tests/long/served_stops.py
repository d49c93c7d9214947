"""A server that loses the process of its models, or is told to stop, while many ask."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from served_requests import ENVIRONMENT, IMAGES, Clients
from trial import Trial, Try

from served import IMAGE, Running, serving, wait_for

CLIENTS = 8
MOMENTS = (0.0, 0.5)
"""Seconds that they ask before something happens."""
BACK = 30.0
"""Seconds after which there is another process of the models."""


class Client:
    """Somebody who asks on one connection, again and again, until told that it is the last time."""

    def __init__(self, clients: Clients, server: Running, number: int) -> None:
        self._clients, self._server = clients, server
        self._chance = random.Random(number)

    def ask(self) -> Counter[str]:
        """How often each answer was given: that of the image, or a refusal with its reason."""
        told: Counter[str] = Counter()
        connection = self._server.connect()
        try:
            last = False
            while not last:
                image = self._chance.randrange(IMAGES)
                connection.request("POST", "/predict", self._clients.images[image], IMAGE)
                with connection.getresponse() as response:
                    body = json.load(response)
                    last = response.getheader("connection") == "close"
                if response.status == 503:
                    told[body["error"]["code"]] += 1
                    time.sleep(0.05)
                else:
                    self._clients.check(response.status, body, image)
                    told["answered"] += 1
        finally:
            connection.close()
        return told


def stop(clients: Clients, moment: float, *, lost: bool) -> None:
    """Every request is answered to the last."""
    with (
        serving(str(clients.artifact), environment=ENVIRONMENT) as server,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        asking = [pool.submit(Client(clients, server, number).ask) for number in range(CLIENTS)]
        time.sleep(moment)
        if lost:
            os.kill(server.worker, signal.SIGKILL)
            wait_for(lambda: server.number("beit_models_restarts_total") == 1, BACK)
            wait_for(server.is_well, BACK)
            time.sleep(moment)
        server.process.send_signal(signal.SIGTERM)
        told = sum((one.result(60) for one in asking), Counter())
        assert told["answered"]
        assert told.keys() - {"answered"} <= ({"restarting"} if lost else set()), told
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log()


def tries(folder: Path, count: int) -> Iterator[Try]:
    clients = Clients(folder)
    chance = random.Random(0)
    for number in range(count):
        yield partial(stop, clients, chance.uniform(*MOMENTS), lost=number % 2 == 1)


TRIAL = Trial(
    fault="a server is told to stop while eight clients ask; in every second try the process of "
    "its models was killed just before",
    promise="every request on a connection that the server knows is answered, rightly or, without "
    "models, with 503; the last answer says that it is the last, and the exit code is 0",
    count=100,
    tries=tries,
)
