"""Processors, memory and limits of this machine; its disk; its ports."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from beit.doctor.finding import Finding, Level
from beit.hardware import cores

GIB = 2**30
SHARED = Path("/dev/shm")  # noqa: S108 - the place itself, not a file in it
LITTLE_SHARED, LITTLE_DISK, LITTLE_MEMORY = 1 * GIB, 10 * GIB, 4 * GIB
FEW_FILES = 4096
SLOW_DISK = 50e6
"""Bytes per second: a checkpoint of a base model (about 1 GB) takes 20 seconds."""
WRITTEN = 64 * 2**20
CGROUP = Path("/sys/fs/cgroup")


def quota() -> float | None:
    """How many processors the container may use, None for as many as there are."""
    try:
        allowed, period = (CGROUP / "cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError):
        return None


def check_threads() -> Iterator[Finding]:
    """Threads of torch against processors that may be used."""
    threads, allowed, limit = torch.get_num_threads(), cores(), quota()
    usable = allowed if limit is None else min(allowed, max(1, round(limit)))
    words = f"torch uses {threads} of {allowed} processors"
    words += "" if limit is None else f"; the container may use {limit:g}"
    change = ""
    if threads > usable:
        change = f"export OMP_NUM_THREADS={usable}: more threads than processors wait for another"
    elif threads < usable and torch.cuda.device_count() == 0:
        change = f"for training on the CPU: export OMP_NUM_THREADS={usable}"
    yield Finding("warn" if threads > usable else "ok", "threads", words, change)


def check_memory() -> Iterator[Finding]:
    """Main memory, and the part of it through which loader processes hand over images."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return  # no Linux: nothing that can be said
    little = free < LITTLE_MEMORY
    yield Finding(
        "warn" if little else "ok",
        "memory",
        f"{free / GIB:.1f} GiB free",
        "use fewer --workers and --cache False, and end other work" if little else "",
    )
    if SHARED.is_dir():
        size = shutil.disk_usage(SHARED)
        little = size.free < LITTLE_SHARED
        yield Finding(
            "warn" if little else "ok",
            "shared memory",
            f"{size.free / GIB:.2f} GiB free of {size.total / GIB:.2f} in {SHARED}",
            "several GPUs need it: docker run --shm-size 8g (Kubernetes: an emptyDir in Memory)"
            if little
            else "",
        )


def check_open_files() -> Iterator[Finding]:
    """The limit of files that may be open at once, which loader processes and shards share."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    few = soft not in (endless, -1) and soft < FEW_FILES
    # 1,024, as most systems have it, is enough for a few loader processes.
    level: Level = "ok"
    if few and soft < 1024:
        level = "fail" if soft < 256 else "warn"
    most = "unlimited" if hard == endless else f"{hard:,}"
    change = f"for many loader processes: ulimit -n {FEW_FILES}" if few else ""
    yield Finding(level, "open files", f"{soft:,}, may be raised to {most}", change)


def check_port(port: int, purpose: str) -> Iterator[Finding]:
    """Whether a port of this machine can be listened on."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            words = f"{port} cannot be used: {error.strerror}"
            yield Finding("warn", f"port, {purpose}", words, "choose another port")
            return
    yield Finding("ok", f"port, {purpose}", f"{port} is free")


def check_disk(out: str) -> Iterator[Finding]:
    """Room, rights and speed where runs are to be written. Leaves nothing behind."""
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    subject, words = "disk", f"{out} ({place})" if str(place) != out else out
    try:
        if not place.is_dir():
            raise NotADirectoryError(20, "it is a file")
        free = shutil.disk_usage(place).free
        with tempfile.NamedTemporaryFile(dir=place, prefix=".beit-doctor-") as file:
            piece = os.urandom(2**20)
            start = time.perf_counter()
            for _ in range(WRITTEN // len(piece)):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            speed = WRITTEN / (time.perf_counter() - start)
    except OSError as error:
        fault = f"{words}: nothing can be written there: {error.strerror or error}"
        yield Finding("fail", subject, fault, "permit writing, make room, or choose another --out")
        return
    found = f"{words}: {free / GIB:.1f} GiB free, {speed / 1e6:,.0f} MB/s flushed"
    if free < LITTLE_DISK:
        change = "make room: the states of a base model take about 1 GB each, and two are kept"
        yield Finding("warn", subject, found, change)
    elif speed < SLOW_DISK:
        change = "write runs to a local disk: saving will take longer than training between saves"
        yield Finding("warn", subject, found, change)
    else:
        yield Finding("ok", subject, found)
