"""The server's side of one process that runs the models: batches go there, answers come back."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from prometheus_client import Counter, Histogram

from beit import errors
from beit.config.plugins import imported_outside
from beit.config.serve import ServeConfig
from beit.errors import BeitError, ResourceError
from beit.serve.http_errors import BY_CODE, RESTARTING, Refused

LOG = logging.getLogger("beit.serve")
LENGTH = struct.Struct(">I")
UNDER_WAY = 2
"""Batches in the process: the images of one are decoded while the other is computed."""
ONE_BY_ONE = ("segment",)
"""Abilities that gain nothing from a batch, as every image keeps its own size."""
FOR_THE_SERVER = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
GONE = (EOFError, OSError)

BATCHES = Histogram(
    "beit_batch_images", "Images that went through a model together.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)  # fmt: skip
RESTARTS = Counter(
    "beit_models_restarts",
    "How often a process of the models died or hung, or a start in its place failed.",
)


class Frame(NamedTuple):
    """A message between the two processes: a head in JSON, then bytes as they are."""

    head: dict[str, Any]
    blobs: Sequence[bytes] = ()

    def packed(self) -> bytes:
        """The frame on the wire."""
        head = json.dumps(self.head | {"sizes": [len(blob) for blob in self.blobs]}).encode()
        return b"".join((LENGTH.pack(len(head)), head, *self.blobs))


async def receive(reader: asyncio.StreamReader) -> Frame:
    """The next frame. Raises one of GONE when the other side is gone."""
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    head = json.loads(await reader.readexactly(length))
    return Frame(head, [await reader.readexactly(size) for size in head.pop("sizes")])


def read(stream: BinaryIO) -> Frame | None:
    """Wait for the next frame; None when the other side is gone."""
    length = stream.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    head = json.loads(stream.read(*LENGTH.unpack(length)))
    return Frame(head, [stream.read(size) for size in head.pop("sizes")])


class ModelFailedError(Exception):
    """A failure in the other process, with its traceback as text."""


@dataclass(eq=False)
class Job:
    """One image, and the future of its answer. Jobs with equal heads may share a batch."""

    head: dict[str, Any]
    data: bytes
    arrived: float
    answer: asyncio.Future[bytes]


class ModelProcess:
    """A process that serves the artifacts as they were on disk when it started.

    It counts as hung when the next answer takes longer than `deadline` seconds. Then, or when it
    dies, everything that it has not answered is refused with RESTARTING, as is every later request.

    Args:
        places: The artifacts by the names of their models.
        device: Where the models run.
        limits: Deadlines, batch size, and largest number of pixels.
    """

    def __init__(self, places: Mapping[str, str], device: str, limits: ServeConfig) -> None:
        self.models: list[dict[str, Any]] = []
        """What is served: name, kind, version, abilities, classes and size of each model."""
        self.is_ready = False
        self.life: asyncio.Task[None]
        """Runs from when the process is ready until it is gone."""
        self._settings = {
            "places": dict(places), "device": device, "pixels": limits.pixels,
            "modules": imported_outside(),
        }  # fmt: skip
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: list[Job] = []
        self._changed = asyncio.Event()
        self._retired = False
        self._room = asyncio.Semaphore(UNDER_WAY)
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start the process, and wait until it is ready.

        Raises BeitError if that fails; then nothing is left of the process.
        """
        most = self._limits.start_deadline
        try:
            async with asyncio.timeout(most):
                await self._spawn()
                self._writer.write(Frame(self._settings).packed())
                head = (await receive(self._reader)).head
            if "error" in head:
                kind: type[BeitError] = getattr(errors, head["error"])
                raise kind(head["problem"], remedy=head["remedy"])
            self.models, self.is_ready = head["models"], True
        except TimeoutError:
            raise ResourceError(
                f"the process of the models was not ready after {most:g} seconds",
                remedy="find out what it waits for, a disk or a download; if it is merely slow, "
                "allow more with --start-deadline",
            ) from None
        except GONE:
            raise ResourceError(
                f"the process of the models {await self._kill()} while it was starting",
                remedy="read its output above; if memory ran out, serve fewer models",
            ) from None
        finally:
            if not self.is_ready:
                await self._kill()
        self.life = asyncio.create_task(self._live())

    async def end(self) -> None:
        """End the process; what it has not answered is lost."""
        self.life.cancel()
        await self._kill()

    def retire(self) -> None:
        """Let the process answer what it has, then end. No further request may be sent to it."""
        self._retired = True
        self._changed.set()

    async def ask(self, model: str, ability: str, options: Mapping[str, Any], data: bytes) -> bytes:
        """The answer to one image, as JSON.

        Args:
            model: Name of the model.
            ability: What it does with the image.
            options: The ability's options.
            data: The bytes of an image file.

        Raises:
            Refused: The image or an option is bad, or the process is not ready, hangs or dies.
            ModelFailedError: The model failed.
        """
        if not self.is_ready:
            raise Refused(RESTARTING)
        loop = asyncio.get_running_loop()
        head = {"model": model, "ability": ability, "options": options}
        job = Job(head, data, loop.time(), loop.create_future())
        self._waiting.append(job)
        self._changed.set()
        try:
            return await job.answer
        finally:  # also if nobody waits for the answer any more
            if job in self._waiting:
                self._waiting.remove(job)

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
            # Signals to the group are for the server; the process inherits that they are blocked.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_SERVER)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "beit.serve.worker", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def _kill(self) -> str:
        """End the process; returns how it ended."""
        self.is_ready = False
        if self._process is None:
            return "did not start"
        self._writer.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        code = await self._process.wait()
        return f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"

    async def _live(self) -> None:
        """Send batches and pass the answers on, until it is gone, hangs, or has retired."""
        failed = hung = False
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch())
                while True:
                    await self._room.acquire()
                    batch = await self._next_batch()
                    if not batch:
                        break
                    tasks.create_task(self._exchange(batch))
                for _ in range(UNDER_WAY - 1):  # until the last batches are answered
                    await self._room.acquire()
                watching.cancel()
        except* TimeoutError:
            failed = hung = True
        except* GONE:
            failed = True
        how = await self._kill()
        for job in self._waiting:
            if not job.answer.done():
                job.answer.set_exception(Refused(RESTARTING))
        if failed:
            RESTARTS.inc()
            LOG.error("the process of the models %s", "hung" if hung else how)

    async def _watch(self) -> None:
        assert self._process is not None
        await self._process.wait()
        raise EOFError

    async def _next_batch(self) -> list[Job]:
        """The oldest job and others like it, once they fill a batch or it has waited long enough;
        no job if the process has retired and nobody waits."""
        while True:
            self._changed.clear()
            patience = None
            if self._waiting:
                first = self._waiting[0]
                most = 1 if first.head["ability"] in ONE_BY_ONE else self._limits.batch
                batch = [job for job in self._waiting if job.head == first.head][:most]
                patience = first.arrived + self._limits.wait - asyncio.get_running_loop().time()
                if len(batch) == most or patience <= 0:
                    self._waiting = [job for job in self._waiting if job not in batch]
                    return batch
            elif self._retired:
                return []
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience)

    async def _exchange(self, batch: list[Job]) -> None:
        """Send a batch, and wait for its turn to be answered: the process keeps the order."""
        try:
            BATCHES.observe(len(batch))
            self._writer.write(Frame(batch[0].head, [job.data for job in batch]).packed())
            async with self._turn, asyncio.timeout(self._limits.deadline):
                head, blobs = await receive(self._reader)
            for job, outcome, answer in zip(batch, head["outcomes"], blobs, strict=True):
                if job.answer.done():  # nobody waits any more
                    continue
                if "refused" in outcome:
                    job.answer.set_exception(Refused(BY_CODE[outcome["refused"]]))
                elif "failed" in outcome:
                    job.answer.set_exception(ModelFailedError(outcome["failed"]))
                else:
                    job.answer.set_result(answer)
        finally:
            self._room.release()
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(Refused(RESTARTING))
