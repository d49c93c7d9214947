"""The server's side of the process that runs the models: it is watched, and replaced."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from beit import errors
from beit.config.serve import ServeConfig
from beit.errors import BeitError, ResourceError
from beit.serving.channel import Frame, receive
from beit.serving.metrics import Metrics
from beit.serving.refusals import BY_CODE, RESTARTING, Refused
from beit.serving.table import Described

LOG = logging.getLogger("beit.serving")
LOOK_EVERY = 0.25
MOST_STARTS = 5
"""So many failed starts in a row, each after twice the pause of the one before, end the server."""
STOPPING = {signal.SIGINT, signal.SIGTERM}
GONE = (asyncio.IncompleteReadError, OSError)


class ModelFailedError(Exception):
    """The traceback of a failure in the other process."""


class ModelProcess:
    """Models in a process of its own.

    It is taken for hung when it says nothing for `deadline` seconds while it has requests. Then,
    or when it dies, what was with it is refused with RESTARTING, as is what is asked until
    another is ready.
    """

    def __init__(
        self, places: Mapping[str, str], device: str, limits: ServeConfig, metrics: Metrics
    ) -> None:
        self.described: Described = []
        self.is_ready = False
        self.given_up: BeitError | None = None
        """Why it is not started any more."""
        self._settings = {
            "places": dict(places), "device": device, "batch": limits.batch, "wait": limits.wait,
            "pixels": limits.pixels, "deadline": limits.deadline,
        }  # fmt: skip
        self._deadline = limits.deadline
        self._metrics = metrics
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._heard = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and keep it. Raises BeitError if it does not become ready."""
        await self._begin()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it; what it has not answered is lost."""
        if self._keeper is not None:
            self._keeper.cancel()
        await self._end()

    async def ask(self, model: str, ability: str, options: Mapping[str, Any], data: bytes) -> bytes:
        """The answer as JSON. Raises Refused; ModelFailedError with what went wrong there."""
        with suppress(OSError):  # if it is gone, it is no longer ready
            await self._writer.drain()
        if not self.is_ready:
            raise Refused(RESTARTING)
        number = next(self._numbers)
        if not self._asked:
            self._heard = asyncio.get_running_loop().time()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        head = {"number": number, "model": model, "ability": ability, "options": dict(options)}
        self._writer.write(Frame(head, data).packed())
        try:
            return await answer
        finally:
            if answer.cancelled():  # nobody waits any more
                self._writer.write(Frame({"drop": number}).packed())

    async def _begin(self) -> None:
        """Start a process and wait until it is ready."""
        try:
            self._reader, self._writer = await self._spawn()
            self._writer.write(Frame(self._settings).packed())
            head = (await receive(self._reader)).head
        except GONE:
            raise ResourceError(
                f"the process of the models {await self._end()} while it was starting",
                remedy="read what it wrote above; with memory too short, serve fewer models",
            ) from None
        if "error" in head:
            kind: type[BeitError] = getattr(errors, head["error"])
            raise kind(head["problem"], remedy=head["remedy"])
        self.described = head["models"]
        self.is_ready = True

    async def _spawn(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        with theirs:
            # A signal to the group is for the server; the process inherits that it is blocked.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-m", "beit.serving.worker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return await asyncio.open_connection(sock=ours)

    async def _end(self) -> str:
        """Make an end of the process; how it ended."""
        self.is_ready = False
        process = self._process
        if process is None:
            return "never was"
        self._writer.close()
        process.kill()
        code = await asyncio.to_thread(process.wait)
        return f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"

    async def _keep(self) -> None:
        """Start another one whenever it dies or hangs."""
        while True:
            hung = await self._listen()
            how = await self._end()
            self._metrics.restarts.inc()
            LOG.error("the process of the models %s; it is started anew", "hung" if hung else how)
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(Refused(RESTARTING))
            self._asked.clear()
            for failed in range(MOST_STARTS):
                try:
                    await self._begin()
                    break
                except BeitError as error:
                    LOG.error("the models are not ready: %s", error)
                    await self._end()
                    self.given_up = error if failed + 1 == MOST_STARTS else None
                    await asyncio.sleep(2**failed)
            else:
                return

    async def _listen(self) -> bool:
        """Until the process is gone (false) or hangs (true)."""
        listening = asyncio.create_task(self._hear())
        loop = asyncio.get_running_loop()
        try:
            while not listening.done():
                if self._asked and loop.time() - self._heard > self._deadline:
                    return True
                await asyncio.wait({listening}, timeout=LOOK_EVERY)
            return False
        finally:
            listening.cancel()

    async def _hear(self) -> None:
        """Pass on what the process says, until it is gone."""
        while True:
            try:
                head, data = await receive(self._reader)
            except GONE:
                return
            self._heard = asyncio.get_running_loop().time()
            if "batch" in head:
                self._metrics.batches.observe(head["batch"])
                continue
            answer = self._asked.pop(head["number"])
            if answer.done():  # nobody waits any more
                continue
            if "refused" in head:
                answer.set_exception(Refused(BY_CODE[head["refused"]]))
            elif "failed" in head:
                answer.set_exception(ModelFailedError(head["failed"]))
            elif "dropped" not in head:  # else its deadline has passed, here too
                answer.set_result(data)
