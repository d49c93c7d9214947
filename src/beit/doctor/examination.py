"""Everything the doctor looks at, in the order in which it is told."""

from __future__ import annotations

from beit.config.data import AS_RECOGNISED, Reading
from beit.config.serve import ServeConfig
from beit.doctor.accelerator import check_bfloat16, check_compile, check_gpus, device
from beit.doctor.agreement import check_agreement
from beit.doctor.finding import Check, Finding
from beit.doctor.images import check_images
from beit.doctor.installation import check_decoder, check_extras, check_versions
from beit.doctor.machine import (
    check_disk,
    check_memory,
    check_open_files,
    check_port,
    check_threads,
)
from beit.errors import ConfigError

TORCHRUN = 29500
"""The port at which the processes of one `torchrun` meet, unless told otherwise."""


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

    Raises ConfigError for options that make no sense.
    """
    if not (0 < port < 65536 and channels > 0 and size >= 0 and sample > 0):
        raise ConfigError(
            f"port is {port}, channels {channels}, size {size}, sample {sample}",
            remedy="use a port below 65536 and numbers above 0",
        )
    checks: list[Check] = [check_versions, check_extras, check_gpus, check_bfloat16]
    checks += [check_compile] if compile else []
    checks += [check_decoder, check_threads, check_memory, check_open_files]
    findings = [found for check in checks for found in check()]
    findings += check_agreement(device())
    findings += check_disk(out)
    findings += [*check_port(port, "beit serve"), *check_port(TORCHRUN, "torchrun")]
    if data:
        findings += check_images(data, channels=channels, sample=sample, size=size, reading=reading)
    return findings
