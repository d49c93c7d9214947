"""A process of its own for one contestant: its peak memory, or the time until a first step.

`python -m benchmarks.child WHO DEVICE QUICK BATCH` makes one pre-training step from nothing and
prints the peak of its memory in MiB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.race import Clock, Contestant


def processor_seconds(arguments: Sequence[str]) -> float:
    """CPU time of a child with everything it started, in user and kernel mode."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(arguments: Sequence[str]) -> str:
    """What a Python with these arguments prints; it must succeed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def timed(arguments: Sequence[str]) -> Contestant:
    """A contestant that is a process: the CPU time it takes."""
    return lambda clock: clock.report(processor_seconds(arguments))


def resident_peak() -> int:
    """Bytes of memory that this program held at most.

    Not `ru_maxrss`, in which Linux counts the process that started this one, if that was larger.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of macOS, in bytes
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main(who: str, device: str, quick: str, batch: str) -> None:
    """One step, and the peak of memory."""
    import torch

    from benchmarks import pretraining
    from benchmarks.setting import Setting

    torch.set_num_threads(1)
    chosen = torch.device(device)
    setting = Setting(quick=quick == "quick", device=chosen, threads=1, rounds=1, batch=int(batch))
    clock = Clock(chosen, threads=1)
    contestant = pretraining.contestant(setting, who)
    clock.start()
    contestant(clock)
    if chosen.type == "cuda":
        print(torch.cuda.max_memory_allocated(chosen) / 2**20)
    else:
        print(resident_peak() / 2**20)


if __name__ == "__main__":
    main(*sys.argv[1:])
