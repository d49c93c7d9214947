"""`beit serve`: load, try, listen, reload, and stop without losing an accepted request."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from beit.config.serve import ServeConfig, is_loopback
from beit.errors import ConfigError, ResourceError
from beit.serve.application import Service, make_application
from beit.serve.connections import Connection
from beit.serve.supervisor import Supervisor

LOG = logging.getLogger("beit.serve")
LARGEST_HEAD = 16_384
KEY = "BEIT_API_KEY"
SHORTEST_KEY = 16
WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")
NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)


def serve(references: Sequence[str], limits: ServeConfig, device: str) -> None:
    """Serve artifacts until a signal comes.

    Args:
        references: One artifact, or several as NAME=ARTIFACT.
        limits: Address, key and limits.
        device: Where the models run.

    Raises:
        BeitError: An artifact does not load or fails its self-test, before the server listens; or
            later, the models cannot be restarted.
        ResourceError: The port is taken.
    """
    for name in limits.allow_host:
        if "/" in name or "*" in name:
            raise ConfigError(f"'{name}' is not a host name", remedy="give names without port or *")
    places, key = read_names(references), read_key(limits)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with _reserve(limits.host, limits.port) as door:
        asyncio.run(_serve(places, limits, device, door, key))
    print("stopped", flush=True)


def read_names(references: Sequence[str]) -> dict[str, str]:
    """Artifacts by name, from NAME=ARTIFACT; a single one without a name gets that of its run.

    Raises:
        ConfigError: There is no artifact, one of several has no name, or two have the same.
    """
    if not references:
        raise ConfigError("no artifact was given", remedy="beit serve runs/classifier")
    if len(references) == 1 and NAME.fullmatch(references[0]) is None:
        path = Path(references[0].rstrip("/").partition("@")[0].rpartition(":")[2])
        run = path.parent if path.name == "model" else path
        word = run.stem if run.suffix in WEIGHTS else run.name
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-._")
        return {name[:64] or "model": references[0]}
    found: dict[str, str] = {}
    for reference in references:
        parts = NAME.fullmatch(reference)
        if parts is None:
            raise ConfigError(
                f"'{reference}' has no name, and several artifacts are served",
                remedy="write NAME=ARTIFACT; names have letters, digits, '.', '_' and '-'",
            )
        if parts[1] in found:
            raise ConfigError(f"two artifacts are called '{parts[1]}'", remedy="rename one")
        found[parts[1]] = parts[2]
    return found


def read_key(limits: ServeConfig) -> str:
    """The key that requests must bring; empty: none.

    It is never on the command line, which every user of the machine can read. Without a key, warns
    if others can reach the server.

    Raises:
        ConfigError: The key cannot be read, is too short, or has spaces or non-ASCII characters.
    """
    key, place = os.environ.get(KEY, ""), f"the environment's {KEY}"
    if limits.key_file:
        place = limits.key_file
        try:
            key = Path(place).read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"the key in {place} cannot be read: {error}",
                remedy=f"write one: openssl rand -hex 32 > {place}",
            ) from error
    elif not key:
        if not is_loopback(limits.host):
            LOG.warning(
                "warning: whoever reaches %s can use the models: give a key (--key-file, or %s), "
                "unless a proxy in front asks for one", limits.host, KEY,
            )  # fmt: skip
        return ""
    if len(key) < SHORTEST_KEY or not key.isascii() or any(map(str.isspace, key)):
        raise ConfigError(
            f"the key in {place} is not a key: it has {len(key)} characters",
            remedy=f"use at least {SHORTEST_KEY}, of ASCII without spaces: openssl rand -hex 32",
        )
    return key


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
            f"cannot listen on {host}, port {port}: {error.strerror}",
            remedy="choose another --port, or stop the program that listens there",
        ) from error
    return door


async def _serve(
    places: Mapping[str, str], limits: ServeConfig, device: str, door: socket.socket, key: str
) -> None:
    models = Supervisor(places, device, limits)
    _heed_hangups(models)
    LOG.info("loading %s", ", ".join(places))
    try:
        await models.start()
        host, port = door.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        announcement = (
            f"ready: serving {', '.join(places)} on http://{shown}:{port} (process {os.getpid()})"
        )
        await Server(Service(models, limits), announcement, key).serve(sockets=[door])
    finally:
        await models.stop()
    if models.given_up is not None:
        raise models.given_up


def _heed_hangups(models: Supervisor) -> None:
    """Reload on SIGHUP. If its terminal was closed, the server stops instead, as any program does,
    unless it was started to outlive the terminal (nohup)."""
    ends_with_it = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def hang_up() -> None:
        if ends_with_it and not _has_terminal():
            signal.raise_signal(signal.SIGTERM)
        else:
            models.request_reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


def _has_terminal() -> bool:
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False


class Server(uvicorn.Server):
    """uvicorn's server with another way to stop: the first signal drains it, the second ends it."""

    def __init__(self, service: Service, announcement: str, key: str) -> None:
        limits = service.limits
        connection: Any = partial(Connection, limits)
        super().__init__(
            uvicorn.Config(
                make_application(service, key),
                http=connection,
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
        )
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
