"""Keeps a process of the models ready: one that fails, or is out of date, has a successor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

from beit.config.serve import ServeConfig
from beit.errors import BeitError
from beit.serve.metrics import Metrics
from beit.serve.process import ModelProcess
from beit.serve.registry import Described, find_model

LOG = logging.getLogger("beit.serve")
MOST_STARTS = 5
"""So many failed starts in a row, each after twice the pause of the one before, end the server."""
Reload = Literal["none", "loading", "done", "failed"]


class Answer(NamedTuple):
    """JSON, and the version of the artifact that it comes from."""

    data: bytes
    version: str


class Keeper:
    """Asks the process whose turn it is.

    A process that dies or hangs is replaced. When newer artifacts are to be served, another
    process loads and tries them beside the one that answers; once it is ready it is asked, and the
    older one answers what it has and ends. If it does not become ready, the older one stays.
    """

    def __init__(
        self, places: Mapping[str, str], device: str, limits: ServeConfig, metrics: Metrics
    ) -> None:
        self.given_up: BeitError | None = None
        """Why no process is started any more."""
        self.reload: Reload = "none"
        """How the last reload went."""
        self._make = partial(ModelProcess, places, device, limits, metrics)
        self._metrics = metrics
        self._process: ModelProcess
        self._alive: set[ModelProcess] = set()
        self._reload_is_due = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def described(self) -> Described:
        """The models that are served now."""
        return self._process.described

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered now."""
        return self._process.is_ready

    async def start(self) -> None:
        """Start a process, and keep one. Raises BeitError if it does not become ready."""
        self._process = await self._started()
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End every process; what is not answered is lost."""
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
        for process in tuple(self._alive):
            await process.end()

    def serve_anew(self) -> None:
        """Load the artifacts as they are on disk from now on, and serve them if they are good."""
        self._reload_is_due.set()

    async def ask(
        self, ability: str, name: str | None, options: Mapping[str, Any], data: bytes
    ) -> Answer:
        """What a model says. Raises as `find_model` and `ModelProcess.ask` do."""
        await self._process.has_room()
        process = self._process  # until it has the request nothing waits, so it cannot retire
        model = find_model(process.described, ability, name)
        return Answer(await process.ask(model["name"], ability, options, data), model["version"])

    async def _started(self) -> ModelProcess:
        process = self._make()
        await process.start()
        self._alive.add(process)
        process.life.add_done_callback(partial(self._note_end, process))
        return process

    def _note_end(self, process: ModelProcess, life: asyncio.Task[str]) -> None:
        self._alive.discard(process)
        if not life.cancelled() and life.result():
            self._metrics.restarts.inc()
            LOG.error("the process of the models %s", life.result())

    async def _keep(self) -> None:
        while self.given_up is None:
            due = asyncio.create_task(self._reload_is_due.wait())
            await asyncio.wait({self._process.life, due}, return_when=asyncio.FIRST_COMPLETED)
            due.cancel()
            if self._process.life.done():
                await self._replace()
            else:
                await self._reload()

    async def _replace(self) -> None:
        """Start another process, which may take several tries."""
        for failed in range(MOST_STARTS):
            if failed:
                await asyncio.sleep(2 ** (failed - 1))
            LOG.error("the models are started anew")
            try:
                self._process = await self._started()
                return
            except BeitError as error:
                self._metrics.restarts.inc()
                LOG.error("the models are not ready: %s", error)
                last = error
        self.given_up = last

    async def _reload(self) -> None:
        self._reload_is_due.clear()
        self.reload = "loading"
        LOG.info("the artifacts are read again")
        try:
            successor = await self._started()
        except BeitError as error:
            self.reload = "failed"
            LOG.error("the artifacts are not served as they are now: %s", error)
        else:
            self._process.retire()
            self._process = successor
            self.reload = "done"
            versions = (f"{model['name']} {model['version']}" for model in self.described)
            LOG.info("the artifacts are served as they are now: %s", ", ".join(versions))
        self._metrics.reloads.labels(self.reload).inc()
