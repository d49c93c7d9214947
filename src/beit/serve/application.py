"""The paths of the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from beit.config.serve import ServeConfig
from beit.serve.http_errors import (
    BAD_OPTION,
    BAD_REQUEST,
    DEADLINE,
    NO_SUCH_PATH,
    QUEUE_FULL,
    RESTARTING,
    STOPPING,
    WRONG_METHOD,
    Reason,
    Refused,
)
from beit.serve.metrics import CONTENT_TYPE, Metrics
from beit.serve.middleware import Guard, refuse
from beit.serve.registry import find_model
from beit.serve.request_body import Intake
from beit.serve.schemas import ANSWERS, Failure, Health, Models, State
from beit.serve.supervisor import Answer, Keeper

PAGE = Path(__file__).with_name("page.html")
JSON = "application/json"
VERSION = "x-model-version"
Options = dict[str, int | None]
ModelName = Annotated[str | None, Query(max_length=64, description="Name of a model in /models.")]
Top = Annotated[
    int | None,
    Query(
        ge=1,
        le=1000,
        description="Classes in the answer. Default: 5; of a multi-label model, the labels that "
        "reach their thresholds.",
    ),
]
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

    def __init__(self, models: Keeper, limits: ServeConfig, metrics: Metrics) -> None:
        self.models = models
        self.limits = limits
        self.metrics = metrics
        self.stopping = False
        self._intake = Intake(limits)
        self._taken = 0

    async def answer(
        self, request: Request, ability: str, name: str | None, options: Options
    ) -> Response:
        """What a model says of the image in the request. Raises Refused, ClientDisconnect."""
        if not request.query_params.keys() <= {"model", *options}:
            raise Refused(BAD_OPTION)
        find_model(self.models.described, ability, name)  # refused before its body is read
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
                asked = self.models.ask(ability, name, options, bytes(body))
                data, version = await self._unless_gone(request, asked)
                return Response(data, media_type=JSON, headers={VERSION: version})
            finally:
                self._taken -= 1
                self.metrics.waiting.set(self._taken)

    async def _unless_gone(self, request: Request, asked: Coroutine[Any, Any, Answer]) -> Answer:
        gone = asyncio.ensure_future(request.receive())
        answer = asyncio.ensure_future(asked)
        try:
            await asyncio.wait(
                {gone, answer},
                timeout=self.limits.deadline,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answer.done():
                return answer.result()
            if gone.done():
                raise ClientDisconnect
            raise Refused(DEADLINE)
        finally:
            gone.cancel()
            answer.cancel()


def make_application(service: Service) -> Guard:
    """The application with all its paths."""
    application = FastAPI(
        title="beit",
        version="1",
        description="Labels, masks, features and visual tokens of images.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    page = PAGE.read_text(encoding="utf-8")
    _add_failures(application, service)

    async def predict(request: Request, model: ModelName = None, top: Top = None) -> Response:
        return await service.answer(request, "predict", model, {"top": top})

    async def segment(request: Request, model: ModelName = None) -> Response:
        return await service.answer(request, "segment", model, {})

    async def embed(request: Request, model: ModelName = None, block: Block = None) -> Response:
        return await service.answer(request, "embed", model, {"block": block})

    async def tokens(request: Request, model: ModelName = None) -> Response:
        return await service.answer(request, "tokens", model, {})

    async def attention(request: Request, model: ModelName = None, block: Block = None) -> Response:
        return await service.answer(request, "attention", model, {"block": block})

    async def reconstruct(request: Request, model: ModelName = None, seed: Seed = 0) -> Response:
        return await service.answer(request, "reconstruct", model, {"seed": seed})

    responses: dict[int | str, dict[str, Any]] = {code: {"model": Failure} for code in STATUSES}
    described = "Version of the artifact that answered, as in /models."
    responses[200] = {
        "headers": {VERSION: {"description": described, "schema": {"type": "string"}}}
    }
    asked: dict[str, Callable[..., Awaitable[Response]]] = {
        "predict": predict, "segment": segment, "embed": embed, "tokens": tokens,
        "attention": attention, "reconstruct": reconstruct,
    }  # fmt: skip
    for name, function in asked.items():
        application.post(
            f"/{name}",
            summary=ANSWERS[name].__doc__,
            response_model=ANSWERS[name],
            responses=responses,
            openapi_extra=BODY,
        )(function)

    @application.get("/models", response_model=Models, responses={400: {"model": Failure}})
    async def models() -> Response:
        # In ASCII, as every answer: a name may hold surrogates, which UTF-8 does not.
        content = json.dumps({"models": service.models.described})
        return Response(content, media_type=JSON)

    @application.get("/health", response_model=Health, responses={503: {"model": Failure}})
    async def health() -> JSONResponse:
        if not service.models.is_ready:
            raise Refused(RESTARTING)
        return JSONResponse({"state": "ok", "reload": service.models.reload})

    @application.get("/ready", response_model=State, responses={503: {"model": Failure}})
    async def ready() -> JSONResponse:
        if service.stopping or not service.models.is_ready:
            raise Refused(STOPPING if service.stopping else RESTARTING)
        return JSONResponse({"state": "ready"})

    @application.get("/metrics", response_class=Response, include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @application.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    paths = ["/", "/models", "/health", "/ready", "/metrics", "/openapi.json"]
    paths += [f"/{name}" for name in asked]
    hosts = service.limits.allow_host
    return Guard(application, hosts, paths, service.metrics, lambda: service.stopping)


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
