"""Resuming every kind of run after every step, with each number of loader processes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from trial import Trial, Try

import beit
from beit.config import AugmentConfig, MaskedConfig
from beit.training.checkpoint import folder_name, newest_checkpoint
from segmented_folder import write_folder
from states import assert_same

WORKERS = (1, 2, 0)
COMMON: dict[str, Any] = {
    "quiet": True, "report": False, "device": "cpu", "precision": "fp32", "warmup_steps": 1,
    "batch": 4, "save_every": 1, "log_every": 1, "average": 0.9,
}  # fmt: skip
KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "tokenizer": (beit.tokenizer, {}),
    "pretrain": (
        beit.pretrain,
        {"objective": MaskedConfig(target="pixels"), "knn_images": 0},
    ),
    "finetune": (
        beit.finetune,
        {"drop_path": 0.2, "augment": AugmentConfig(crop_scale=(0.5, 1.0), erasing=0.5)},
    ),
    "segment": (beit.segment, {}),
}


def write_images(root: Path) -> Path:
    """Three classes of five images of noise, lighter from class to class."""
    chance = np.random.default_rng(0)
    for number, name in enumerate(("dark", "grey", "light")):
        (root / name).mkdir(parents=True)
        for image in range(5):
            pixels = chance.integers(60 * number, 60 * number + 100, (40, 48, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{image}.png")
    return root


def _train(kind: str, folder: Path, out: Path, **options: Any) -> None:
    verb, particular = KINDS[kind]
    data = folder / ("segmented" if kind == "segment" else "images")
    verb("tiny", data=str(data), out=str(out), **(COMMON | particular | options))


def _losses(run: Path) -> list[object]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row.get("loss")) for row in rows if row["kind"] == "train"]


def _resume(kind: str, folder: Path, step: int, workers: int, steps: int) -> None:
    """As if it had been killed right after the step."""
    whole, run = folder / kind, folder / "resumed"
    try:
        shutil.copytree(whole, run)
        for artifact in ("model", "last"):
            shutil.rmtree(run / artifact, ignore_errors=True)
        for later in range(step + 1, steps + 1):
            shutil.rmtree(run / "checkpoints" / folder_name(later))
        _train(kind, folder, run, steps=steps, keep=steps, workers=workers, resume=True)
        found, expected = (newest_checkpoint(place / "checkpoints") for place in (run, whole))
        assert f"going on after step {step}:" in (run / "log.txt").read_text()
        assert_same(found.checkpoint, expected.checkpoint)
        assert _losses(run) == _losses(whole)
        weights = [(place / "model" / "model.safetensors").read_bytes() for place in (run, whole)]
        assert weights[0] == weights[1]
    finally:
        shutil.rmtree(run, ignore_errors=True)


def tries(folder: Path, count: int) -> Iterator[Try]:
    """All kinds come first, then all numbers of workers, then the steps."""
    write_images(folder / "images")
    write_folder(folder / "segmented")
    steps = math.ceil(count / len(KINDS) / len(WORKERS)) + 1
    steps = max(steps, 3)
    for kind in KINDS:
        _train(kind, folder, folder / kind, steps=steps, keep=steps, workers=0)
    made = 0
    for step in range(1, steps):
        for shift in range(len(WORKERS)):
            for number, kind in enumerate(KINDS):
                if made == count:
                    return
                made += 1
                workers = WORKERS[(number + shift) % len(WORKERS)]
                yield partial(_resume, kind, folder, step, workers, steps)


TRIAL = Trial(
    fault="any kind of run stops after any step and goes on with 0, 1 or 2 loader processes",
    promise="weights, optimizer, average, losses and artifact equal those of an uninterrupted run, "
    "bit for bit",
    count=320,
    tries=tries,
)
