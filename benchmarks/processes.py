"""Two processes of `beit predict --part`, with one thread each, beside one that does all of it.

By the wall clock, from the word to begin, which is given when all have made their models: it means
something only on two idle cores. `python -m benchmarks.processes FOLDER OUT PART` is one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from beit.config.bulk import PredictConfig
from beit.inference.parts import open_parts
from benchmarks.race import OURS, Contest
from benchmarks.setting import Setting
from benchmarks.using import classifier, photos, prepared

READY = "ready\n"


def contests(setting: Setting) -> Iterator[Contest]:
    """The same photos; the parts of both processes lie in one folder."""
    with tempfile.TemporaryDirectory() as place:
        folder = photos(place, 16 if setting.quick else 64)
        yield Contest(
            case="fp32",
            contestants={
                OURS: lambda clock: clock.report(_processes(folder, 2)),
                "one process": lambda clock: clock.report(_processes(folder, 1)),
            },
            warm_up=False,
        )


def _processes(folder: Path, number: int) -> float:
    """Seconds until the last of some processes with one thread each has answered its part."""
    with tempfile.TemporaryDirectory() as out:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.processes", folder, out, f"{part}/{number}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for part in range(1, number + 1)
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == READY
        began = time.perf_counter()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        codes = [process.wait() for process in started]
        spent = time.perf_counter() - began
    assert not any(codes)
    return spent


def main(folder: str, out: str, part: str) -> None:
    """One process's part, from the word of the parent to the last file of answers."""
    torch.set_num_threads(1)
    setting = Setting(quick=False, device=torch.device("cpu"), threads=1, rounds=1, batch=8)
    config = PredictConfig(out=out, part=part, device="cpu", batch=8, part_rows=8, workers=0)
    job = prepared(classifier(setting), Path(folder), config)
    parts = open_parts(Path(out), job.plan(), job.output.columns)
    job.output.compute(torch.zeros(8, 3, 224, 224, dtype=torch.uint8))
    sys.stdout.write(READY)
    sys.stdout.flush()
    sys.stdin.readline()
    for _ in job.write(parts, parts.missing(config.own_part()), config.own_part()):
        pass
    # The parent waits for the answers, not for the interpreter to be taken down.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
