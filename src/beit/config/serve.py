"""How `beit serve` listens, and what it grants to whoever asks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from beit.config.check import check_positive, check_that


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Address and limits of a server. Times are in seconds."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine only."""
    port: int = 8080
    """0 takes a free one."""
    allow_host: tuple[str, ...] = ()
    """Names under which it may be asked (the Host and Origin headers), beside those of loopback."""
    batch: int = 8
    """Most pictures that go through the model together."""
    wait: float = 0.005
    """How long a picture waits for others to go with it."""
    queue: int = 64
    """Most requests at work or waiting; more are answered with 429."""
    body: int = 16_000_000
    """Most bytes of a picture."""
    bodies: int = 256_000_000
    """Most bytes of all pictures that are held at once."""
    pixels: int = 25_000_000
    """Most pixels of a picture, height x width, before anything is decoded."""
    deadline: float = 30.0
    """For an answer, once the picture is there."""
    start_deadline: float = 600.0
    """For loading the models and trying them."""
    header_deadline: float = 5.0
    """For the head of a request, from its first byte."""
    body_deadline: float = 15.0
    """For the picture, from the end of the head."""
    body_rate: int = 1000
    """Fewest bytes per second of a picture, after `header_deadline` seconds."""
    idle_deadline: float = 15.0
    """For the first byte of a request on an open connection."""
    write_deadline: float = 10.0
    """For a client to take any more of its answer."""
    connections: int = 512
    """Most open connections; more are answered with 503."""
    drain: float = 1.0
    """Between a request to stop and closing the door: `/ready` says 503, the rest is answered."""

    def check(self) -> None:
        """Raise ConfigError for what cannot be. Not in `__post_init__`: the parser of the command
        line, which makes this, would cut the message and leave out the remedy."""
        check_positive(
            self, "batch", "queue", "body", "bodies", "pixels", "deadline", "header_deadline",
            "start_deadline", "body_deadline", "body_rate", "idle_deadline", "write_deadline",
            "connections",
        )  # fmt: skip
        check_that(0 <= self.port < 65536, f"port is {self.port}", "use a port from 0 to 65535")
        check_that(self.wait >= 0, f"wait is {self.wait}", "wait must not be below zero")
        check_that(self.drain >= 0, f"drain is {self.drain}", "drain must not be below zero")
        check_that(
            is_loopback(self.host) or len(self.allow_host) > 0,
            f"host is {self.host}, which other machines reach, and no name is allowed",
            "name what clients call it: --allow-host pictures.example.org",
        )
