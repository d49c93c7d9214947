"""The figure and the numbers of docs/curves.md: healthy runs of the recipe `tiny`, and sick ones.

`python docs/curves.py FOLDER` trains in FOLDER, a few minutes on a CPU, and writes
FOLDER/curves.png and FOLDER/curves.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt

import beit
from beit.errors import BeitError
from beit.studies.tiles import make_tiles

COMMON: dict[str, Any] = {"log_every": 10, "save_every": 1000, "quiet": True, "report": False}


class Panel(NamedTuple):
    """One measure of a verb, in runs that differ in one thing."""

    verb: str
    measure: str
    runs: dict[str, dict[str, Any]]
    """Name to the options that make it so."""


def panels(folder: Path) -> list[Panel]:
    tiles, tokenizer = str(folder / "tiles" / "labelled"), str(folder / "tokenizer" / "healthy")
    images = {"data": tiles, "steps": 400, "warmup_steps": 20}
    masked = images | {"tokenizer": tokenizer}
    return [
        Panel(
            "tokenizer",
            "codes_in_use",
            {"healthy": images, "lr 0.05: collapsed": images | {"lr": 0.05}},
        ),
        Panel(
            "pretrain",
            "loss",
            {
                "healthy": masked,
                "lr 0.1: stuck": masked | {"lr": 0.1},
                "tokens of one code: nothing to learn": masked
                | {"tokenizer": str(folder / "tokenizer" / "lr 0.05: collapsed")}
                | {"accept_collapsed": True},
            },
        ),
        Panel(
            "finetune",
            "loss",
            {
                "healthy": images | {"init": str(folder / "pretrain" / "healthy")},
                "lr 0.3: diverged": images
                | {"init": str(folder / "pretrain" / "healthy"), "lr": 0.3},
            },
        ),
    ]


def journal(run: Path, measure: str) -> tuple[list[int], list[float]]:
    """Steps and values of a measure of the training."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    told = [line for line in lines if line["kind"] == "train" and measure in line]
    return [line["step"] for line in told], [line[measure] for line in told]


def main(folder: Path) -> None:
    make_tiles(folder / "tiles", side=64, stride=None, labelled_stride=64)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    numbers: dict[str, dict[str, list[float]]] = {}
    for panel, axis in zip(panels(folder), axes, strict=True):
        axis.set(title=panel.verb, xlabel="step", ylabel=panel.measure)
        for name, options in panel.runs.items():
            place = folder / panel.verb / name
            try:
                getattr(beit, panel.verb)("tiny", out=str(place), **COMMON, **options)
            except BeitError as error:
                print(f"{panel.verb}, {name}: {error}")
            steps, values = journal(place, panel.measure)
            numbers.setdefault(panel.verb, {})[name] = [values[0], min(values), values[-1]]
            axis.plot(steps, values, label=name)
        axis.legend(fontsize="small")
    figure.savefig(folder / "curves.png", dpi=110)
    (folder / "curves.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
