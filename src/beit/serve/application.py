"""The paths of the server, and how a request becomes an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp

from beit.config.serve import ServeConfig
from beit.serve.http_errors import (
    BAD_OPTION,
    BAD_REQUEST,
    BODY_TOO_LARGE,
    DEADLINE,
    INTERNAL,
    NO_SUCH_PATH,
    QUEUE_FULL,
    RESTARTING,
    STOPPING,
    WRONG_METHOD,
    Reason,
    Refused,
    body_of,
)
from beit.serve.middleware import KEY_HEADERS, RequestGuard, refusal
from beit.serve.request_images import BODY, Images, kind_of, read_images
from beit.serve.schemas import (
    ABILITIES,
    OWN_ABILITY,
    Answers,
    Failure,
    Health,
    ModelOption,
    Models,
    State,
)
from beit.serve.supervisor import Answer, Supervisor

PAGE = Path(__file__).with_name("page.html")
STYLE = resources.files("beit.report") / "templates" / "style.css"
JSON = "application/json"
VERSION = "x-model-version"
STATUSES = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
RESPONSES: dict[int | str, dict[str, Any]] = {code: {"model": Failure} for code in STATUSES}
RESPONSES[200] = {
    "headers": {
        VERSION: {
            "description": "Version of the artifact that answered, as in /models.",
            "schema": {"type": "string"},
        }
    }
}
WAITING = Gauge("beit_requests_waiting", "Requests at work or waiting for a model.")
LEFT = Counter("beit_requests_left", "Requests whose client left before its answer.")


class Service:
    """What the paths of the server share: the models, the queue, the limits."""

    def __init__(self, models: Supervisor, limits: ServeConfig) -> None:
        self.models = models
        self.limits = limits
        self.stopping = False
        self._at_work = 0
        """Images that wait or are being answered."""
        self._held = 0
        """Bytes of all bodies in memory."""

    async def answer(self, request: Request, ability: str, options: ModelOption) -> Response:
        """A model's answer to the images in a request.

        Args:
            request: Has the images in its body.
            ability: What the model does with them.
            options: The ability's options, and the model's name.

        Raises:
            Refused: The request cannot be answered.
            ClientDisconnect: The client has left.
        """
        self.models.find(ability, options.model)  # refused before its body is read
        self._check_head(request)
        self._check_queue(1)
        body = bytearray()
        try:
            await self._read(request, body)
            images = await read_images(request.headers, bytes(body), self.limits.queue)
            self._check_queue(len(images.files))
            self._at_work += len(images.files)
            WAITING.set(self._at_work)
            try:
                rest = options.model_dump(exclude={"model"})
                asking = self._ask(ability, options.model, rest, images, request.state.request_id)
                data, version = await self._unless_gone(request, asking)
                return Response(data, media_type=JSON, headers={VERSION: version})
            finally:
                self._at_work -= len(images.files)
                WAITING.set(self._at_work)
        finally:
            self._held -= len(body)

    async def _ask(
        self,
        ability: str,
        model: str | None,
        options: Mapping[str, Any],
        images: Images,
        request_id: str,
    ) -> Answer:
        """The answer to one image, or the list of those to several, in which a bad image has its
        refusal. All images are given to the same process at once."""
        asking = [self.models.ask(ability, model, options, data) for data in images.files]
        if not images.several:
            return await asking[0]
        found, version = [], self.models.find(ability, model)["version"]
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(answer, Answer):
                found.append(answer.data)
                version = answer.version
            elif isinstance(answer, Refused) and answer.reason.status < INTERNAL.status:
                found.append(body_of(answer.reason, request_id))
            else:
                raise answer
        return Answer(b'{"answers":[' + b",".join(found) + b"]}", version)

    def _check_queue(self, images: int) -> None:
        if self._at_work + images > self.limits.queue:
            raise Refused(QUEUE_FULL)

    def _check_head(self, request: Request) -> None:
        """Refuse by its head alone a request that would be refused later."""
        kind_of(request.headers)
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.body:
            raise Refused(BODY_TOO_LARGE)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Read the body. Raises Refused, or ClientDisconnect if the client leaves."""
        async for chunk in request.stream():
            if len(body) + len(chunk) > self.limits.body:
                raise Refused(BODY_TOO_LARGE)
            if self._held + len(chunk) > self.limits.bodies:
                raise Refused(QUEUE_FULL)
            body += chunk
            self._held += len(chunk)

    async def _unless_gone(self, request: Request, asking: Coroutine[Any, Any, Answer]) -> Answer:
        """The answer, if it comes in time and while the client is there."""
        gone = asyncio.ensure_future(request.receive())
        answer = asyncio.ensure_future(asking)
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


def make_application(service: Service, key: str = "") -> ASGIApp:
    """The application with all its paths; if there is a key, requests must bring it."""
    application = FastAPI(
        title="beit",
        version="1",
        description="Labels, masks, features and visual tokens of images.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    style = STYLE.read_text(encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8").replace("/* style.css of the reports */", style)
    for kind in (Refused, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        application.add_exception_handler(kind, _answer_error)

    # A task from outside the package may have abilities that only its models announce.
    announced = {ability for model in service.models.models for ability in model["abilities"]}
    for ability in [*ABILITIES, *sorted(announced - ABILITIES.keys())]:
        _add_ability(application, service, ability)

    @application.get("/models", response_model=Models, responses={400: {"model": Failure}})
    async def models() -> Response:
        # In ASCII, as every answer: a name may hold surrogates, which UTF-8 does not.
        return Response(json.dumps({"models": service.models.models}), media_type=JSON)

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
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @application.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    paths = [route.path for route in application.routes if isinstance(route, Route)]
    limits = service.limits
    guarded = RequestGuard(application, limits, paths, lambda: service.stopping, key)
    if not limits.allow_origin:
        return guarded
    # Around the guard: pages of these origins can read refusals too, and a preflight has no key.
    return CORSMiddleware(
        guarded,
        allow_origins=limits.allow_origin,
        allow_methods=["GET", "POST"],
        allow_headers=["Content-Type", *KEY_HEADERS],
        expose_headers=[VERSION, "x-request-id", "retry-after"],
    )


def _add_ability(application: FastAPI, service: Service, ability: str) -> None:
    form = ABILITIES.get(ability, OWN_ABILITY)

    async def ask(request: Request, options: ModelOption) -> Response:
        return await service.answer(request, ability, options)

    ask.__annotations__["options"] = Annotated[form.options, Query()]  # each path has its own
    application.post(
        f"/{ability}",
        name=ability,
        summary=form.answer.__doc__,
        response_model=form.answer | Answers,
        responses=RESPONSES,
        openapi_extra=BODY,
    )(ask)


async def _answer_error(request: Request, error: Exception) -> Response:
    """Every failure as a refusal; unforeseen ones are logged as well."""
    if isinstance(error, ClientDisconnect):
        LEFT.inc()
        return Response(status_code=499)  # nobody reads it
    return refusal(_reason_of(error), request.state.request_id)


def _reason_of(error: Exception) -> Reason:
    if isinstance(error, Refused):
        return error.reason
    if isinstance(error, RequestValidationError):
        return BAD_OPTION
    if isinstance(error, HTTPException):
        return {404: NO_SUCH_PATH, 405: WRONG_METHOD}.get(error.status_code, BAD_REQUEST)
    return INTERNAL
