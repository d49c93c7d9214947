"""How `beit serve` listens, and the limits it sets for its clients."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated

from beit.config.validation import (
    Config,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Range,
    require,
)

ORIGIN = re.compile(r"https?://[^/\s@]+|null|\*")


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Config):
    """Address and limits of a server. Times are in seconds."""

    host: str = "127.0.0.1"
    """Address to listen on; the default can be reached from this machine only."""
    port: Annotated[int, Range(0, 65_535)] = 8080
    """Port to listen on; 0 takes a free one."""
    allow_host: tuple[str, ...] = ()
    """Host names that requests may use (Host and Origin headers), besides localhost."""
    allow_origin: tuple[str, ...] = ()
    """Sites whose pages may read the answers (CORS), such as https://app.example.org; * for all."""
    key_file: str = ""
    """File with the key that requests must send; without it, BEIT_API_KEY of the environment, if it
    is set."""
    batch: PositiveInt = 8
    """Most images that go through the model together."""
    wait: NonNegativeFloat = 0.005
    """Seconds that an image waits for others to form a batch."""
    queue: PositiveInt = 64
    """Most images waiting or in progress, and so also in one request; more are answered with
    429."""
    body: PositiveInt = 16_000_000
    """Most bytes in a request, with all its images."""
    bodies: PositiveInt = 256_000_000
    """Most bytes of all requests held at once."""
    pixels: PositiveInt = 25_000_000
    """Most pixels of an image (height x width), checked before it is decoded."""
    deadline: PositiveFloat = 30.0
    """Seconds for an answer, once the images have arrived."""
    start_deadline: PositiveFloat = 600.0
    """Seconds for loading and testing the models."""
    header_deadline: PositiveFloat = 5.0
    """Seconds for the headers of a request, from its first byte."""
    body_deadline: PositiveFloat = 15.0
    """Seconds for the body of a request, from the end of its headers."""
    body_rate: PositiveInt = 1000
    """Fewest bytes per second of a body, after `header_deadline` seconds."""
    idle_deadline: PositiveFloat = 15.0
    """Seconds that an open connection may wait before its next request begins."""
    write_deadline: PositiveFloat = 10.0
    """Seconds that a client may take none of its answer."""
    connections: PositiveInt = 512
    """Most open connections; more are answered with 503."""
    drain: NonNegativeFloat = 1.0
    """Seconds between a request to stop and the end: `/ready` returns 503, and other requests are
    still answered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            is_loopback(self.host) or len(self.allow_host) > 0,
            f"host is {self.host}, which other machines reach, and no name is allowed",
            "name what clients call it: --allow-host images.example.org",
        )
        for origin in self.allow_origin:
            require(
                ORIGIN.fullmatch(origin) is not None,
                f"'{origin}' is not an origin",
                "give scheme and host, without a path: --allow-origin https://app.example.org",
            )
