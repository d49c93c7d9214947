"""The doctor: everything that it examines, in the order in which it reports."""

from __future__ import annotations

from beit.config.data import AS_RECOGNISED, Reading
from beit.config.serve import ServeConfig
from beit.doctor import environment
from beit.doctor.agreement import check_agreement
from beit.doctor.finding import Finding
from beit.doctor.images import check_images
from beit.errors import ConfigError

TORCHRUN = 29500
"""The port at which the processes of one `torchrun` meet by default."""


def examine(
    *,
    data: str = "",
    out: str = "runs",
    compile: bool = True,  # noqa: A002 (the name of the option)
    port: int = ServeConfig.port,
    channels: int = 3,
    size: int = 0,
    sample: int = 2000,
    reading: Reading = AS_RECOGNISED,
) -> list[Finding]:
    """Examine this machine and, if given, images. Nothing is changed and nothing left behind.

    The arguments are the options of `beit doctor`. Raises ConfigError for ones that make no sense.
    """
    if not (0 < port < 65536 and channels > 0 and size >= 0 and sample > 0):
        raise ConfigError(
            f"port is {port}, channels {channels}, size {size}, sample {sample}",
            remedy="use a port below 65536 and numbers above 0",
        )
    return [
        *environment.check_versions(),
        *environment.check_extras(),
        *environment.check_gpus(),
        *environment.check_bfloat16(),
        *(environment.check_compile() if compile else ()),
        *environment.check_decoder(),
        *environment.check_threads(),
        *environment.check_memory(),
        *environment.check_open_files(),
        *check_agreement(environment.device()),
        *environment.check_disk(out),
        *environment.check_port(port, "beit serve"),
        *environment.check_port(TORCHRUN, "torchrun"),
        *(
            check_images(data, channels=channels, sample=sample, size=size, reading=reading)
            if data
            else ()
        ),
    ]
