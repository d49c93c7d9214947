"""`benchmarks/run [--quick] [--device cpu|cuda] [--threads N] [--rounds N] [--out FILE] [PART ...]`

Without a part all are measured, and the record is kept in benchmarks/results. `check` judges the
newest record, `table` writes it into the pages on speed. `quality` is a night's work of its own
(`benchmarks/run quality --help`).
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import goals, page, record
from benchmarks.machine import describe, matrix_peak
from benchmarks.quality import __main__ as quality
from benchmarks.race import Clock, Row, race
from benchmarks.setting import TYPES, Setting

PARTS = {
    "tokenizer": "tokenizing",
    "attention": "attention",
    "pretraining": "pretraining",
    "finetuning": "finetuning",
    "segmentation": "segmentation",
    "inference": "inference",
    "loading": "loading",
    "masks": "masks",
    "memory": "memory",
    "startup": "startup",
    "probing": "probing",
    "visible": "visible",
    "using": "using",
    "processes": "processes",
}
"""Names of the parts, and the modules whose `contests` they are."""


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["quality"]:
        return quality.main(words[1:])
    asked = _parser().parse_args(words)
    if asked.parts == ["check"]:
        return _check()
    if asked.parts == ["table"]:
        found = record.shown(record.records())
        assert found is not None, "there is no record yet: measure first"
        page.write(found)
        return 0
    unknown = set(asked.parts) - PARTS.keys()
    if unknown:
        raise SystemExit(f"no part {sorted(unknown)}; there are {', '.join(PARTS)}, check, table")
    device = torch.device(asked.device)
    torch.set_num_threads(asked.threads)
    setting = Setting(
        quick=asked.quick,
        device=device,
        threads=asked.threads,
        rounds=asked.rounds or (3 if asked.quick else 7),
        batch=asked.batch or (4 if asked.quick else 64 if device.type == "cuda" else 8),
    )
    for made in measure(setting, asked.parts or list(PARTS)):
        stamp = made.machine["date"].replace(":", "").partition("+")[0]
        size = "quick" if setting.quick else "full"
        path = asked.out or record.RESULTS / f"{stamp}-{device.type}-{size}.json"
        made.write(path)
    if asked.onto:
        made, path = record.read(asked.onto).renewed(made), asked.onto
        made.write(path)
    print(record.table(made))
    for name, why in made.skipped.items():
        print(f"left out: {name}: {why}")
    print(f"written to {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="small models: a few minutes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=0, help="0: 3 if quick, else 7")
    parser.add_argument("--batch", type=int, default=0, help="0: 4 if quick, else 8, on a GPU 64")
    parser.add_argument("--out", type=Path, help="file of the record")
    parser.add_argument("--onto", type=Path, help="an older record, whose parts are replaced")
    return parser


def measure(setting: Setting, parts: list[str]) -> Iterator[record.Record]:
    """One part after the other, and after each the record so far; a part whose module is missing a
    library fails aloud."""
    warnings.filterwarnings("ignore", module="timm|transformers|dall_e")
    machine = describe(setting.device)
    clock = Clock(setting.device, setting.threads)
    peaks = {name: matrix_peak(setting.device, TYPES[name], clock) for name in setting.precisions}
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    for part in parts:
        module = importlib.import_module(f"benchmarks.{PARTS[part]}")
        for contest in module.contests(setting):
            print(f"{part}: {contest.case}", flush=True)
            rows += race(part, contest, rounds=setting.rounds, clock=clock)
            skipped |= contest.skipped
        yield record.Record(
            machine=machine,
            setting=asdict(setting) | {"device": setting.device.type},
            peaks=peaks,
            rows=tuple(rows),
            skipped=dict(skipped),
        )


def _check() -> int:
    kept = record.records()
    if not kept:
        raise SystemExit("there is no record yet: measure first")
    newest = kept[-1]
    older = [entry for entry in kept[:-1] if entry.kind == newest.kind]
    for line in goals.fallen(older[-1], newest) if older else ["no older record of this kind"]:
        print(line)
    for line in goals.lines(goals.judge(newest, goals.goals())):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
