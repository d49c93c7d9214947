"""The server's side of one process that runs the models, from its start to its end."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from beit import errors
from beit.config.plugins import imported_outside
from beit.config.serve import ServeConfig
from beit.errors import BeitError, ResourceError
from beit.serve.http_errors import BY_CODE, RESTARTING, Refused
from beit.serve.ipc import Frame, receive
from beit.serve.metrics import Metrics
from beit.serve.registry import Described

LOOK_EVERY = 0.25
FOR_THE_SERVER = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
GONE = (asyncio.IncompleteReadError, OSError)


class ModelFailedError(Exception):
    """The traceback of a failure in the other process."""


class ModelProcess:
    """The artifacts as they were on disk when it started, in a process of its own.

    It is taken for hung when it says nothing for `deadline` seconds while it has requests. Then,
    or when it dies, what is with it is refused with RESTARTING, as is what it is asked later.
    """

    def __init__(
        self, places: Mapping[str, str], device: str, limits: ServeConfig, metrics: Metrics
    ) -> None:
        self.described: Described = []
        self.is_ready = False
        self.life: asyncio.Task[str]
        """From when it is ready until it is gone: how it failed, empty if it was retired."""
        self._settings = {
            "places": dict(places), "device": device, "batch": limits.batch, "wait": limits.wait,
            "pixels": limits.pixels, "deadline": limits.deadline, "modules": imported_outside(),
        }  # fmt: skip
        self._limits = limits
        self._metrics = metrics
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._heard = 0.0
        self._retired = False
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Wait until it is ready. Raises BeitError if that fails; then nothing is left of it."""
        most = self._limits.start_deadline
        try:
            async with asyncio.timeout(most):
                await self._begin()
        except TimeoutError:
            raise ResourceError(
                f"the process of the models was not ready after {most:g} seconds",
                remedy="look for what it waits for, a disk or a download; if it only is slow, "
                "give it longer with --start-deadline",
            ) from None
        finally:
            if not self.is_ready:
                await self._kill()
        self.life = asyncio.create_task(self._live())

    async def end(self) -> None:
        """End it; what it has not answered is lost."""
        self.life.cancel()
        await self._kill()

    def retire(self) -> None:
        """Let it answer what it has, and end then. It must not be asked any more."""
        self._retired = True

    async def has_room(self) -> None:
        """Wait until what it was sent is on its way."""
        with suppress(OSError):  # if it is gone, it is no longer ready
            await self._writer.drain()

    async def ask(self, model: str, ability: str, options: Mapping[str, Any], data: bytes) -> bytes:
        """The answer as JSON. Raises Refused; ModelFailedError with what went wrong there."""
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
        try:
            await self._spawn()
            self._writer.write(Frame(self._settings).packed())
            head = (await receive(self._reader)).head
        except GONE:
            raise ResourceError(
                f"the process of the models {await self._kill()} while it was starting",
                remedy="read what it wrote above; with memory too short, serve fewer models",
            ) from None
        if "error" in head:
            kind: type[BeitError] = getattr(errors, head["error"])
            raise kind(head["problem"], remedy=head["remedy"])
        self.described = head["models"]
        self.is_ready = True

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
            # A signal to the group is for the server; the process inherits that it is blocked.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_SERVER)
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-m", "beit.serve.worker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def _kill(self) -> str:
        """Make an end of the process; how it ended."""
        self.is_ready = False
        process = self._process
        if process is None:
            return "never was"
        self._writer.close()
        process.kill()
        code = await asyncio.to_thread(process.wait)
        return f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"

    async def _live(self) -> str:
        """Pass on what it says until it is gone, hangs, or is retired and has nothing left."""
        listening = asyncio.create_task(self._hear())
        try:
            while not (listening.done() or self._hangs() or self._is_done()):
                await asyncio.wait({listening}, timeout=LOOK_EVERY)
        finally:
            listening.cancel()
        hung, done = self._hangs(), self._is_done()
        how = await self._kill()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Refused(RESTARTING))
        self._asked.clear()
        if done:
            return ""
        return "hung" if hung else how

    def _hangs(self) -> bool:
        silent = asyncio.get_running_loop().time() - self._heard
        return bool(self._asked) and silent > self._limits.deadline

    def _is_done(self) -> bool:
        return self._retired and not self._asked

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
