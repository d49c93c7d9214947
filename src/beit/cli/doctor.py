"""The verb that finds out what is wrong: doctor."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

from beit.cli.options import AS_READ, AsRead, call, check_subcommand
from beit.config.serve import ServeConfig
from beit.errors import ConfigError


def doctor(args: list[str]) -> None:
    """Find out what is wrong with this machine, your images, or a run that broke."""
    check_subcommand("doctor", ["replay"], args)
    if args[:1] == ["replay"]:
        call(replay, args[1:], "beit doctor replay")
    else:
        call(examine, args, "beit doctor")


def examine(
    data: str = "",
    out: str = "runs",
    format: Literal["table", "json"] = "table",  # noqa: A002 (the name of the option)
    skip_compile: bool = False,
    port: int = ServeConfig.port,
    channels: int = 3,
    size: int = 0,
    sample: int = 2000,
    options: AsRead = AS_READ,
) -> None:
    """Examine versions, GPU, compiler, decoder, memory, disk and ports; with --data also images.

    Each line is ok, warn or fail, and says what to change. The exit code is 0 without a fail, 6 if
    the machine fails, 3 if only the images do. `beit doctor replay FILE` repeats a step whose
    numbers were not finite.

    Args:
        data: A folder, a list, tar shards, hf:NAME, as for every other verb.
        out: Where runs will be written: is there room, and is it fast?
        format: A table for people, or JSON.
        skip_compile: Skip torch.compile, which takes up to a minute to try.
        port: Port that `beit serve` would use.
        channels: Channels that images will be read with.
        size: Image side in pixels of the model to train; 0: --time fits it to the images.
        sample: At most this many images are examined; `beit data check` reads all.
        options: How images are read, if they leave it open.
    """
    if not (0 < port < 65536 and channels > 0 and size >= 0 and sample > 0):
        raise ConfigError(
            f"port is {port}, channels {channels}, size {size}, sample {sample}",
            remedy="use a port below 65536 and numbers above 0",
        )
    from beit.doctor import must_hold, print_json, print_table
    from beit.doctor.environment import check_environment
    from beit.doctor.images import check_images

    found = list(check_environment(out, port, compile=not skip_compile))
    if data:
        found += check_images(
            data, channels=channels, sample=sample, size=size, reading=options.reading
        )
    (print_json if format == "json" else print_table)(found)
    must_hold(found)


def replay(file: Annotated[str, tyro.conf.Positional]) -> None:
    """Repeat a step whose loss or gradient was not finite, and name the first bad value.

    Args:
        file: Record that the error named: RUN/diverged/step-NUMBER.safetensors.
    """
    from beit.tasks.finished import replay_step

    done = replay_step(file)
    reached = f"from the checkpoint of step {done.restored}" if done.restored else "from the start"
    print(
        f"step {done.step}, reached {reached}: "
        + (f"first not finite is {done.where}" if done.where else "every value is finite")
    )
    if done.where != done.recorded:
        recorded = done.recorded or "nothing"
        print(f"the run had found {recorded}: hardware, versions or images are not the same")
