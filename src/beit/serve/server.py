"""`beit serve`: load, try, listen, load anew, and stop without losing what was accepted."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn

from beit.config.serve import ServeConfig
from beit.errors import ConfigError, ResourceError
from beit.serve.application import Service, make_application
from beit.serve.connections import Connection
from beit.serve.metrics import Metrics
from beit.serve.middleware import Guard
from beit.serve.registry import read_names
from beit.serve.supervisor import Keeper

LARGEST_HEAD = 16_384


class Server(uvicorn.Server):
    """uvicorn's server, with our way to stop: the first signal drains, the second ends."""

    def __init__(self, config: uvicorn.Config, service: Service, announcement: str) -> None:
        super().__init__(config)
        self._service = service
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        print(self._announcement, flush=True)  # from here on signals and requests are ours

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.stopping:
            os._exit(128 + sig)
        self._service.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times per second; true ends the main loop."""
        if self._service.models.given_up is not None:
            self.should_exit = True
        if self._service.stopping and not self.should_exit:
            await asyncio.sleep(self._service.limits.drain)
            self.should_exit = True
        return await super().on_tick(counter)


def _reserve(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, the event loop turns off the delay of small packets (40 ms).
    door = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except OSError as error:
        door.close()
        raise ResourceError(
            f"nothing can listen on {host}, port {port}: {error.strerror}",
            remedy="choose another --port, or stop what listens there",
        ) from error
    return door


def _server(application: Guard, service: Service, announcement: str) -> Server:
    limits = service.limits
    bound = type("BoundConnection", (Connection,), {"limits": limits})
    config = uvicorn.Config(
        application,
        http=bound,
        ws="none",
        lifespan="off",
        log_config=None,
        backlog=1024,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        timeout_keep_alive=max(1, round(limits.idle_deadline)),
        timeout_graceful_shutdown=max(1, round(limits.deadline + limits.write_deadline)),
    )
    return Server(config, service, announcement)


def serve(references: Sequence[str], limits: ServeConfig, device: str) -> None:
    """Serve artifacts until a signal comes.

    Errors: BeitError, before anything listens, for artifacts that do not load or fail their
    self-test; ResourceError for a port that is taken. Later, if the models cannot be started anew.
    """
    for name in limits.allow_host:
        if "/" in name or "*" in name:
            raise ConfigError(f"'{name}' is no host name", remedy="give names without port or *")
    places = read_names(references)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with _reserve(limits.host, limits.port) as door:
        asyncio.run(_serve(places, limits, device, door))
    print("stopped", flush=True)


def _has_terminal() -> bool:
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False


def _heed_hangups(models: Keeper) -> None:
    """Let SIGHUP mean to serve the artifacts anew, and what it always does where a terminal is
    closed: there the server stops, unless it was started to outlive it (nohup)."""
    ends_with_it = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def hang_up() -> None:
        if ends_with_it and not _has_terminal():
            signal.raise_signal(signal.SIGTERM)
        else:
            models.serve_anew()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


async def _serve(
    places: Mapping[str, str], limits: ServeConfig, device: str, door: socket.socket
) -> None:
    metrics = Metrics()
    models = Keeper(places, device, limits, metrics)
    _heed_hangups(models)
    try:
        await models.start()
        service = Service(models, limits, metrics)
        place, port = door.getsockname()[:2]
        shown = f"[{place}]" if ":" in place else place
        announcement = (
            f"serving {', '.join(places)} on http://{shown}:{port} (process {os.getpid()})"
        )
        await _server(make_application(service), service, announcement).serve(sockets=[door])
    finally:
        await models.stop()
    if models.given_up is not None:
        raise models.given_up
