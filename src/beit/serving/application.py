"""The paths of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from beit.config.serve import ServeConfig
from beit.serving.abilities import Abilities, Options
from beit.serving.answers import ANSWERS, Failure, Models, State
from beit.serving.batching import Batcher, Job
from beit.serving.guard import Guard, refuse
from beit.serving.intake import Intake
from beit.serving.metrics import CONTENT_TYPE, Metrics
from beit.serving.refusals import (
    BAD_OPTION,
    BAD_REQUEST,
    DEADLINE,
    NO_SUCH_PATH,
    QUEUE_FULL,
    STOPPING,
    STUCK,
    WRONG_METHOD,
    Reason,
    Refused,
)
from beit.serving.served import Served

PAGE = Path(__file__).with_name("page.html")
DECODERS = 2
ModelName = Annotated[str | None, Query(max_length=64, description="Name of a model in /models.")]
Top = Annotated[int, Query(ge=1, le=1000, description="Classes in the answer.")]
Block = Annotated[int | None, Query(ge=0, le=1000, description="Block from 0; default: the last.")]
Seed = Annotated[int, Query(ge=0, le=2**31 - 1, description="Which patches are hidden.")]
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
STATUSES = (400, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)


class Refusal(Response):
    """A refusal as an answer of the application."""

    def __init__(self, reason: Reason) -> None:
        super().__init__()
        self.reason = reason

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await refuse(send, self.reason, scope["state"]["request_id"])


class Service:
    """What the paths share: the models, the queue, the limits."""

    def __init__(self, served: Served, limits: ServeConfig) -> None:
        self.served = served
        self.limits = limits
        self.metrics = Metrics()
        self.stopping = False
        self._intake = Intake(limits)
        self._batcher = Batcher(limits.wait, self.metrics.batches.observe)
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._taken = 0

    def state(self) -> Reason | None:
        """Why the server is not well."""
        return STUCK if self._batcher.busy_for > self.limits.deadline else None

    async def answer(self, request: Request, word: str, name: str | None, options: Options) -> Any:
        """What a model says of the picture in the request. Raises Refused, ClientDisconnect."""
        _, model = self.served.find(word, name)
        self._intake.check_head(request)
        if self._taken >= self.limits.queue:
            raise Refused(QUEUE_FULL)
        body = bytearray()
        with self._intake.holding(body):
            await self._intake.read(request, body)
            if self._taken >= self.limits.queue:
                raise Refused(QUEUE_FULL)
            self._taken += 1
            self.metrics.waiting.set(self._taken)
            try:
                return await self._work(request, bytes(body), model, word, options)
            finally:
                self._taken -= 1
                self.metrics.waiting.set(self._taken)

    async def _work(
        self, request: Request, data: bytes, model: Abilities, word: str, options: Options
    ) -> Any:
        ability = model.of[word]
        deadline = time.monotonic() + self.limits.deadline
        gone = asyncio.ensure_future(request.receive())

        def prepare() -> Any:
            pixels = self._intake.pixels(data, model.predictor.channels)
            return ability.prepare(pixels, options)

        async def both() -> Any:
            loop = asyncio.get_running_loop()
            item = await loop.run_in_executor(self._decoders, prepare)
            most = self.limits.batch if ability.together else 1
            job = Job(
                (id(model), word, *options.items()),
                lambda items: ability.answer(items, options),
                item,
                most,
                deadline,
            )
            return await asyncio.wrap_future(self._batcher.submit(job))

        work = asyncio.ensure_future(both())
        try:
            await asyncio.wait(
                {gone, work},
                timeout=self.limits.deadline,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done():
                return work.result()
            if gone.done():
                raise ClientDisconnect
            raise Refused(DEADLINE)
        finally:
            gone.cancel()
            work.cancel()


def make_application(service: Service) -> Guard:
    """The application with all its paths."""
    application = FastAPI(
        title="beit",
        version="1",
        description="Labels, masks, features and visual tokens of pictures.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    page = PAGE.read_text(encoding="utf-8")
    _add_failures(application, service)

    async def predict(request: Request, model: ModelName = None, top: Top = 5) -> JSONResponse:
        return JSONResponse(await service.answer(request, "predict", model, {"top": top}))

    async def segment(request: Request, model: ModelName = None) -> JSONResponse:
        return JSONResponse(await service.answer(request, "segment", model, {}))

    async def embed(request: Request, model: ModelName = None, block: Block = None) -> JSONResponse:
        return JSONResponse(await service.answer(request, "embed", model, {"block": block}))

    async def tokens(request: Request, model: ModelName = None) -> JSONResponse:
        return JSONResponse(await service.answer(request, "tokens", model, {}))

    async def attention(
        request: Request, model: ModelName = None, block: Block = None
    ) -> JSONResponse:
        return JSONResponse(await service.answer(request, "attention", model, {"block": block}))

    async def reconstruct(
        request: Request, model: ModelName = None, seed: Seed = 0
    ) -> JSONResponse:
        return JSONResponse(await service.answer(request, "reconstruct", model, {"seed": seed}))

    failures: dict[int | str, dict[str, Any]] = {code: {"model": Failure} for code in STATUSES}
    asked: dict[str, Callable[..., Awaitable[JSONResponse]]] = {
        "predict": predict, "segment": segment, "embed": embed, "tokens": tokens,
        "attention": attention, "reconstruct": reconstruct,
    }  # fmt: skip
    for name, function in asked.items():
        application.post(
            f"/{name}",
            summary=ANSWERS[name].__doc__,
            response_model=ANSWERS[name],
            responses=failures,
            openapi_extra=BODY,
        )(function)

    @application.get("/models", response_model=Models, responses={400: {"model": Failure}})
    async def models() -> JSONResponse:
        return JSONResponse({"models": service.served.describe()})

    @application.get("/health", response_model=State, responses={503: {"model": Failure}})
    async def health() -> JSONResponse:
        if (reason := service.state()) is not None:
            raise Refused(reason)
        return JSONResponse({"state": "ok"})

    @application.get("/ready", response_model=State, responses={503: {"model": Failure}})
    async def ready() -> JSONResponse:
        if service.stopping or service.state() is not None:
            raise Refused(STOPPING if service.stopping else STUCK)
        return JSONResponse({"state": "ready"})

    @application.get("/metrics", response_class=Response, include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @application.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    paths = ["/", "/models", "/health", "/ready", "/metrics", "/openapi.json"]
    paths += [f"/{name}" for name in asked]
    return Guard(application, service.limits.allow_host, paths, service.metrics)


def _add_failures(application: FastAPI, service: Service) -> None:
    """Every failure as a refusal."""

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return Refusal(error.reason)

    async def invalid(_request: Request, _error: Exception) -> Response:
        return Refusal(BAD_OPTION)

    async def plain(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Refusal({404: NO_SUCH_PATH, 405: WRONG_METHOD}.get(error.status_code, BAD_REQUEST))

    async def left(_request: Request, _error: Exception) -> Response:
        service.metrics.left.inc()
        return Response(status_code=499)  # nobody reads it

    application.add_exception_handler(Refused, refused)
    application.add_exception_handler(RequestValidationError, invalid)
    application.add_exception_handler(HTTPException, plain)
    application.add_exception_handler(ClientDisconnect, left)
