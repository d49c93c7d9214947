"""Keeps a process of the models ready, and replaces one that fails or is out of date."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

from prometheus_client import Counter

from beit.config.serve import ServeConfig
from beit.errors import BeitError, on_one_line
from beit.serve.http_errors import MODEL_NEEDED, NO_SUCH_MODEL, WRONG_MODEL, Refused
from beit.serve.model_process import RESTARTS, ModelProcess

LOG = logging.getLogger("beit.serve")
MOST_STARTS = 5
"""After this many failed starts in a row, each after twice the pause, the server ends."""
Reload = Literal["none", "loading", "done", "failed"]
RELOADS = Counter(
    "beit_models_reloads", "How often the artifacts were reloaded, by the outcome.", ["result"]
)
for _result in ("done", "failed"):
    RELOADS.labels(_result)


class Answer(NamedTuple):
    """An answer as JSON, and the version of the artifact that it comes from."""

    data: bytes
    version: str


class Supervisor:
    """Sends each request to the current process.

    A process that dies or hangs is replaced. To serve newer artifacts, another process loads and
    tries them beside the one that answers; once it is ready it gets the requests, and the older one
    answers what it has and ends. If it does not become ready, the older one stays.

    Args:
        places: The artifacts by the names of their models.
        device: Where the models run.
        limits: Deadlines, batch size, and largest number of pixels.
    """

    def __init__(self, places: Mapping[str, str], device: str, limits: ServeConfig) -> None:
        self.given_up: BeitError | None = None
        """Why no process is started any more."""
        self.reload: Reload = "none"
        """How the last reload went."""
        self._make = partial(ModelProcess, places, device, limits)
        self._process: ModelProcess
        self._alive: set[ModelProcess] = set()
        self._reload_is_due = asyncio.Event()
        self._supervision: asyncio.Task[None] | None = None

    @property
    def models(self) -> list[dict[str, Any]]:
        """The models that are served now, as clients see them."""
        return self._process.models

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered now."""
        return self._process.is_ready

    async def start(self) -> None:
        """Start a process, and keep one running. Raises BeitError if it does not become ready."""
        self._process = await self._started()
        self._supervision = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """End every process; what is not answered is lost."""
        if self._supervision is not None:
            self._supervision.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervision
        for process in tuple(self._alive):
            await process.end()

    def request_reload(self) -> None:
        """Have the artifacts loaded from disk again, and served if they are good."""
        self._reload_is_due.set()

    def find(self, ability: str, name: str | None) -> dict[str, Any]:
        """The model with this ability. Raises Refused if there is none, or several and no name."""
        named = [model for model in self.models if name is None or model["name"] == name]
        if name is not None and not named:
            raise Refused(NO_SUCH_MODEL)
        able = [model for model in named if ability in model["abilities"]]
        if not able:
            raise Refused(WRONG_MODEL)
        if len(able) > 1:
            raise Refused(MODEL_NEEDED)
        return able[0]

    async def ask(
        self, ability: str, name: str | None, options: Mapping[str, Any], data: bytes
    ) -> Answer:
        """A model's answer to one image; raises as `find` and `ModelProcess.ask` do.

        Args:
            ability: What the model does with the image.
            name: Name of the model; None: the only one with this ability.
            options: The ability's options.
            data: The bytes of an image file.
        """
        model = self.find(ability, name)  # no await in between: it is the same process
        answer = await self._process.ask(model["name"], ability, options, data)
        return Answer(answer, model["version"])

    async def _started(self) -> ModelProcess:
        process = self._make()
        await process.start()
        self._alive.add(process)
        process.life.add_done_callback(lambda _: self._alive.discard(process))
        return process

    async def _supervise(self) -> None:
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
            LOG.error("the models are restarted")
            try:
                self._process = await self._started()
                return
            except BeitError as error:
                RESTARTS.inc()
                LOG.error("the models are not ready: %s", on_one_line(error))
                last = error
        self.given_up = last

    async def _reload(self) -> None:
        self._reload_is_due.clear()
        self.reload = "loading"
        LOG.info("the artifacts are reloaded")
        try:
            successor = await self._started()
        except BeitError as error:
            self.reload = "failed"
            LOG.error("the artifacts were not reloaded: %s", on_one_line(error))
        else:
            self._process.retire()
            self._process = successor
            self.reload = "done"
            versions = (f"{model['name']} {model['version']}" for model in self.models)
            LOG.info("the artifacts were reloaded: %s", ", ".join(versions))
        RELOADS.labels(self.reload).inc()
