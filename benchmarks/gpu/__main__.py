"""`scripts/gpu [--device cuda|cpu] [--quick] [--out FILE] [PART ...]`

Every part runs in a process of its own, with a limit of time, and hands its lines over as they are
made: a part that crashes, hangs or is cut off keeps what it had, and the others run all the same.
The record is written again after each part.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import page
from benchmarks.gpu.checks import Setting
from benchmarks.machine import ROOT, describe

SECONDS = {"parity": 80, "training": 90, "speed": 130, "systems": 80, "kernels": 40}
"""The parts in their order, and how long each may take; together seven minutes."""
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
LAST_LINES = 12


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(SECONDS))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="small models, few rounds")
    parser.add_argument("--out", type=Path, help="file of the record")
    parser.add_argument("--only", metavar="PART", help=argparse.SUPPRESS)  # in a child
    given = parser.parse_args()
    setting = Setting(torch.device(given.device), given.quick)
    if given.only:
        return run_part(given.only, setting)
    unknown = set(given.parts) - SECONDS.keys()
    if unknown:
        raise SystemExit(f"no part {sorted(unknown)}; there are {', '.join(SECONDS)}")
    if setting.on_gpu and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; --device cpu --quick tries the script itself")
    machine = describe(setting.device)
    day = machine["date"].replace(":", "").partition("+")[0]
    out = given.out or RESULTS / f"{day}-{'gpu' if setting.on_gpu else 'cpu'}.json"
    record: dict[str, Any] = {"machine": machine, "quick": setting.quick, "parts": {}}
    for name in given.parts or SECONDS:
        print(f"== {name}", flush=True)
        record["parts"][name] = started(name, setting)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")
        out.with_suffix(".md").write_text(page.written(record))
    print(f"written to {out} and {out.with_suffix('.md').name}")
    return 1 if page.failed(record) else 0


def run_part(name: str, setting: Setting) -> int:
    """In the child: one line for each check."""
    module = importlib.import_module(f"benchmarks.gpu.{name}")
    for check in module.checks(setting):
        print(check.line(), flush=True)
    return 0


def started(name: str, setting: Setting) -> dict[str, Any]:
    """Run a part as a process; what it printed, how long it took, and how it ended."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", name, "--device",
               setting.device.type, *(["--quick"] if setting.quick else [])]  # fmt: skip
    checks: list[dict[str, Any]] = []
    began = time.monotonic()
    seconds = SECONDS.get(name, 60) * (1 if setting.on_gpu else 6)
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        ) as process,
    ):  # fmt: skip
        limit = threading.Timer(seconds, lambda: os.killpg(process.pid, signal.SIGKILL))
        limit.start()
        assert process.stdout is not None
        for line in process.stdout:
            try:
                check = json.loads(line)
            except ValueError:
                continue  # what a library prints
            checks.append(check)
            print(page.line(check), flush=True)
        code = process.wait()
        limit.cancel()
        errors.seek(0)
        last = errors.read().splitlines()[-LAST_LINES:]
    took = time.monotonic() - began
    ended = (
        "done" if code == 0 else f"cut off after {seconds} s" if took > seconds else f"exit {code}"
    )
    if code:
        print("\n".join([ended, *last]), flush=True)
    return {"seconds": round(took, 1), "ended": ended, "errors": last if code else [],
            "checks": checks}  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
