"""Examines this machine: versions, GPUs, compiler, decoder, memory, limits, disk and ports."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib import metadata
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

from beit.data.decode import decode
from beit.data.file_types import FORMATS
from beit.doctor import Finding, Level, judge
from beit.doctor.agreement import check_agreement
from beit.errors import UnreadableError, system_error
from beit.hardware import best_device, cores, free_memory, multiplies_bfloat16
from beit.training.device import compiler_problem

PACKAGE = "beit"
GIB = 2**30
FARTHEST = 12
"""How far the colours of a plain image may change in a lossy format, out of 255."""
COMPILE_DEADLINE = 300
COMPILED = """
import torch
device = {device!r}
block = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()).to(device)
rows = torch.randn(4, 8, device=device)
assert torch.allclose(torch.compile(block)(rows), block(rows), atol=1e-3), "other numbers came out"
"""
SHARED = Path("/dev/shm")  # noqa: S108 - the place itself, not a file in it
LITTLE_SHARED, LITTLE_DISK, LITTLE_MEMORY = 1 * GIB, 10 * GIB, 4 * GIB
FEW_FILES = 4096
SLOW_DISK = 50e6
"""Bytes per second, at which a checkpoint of a base model (about 1 GB) takes 20 seconds."""
WRITTEN = 64 * 2**20
CGROUP = Path("/sys/fs/cgroup")
TORCHRUN = 29500
"""The port at which the processes of one `torchrun` meet by default."""


def check_environment(
    out: str,
    port: int,
    *,
    compile: bool,  # noqa: A002 (the name of the option)
) -> Iterator[Finding]:
    """Examine this machine, in the order of the report. Nothing is changed or left behind.

    Args:
        out: The folder into which runs are to be written; it need not exist.
        port: The port on which `beit serve` is to listen.
        compile: Whether torch.compile is tried, which may take a minute.
    """
    yield from check_versions()
    yield from check_extras()
    yield from check_gpus()
    yield from check_bfloat16()
    if compile:
        yield from check_compile()
    yield from check_decoder()
    yield from check_threads()
    yield from check_memory()
    yield from check_open_files()
    yield from check_agreement(best_device())
    yield from check_disk(out)
    yield from check_port(port, "beit serve")
    yield from check_port(TORCHRUN, "torchrun")


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in metadata.requires(PACKAGE) or []]


def _installed(requirement: Requirement) -> tuple[str, bool]:
    """The installed version, empty if there is none, and whether it is supported."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "", False
    return version, requirement.specifier.contains(version, prereleases=True)


def check_versions() -> Iterator[Finding]:
    """Python, this package, and everything it cannot do without."""
    python, supported = platform.python_version(), metadata.metadata(PACKAGE)["Requires-Python"]
    fits = SpecifierSet(supported).contains(python, prereleases=True)
    found = f"{python} on {platform.system()} {platform.machine()}; supported: {supported}"
    change = "" if fits else f"make an environment with a Python {supported}"
    yield judge("Python", found, change, "fail")
    yield judge(PACKAGE, metadata.version(PACKAGE))
    for requirement in _requirements():
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an extra, or of another system
        version, fits = _installed(requirement)
        found = f"{version or 'not installed'}; supported: {requirement.specifier}"
        change = "" if fits else f'pip install "{requirement.name}{requirement.specifier}"'
        yield judge(requirement.name, found, change, "fail")


def check_extras() -> Iterator[Finding]:
    """The extras: whether each is installed, missing, or there in an unsupported version."""
    for extra in sorted(metadata.metadata(PACKAGE).get_all("Provides-Extra") or []):
        words: list[str] = []
        change = ""
        level: Level = "ok"
        for one in _requirements():
            marker = one.marker
            if (
                not marker
                or marker.evaluate({"extra": ""})
                or not marker.evaluate({"extra": extra})
            ):
                continue
            version, fits = _installed(one)
            words.append(f"{one.name} {version or 'is not installed'}")
            if not fits:
                change = f'if you need it: pip install "{PACKAGE}[{extra}]"'
            if version and not fits:
                words[-1] += f" is not supported ({one.specifier})"
                level = "warn"
        yield Finding(level, f"extra {extra}", ", ".join(words), change)


def check_decoder() -> Iterator[Finding]:
    """Write an image in every format, and read it back by the decoder that runs use."""
    image = np.zeros((24, 32, 3), np.uint8)
    image[:12], image[12:] = (200, 60, 40), (30, 90, 160)
    faults = []
    for name in FORMATS:
        buffer = BytesIO()
        try:
            Image.fromarray(image).save(buffer, name)
            read = decode(buffer.getvalue(), channels=3)
        except (UnreadableError, OSError, KeyError, ImportError) as error:
            faults.append(f"{name}: {error}")
            continue
        same_shape = read.shape == image.shape
        if not same_shape or np.abs(read[4:8].astype(int) - image[4:8]).max() > FARTHEST:
            faults.append(f"{name}: other pixels came back than were written")
    versions = f"simplejpeg {metadata.version('simplejpeg')}, Pillow {metadata.version('pillow')}"
    found = "; ".join(faults) or f"{', '.join(FORMATS)} are read ({versions})"
    change = "pip install --force-reinstall simplejpeg pillow" if faults else ""
    yield judge("decoder", found, change, "fail")


def _driver() -> str | None:
    """The version of the driver and the newest CUDA it runs; None without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - no shell, a fixed program
            [program], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi fails: {error}"
    found = re.search(r"Driver Version: *([\d.]+).*?CUDA Version: *([\d.]+)", done.stdout)
    if done.returncode or found is None:
        output = (done.stdout + done.stderr).strip().splitlines()
        return f"nvidia-smi fails: {output[0] if output else done.returncode}"
    return f"driver {found[1]}, which runs CUDA up to {found[2]}"


def _gpu_fault(index: int) -> str:
    """Multiply matrices on a GPU; returns what went wrong, empty if nothing did."""
    try:
        rows = torch.ones(64, 64, device=f"cuda:{index}")
        return "" if float((rows @ rows).sum()) == 64**3 else "it multiplies wrongly"
    except RuntimeError as error:
        return str(error).splitlines()[0]


def check_gpus() -> Iterator[Finding]:
    """The GPUs that torch finds and whether it can use them; if it finds none, the reason."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    complaints = "; ".join(str(one.message).splitlines()[0] for one in caught)
    driver, built = _driver(), torch.version.cuda
    if not usable and driver is None and not complaints:
        words = "none; everything works on the CPU, slowly"
        yield judge("GPU", words, "for the recipe small and above use a GPU")
    elif not usable and built is None:
        words = f"{driver}, but torch {torch.__version__} is built without CUDA"
        yield judge("GPU", words, "install torch for CUDA: https://pytorch.org", "fail")
    elif not usable:
        words = f"torch for CUDA {built} finds none: {complaints or 'no GPU'} ({driver})"
        change = "install a newer driver, or a torch that is built for an older CUDA"
        yield judge("GPU", words, change, "fail")
    for index in range(torch.cuda.device_count() if usable else 0):
        name, fault = torch.cuda.get_device_name(index), _gpu_fault(index)
        if fault:
            kinds = ", ".join(torch.cuda.get_arch_list())
            words = f"{name} cannot be used: {fault} (torch is built for {kinds}; {driver})"
            yield judge(f"GPU {index}", words, "install a torch built for this GPU", "fail")
            continue
        free, total = torch.cuda.mem_get_info(index)
        words = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free; CUDA {built}, {driver}"
        change = "other processes hold its memory: see nvidia-smi" if free < total / 2 else ""
        yield judge(f"GPU {index}", words, change)


def check_bfloat16() -> Iterator[Finding]:
    """Whether the hardware computes in bfloat16; where it does not, runs use float32."""
    where = best_device()
    if multiplies_bfloat16(where):
        yield Finding("ok", "bfloat16", f"in hardware on {where}: runs use it")
    else:
        words = f"not in hardware on {where}: runs use float32"
        change = "on this GPU --precision fp16 may be faster" if where.type == "cuda" else ""
        yield Finding("ok", "bfloat16", words, change)


def check_compile() -> Iterator[Finding]:
    """Compile a layer in a separate process, which takes up to a minute if nothing is cached."""
    where = best_device()
    fault = compiler_problem(where) or _compile_fault(where)
    if not fault:
        yield judge("torch.compile", f"works on {where}")
        return
    change = "install a C compiler (gcc, g++) and the headers of Python, or use --compile off"
    level: Level = "fail" if where.type == "cuda" else "warn"
    yield judge("torch.compile", f"does not work on {where}: {fault}", change, level)


def _compile_fault(where: torch.device) -> str:
    try:
        with tempfile.TemporaryDirectory(prefix="beit-doctor-") as folder:
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-c", COMPILED.format(device=where.type)], capture_output=True,
                text=True, timeout=COMPILE_DEADLINE, cwd=folder, check=False,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it took more than {COMPILE_DEADLINE} seconds"
    except OSError as error:
        return system_error(error).problem
    lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
    return lines[-1] if done.returncode else ""


def quota() -> float | None:
    """How many processors the container may use; None if it has no limit."""
    try:
        allowed, period = (CGROUP / "cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError):
        return None


def check_threads() -> Iterator[Finding]:
    """Compare the threads of torch with the processors that may be used."""
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
    """Main memory, and the shared memory through which several GPUs exchange gradients."""
    free = free_memory()
    if free is None:
        return
    change = "use fewer --workers and --cache False, and end other work"
    yield judge("memory", f"{free / GIB:.1f} GiB free", change if free < LITTLE_MEMORY else "")
    if SHARED.is_dir():
        size = shutil.disk_usage(SHARED)
        words = f"{size.free / GIB:.2f} GiB free of {size.total / GIB:.2f} in {SHARED}"
        change = (
            "for several GPUs, which exchange gradients through it: docker run --shm-size 2g "
            "(in Kubernetes an emptyDir of medium Memory)"
        )
        yield judge("shared memory", words, change if size.free < LITTLE_SHARED else "")


def check_open_files() -> Iterator[Finding]:
    """The limit on files that are open at once, among them those of loader processes and shards."""
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
    """Whether this machine can listen on a port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            words = f"{port} cannot be used: {error.strerror}"
            yield judge(f"port, {purpose}", words, "choose another port")
            return
    yield judge(f"port, {purpose}", f"{port} is free")


def check_disk(out: str) -> Iterator[Finding]:
    """Free space, permission and speed where runs are to be written. Leaves nothing behind."""
    place, words = Path(out).absolute(), out
    try:
        while not place.exists():
            place = place.parent
        words = f"{out} ({place})" if str(place) != out else out
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
        change = "permit writing, make room, or choose another --out"
        yield judge("disk", fault, change, "fail")
        return
    change = ""
    if free < LITTLE_DISK:
        change = "make room: the states of a base model take about 1 GB each, and two are kept"
    elif speed < SLOW_DISK:
        change = "write runs to a local disk: saving will take longer than training between saves"
    yield judge(
        "disk", f"{words}: {free / GIB:.1f} GiB free, {speed / 1e6:,.0f} MB/s flushed", change
    )
