"""`benchmarks/run quality`: top-1 on object scenes after so many CPU seconds of pre-training.

LightlyTrain is left out: its commercial use takes a licence; its methods are here from their
papers. What was measured is kept, so that a night's work goes on where it stopped; the tables are
also written beside the records of the other benchmarks.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch

from benchmarks.machine import describe
from benchmarks.quality import budgets, contestant
from benchmarks.record import RESULTS

SECONDS = (150, 300, 600, 1200)
"""CPU seconds."""
WHO = (*contestant.LEARNERS, *contestant.BASELINES)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as passing:
        folder = Path(passing) if options.quick else options.folder
        jobs = 1 if options.quick else options.jobs
        quality = budgets.Quality(folder, quick=options.quick)
        quality.measure(options.who, options.seconds, options.seeds, jobs)
        found = budgets.tables(quality, options.who, options.seconds, options.seeds)
    print(found)
    if not options.quick:
        machine = describe(torch.device("cpu"))
        words = f"{json.dumps(machine)}\n\n{found}"
        place = RESULTS / f"{machine['date'].replace(':', '').partition('+')[0]}-quality.md"
        place.write_text(words)
        print(f"written to {place}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/run quality", description=__doc__)
    parser.add_argument("--who", nargs="+", choices=WHO, default=WHO)
    parser.add_argument("--seconds", nargs="+", type=int, default=SECONDS, help="of the CPU")
    parser.add_argument("--seeds", type=int, default=2, help="of pre-training, labels, fine-tuning")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trained at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs/quality"))
    parser.add_argument("--quick", action="store_true", help="one step each, on noise")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
