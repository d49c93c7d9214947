"""The served model is swapped for another, or a damaged one, while eight ask without a pause."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from served_requests import watched
from trial import Trial, Try

from served import Running
from swaps import Clients, Versions, reload

CLIENTS = 8
DAMAGED = 4
"""One in so many new artifacts is damaged."""


def swap(server: Running, versions: Versions, number: int) -> None:
    """Serve the version of this number from now on."""
    versions.put(number)
    reload(server, "done")
    answer = server.ask("POST", "/predict", versions.images[0])
    assert versions.check(answer, 0) == number


def refuse(server: Running, versions: Versions, number: int) -> None:
    """Go on with the version of this number instead of a damaged one."""
    versions.damage()
    reload(server, "failed")
    answer = server.ask("POST", "/predict", versions.images[0])
    assert versions.check(answer, 0) == number


def tries(folder: Path, count: int) -> Iterator[Try]:
    versions = Versions(folder, count + 1)
    versions.put(0)
    with watched(str(versions.place)) as server:
        clients, current = Clients(server, versions, CLIENTS), 0
        for number in range(1, count + 1):
            if number % DAMAGED:
                current += 1
                yield partial(swap, server, versions, current)
            else:
                yield partial(refuse, server, versions, current)
        answers = clients.stop()
        assert all(told == sorted(told) for told in answers)
        assert server.number("beit_models_restarts_total") == 0
        print(f"{sum(map(len, answers)):,} answers from {current + 1} versions")


TRIAL = Trial(
    fault="the served model is replaced under load (SIGHUP), one time in four by a damaged one",
    promise="no request fails, each answer is the right one of exactly one version, the one that "
    "it names; nobody is answered by an older version after a newer one; instead of a damaged "
    "model the one before goes on",
    count=100,
    tries=tries,
)
