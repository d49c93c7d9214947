"""GPUs, their driver, their numbers; and whether models can be compiled for them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator

import torch

from beit.doctor.finding import Finding
from beit.hardware import multiplies_bfloat16
from beit.training.device import compiler_problem

GIB = 2**30
PATIENCE = 300
COMPILED = """
import torch
device = {device!r}
block = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()).to(device)
rows = torch.randn(4, 8, device=device)
assert torch.allclose(torch.compile(block)(rows), block(rows), atol=1e-3), "other numbers came out"
"""


def _driver() -> str | None:
    """What the driver says of itself: its version and the newest CUDA it runs; None without one."""
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
        told = (done.stdout + done.stderr).strip().splitlines()
        return f"nvidia-smi fails: {told[0] if told else done.returncode}"
    return f"driver {found[1]}, which runs CUDA up to {found[2]}"


def _use(index: int) -> str:
    """Compute something on a GPU; returns what went wrong."""
    try:
        rows = torch.ones(64, 64, device=f"cuda:{index}")
        return "" if float((rows @ rows).sum()) == 64**3 else "it multiplies wrongly"
    except RuntimeError as error:
        return str(error).splitlines()[0]


def check_gpus() -> Iterator[Finding]:
    """GPUs that torch finds and can use; and if it finds none, why."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    complaints = "; ".join(str(one.message).splitlines()[0] for one in told)
    driver, built = _driver(), torch.version.cuda
    if not usable:
        if driver is None and not complaints:
            words = "none; everything works on the CPU, slowly"
            yield Finding("warn", "GPU", words, "for the recipe small and above use a GPU")
        elif built is None:
            words = f"{driver}, but torch {torch.__version__} is built without CUDA"
            yield Finding("fail", "GPU", words, "install torch for CUDA: https://pytorch.org")
        else:
            words = f"torch for CUDA {built} finds none: {complaints or 'no GPU'} ({driver})"
            change = "install a newer driver, or a torch that is built for an older CUDA"
            yield Finding("fail", "GPU", words, change)
        return
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        fault = _use(index)
        if fault:
            kinds = ", ".join(torch.cuda.get_arch_list())
            words = f"{name} cannot be used: {fault} (torch is built for {kinds}; {driver})"
            yield Finding("fail", f"GPU {index}", words, "install a torch built for this GPU")
            continue
        free, total = torch.cuda.mem_get_info(index)
        words = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free; CUDA {built}, {driver}"
        busy = free < total / 2
        change = "other processes hold its memory: see nvidia-smi" if busy else ""
        yield Finding("warn" if busy else "ok", f"GPU {index}", words, change)


def device() -> torch.device:
    """Where runs would train."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_bfloat16() -> Iterator[Finding]:
    """Whether numbers of half the width are fast here; runs choose float32 where they are not."""
    where = device()
    if multiplies_bfloat16(where):
        yield Finding("ok", "bfloat16", f"in hardware on {where}: runs use it")
    else:
        words = f"not in hardware on {where}: runs use float32"
        change = "on this GPU --precision fp16 may be faster" if where.type == "cuda" else ""
        yield Finding("ok", "bfloat16", words, change)


def check_compile() -> Iterator[Finding]:
    """Compile a layer, in a process of its own; takes up to a minute where nothing is cached."""
    where = device()
    on_gpu = where.type == "cuda"
    fault = compiler_problem(where)
    if not fault:
        with tempfile.TemporaryDirectory(prefix="beit-doctor-") as folder:
            code = COMPILED.format(device=where.type)
            try:
                done = subprocess.run(  # noqa: S603
                    [sys.executable, "-c", code], capture_output=True, text=True,
                    timeout=PATIENCE, cwd=folder, check=False,
                )  # fmt: skip
                lines = done.stderr.strip().splitlines()
                fault = (lines[-1] if lines else f"exit {done.returncode}") * bool(done.returncode)
            except subprocess.TimeoutExpired:
                fault = f"it took more than {PATIENCE} seconds"
    if not fault:
        yield Finding("ok", "torch.compile", f"works on {where}")
        return
    change = "install a C compiler (gcc, g++) and the headers of Python, or use --compile off"
    yield Finding(
        "fail" if on_gpu else "warn", "torch.compile", f"does not work on {where}: {fault}", change
    )
