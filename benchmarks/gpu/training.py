"""Training on a GPU: the curve of the CPU, resuming bit for bit, and a host that never waits."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import beit
from beit.batch import MaskedBatch
from beit.config import MaskedConfig, TrainingConfig
from beit.errors import Preempted
from beit.models.heads import MaskedImageModel
from beit.objectives.masked import MaskedImageModeling
from beit.recipes import demo
from beit.tokenizers import build_tokenizer
from beit.training.checkpoint import newest_checkpoint
from beit.training.distributed import Processes
from beit.training.update import Updater
from benchmarks import setting as peers
from benchmarks.gpu.checks import Check, Setting, at_most, skipped

NOISE = 0.03
"""Nats between the mean losses of the last quarter, in float32 and in bf16."""
WARM_UP, WATCHED = 3, 5


def checks(setting: Setting) -> Iterator[Check]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _draw_images(place / "images", 64 if setting.quick else 256)
        tokenizer = beit.tokenizer(
            demo.dvae(), out=str(place / "tokenizer"), **_options(setting, place, 8, 40)
        ).folder
        yield from _curves(setting, place, str(tokenizer))
        yield from _resume(setting, place, str(tokenizer))
    yield from _waits(setting)


def _draw_images(folder: Path, number: int) -> None:
    """Ellipses and stripes of random colours on gradients, 80 pixels, as JPEG."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:80j, -1:1:80j]
    for index in range(number):
        (u, v), (a, b) = draw.uniform(-0.5, 0.5, 2), draw.uniform(0.2, 0.6, 2)
        inside = ((x - u) / a) ** 2 + ((y - v) / b) ** 2 < 1
        stripes = np.sin(draw.uniform(4, 14) * (x * draw.normal() + y * draw.normal())) > 0
        front, back, other = draw.uniform(0, 235, (3, 3))
        pixels = np.where(inside[..., None], front, np.where(stripes[..., None], back, other))
        pixels += 20 * (y[..., None] + 1) / 2
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.jpg", quality=95)


def _options(setting: Setting, place: Path, quick: int, full: int) -> dict[str, Any]:
    return {
        "data": str(place / "images"), "steps": quick if setting.quick else full,
        "batch": 16 if setting.quick else 64, "warmup_steps": 2, "log_every": 1, "save_every": 1000,
        "workers": 0, "quiet": True, "report": False, "device": setting.device.type,
    }  # fmt: skip


def _pretrain(setting: Setting, place: Path, name: str, tokenizer: str, **more: Any) -> Path:
    options = _options(setting, place, 6, 40) | {"accept_collapsed": True} | more
    plan = demo.pretrain()
    return beit.pretrain(plan, out=str(place / name), tokenizer=tokenizer, **options).folder


def _losses(folder: Path) -> np.ndarray:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return np.array([row["loss"] for row in rows if row["kind"] == "train"])


def _curves(setting: Setting, place: Path, tokenizer: str) -> Iterator[Check]:
    """The demo's pre-training, on the CPU in float32 and on the GPU in bf16, compiled."""
    exact = _losses(_pretrain(setting, place, "cpu", tokenizer, device="cpu", precision="fp32"))
    fast = {"precision": "bf16", "compile": "blocks" if setting.on_gpu else "off"}
    found = _losses(_pretrain(setting, place, "there", tokenizer, **fast))
    quarter = max(len(exact) // 4, 1)
    apart = abs(found[-quarter:].mean() - exact[-quarter:].mean())
    yield at_most("loss of the first step, bf16 beside float32", abs(found[0] - exact[0]), 0.01)
    yield at_most("mean loss of the last quarter, bf16 beside float32", apart, NOISE)
    fell = exact[0] - exact[-quarter:].mean()
    yield Check("loss fell on the CPU by", float(fell), "nats")


def _resume(setting: Setting, place: Path, tokenizer: str) -> Iterator[Check]:
    """Stopped in the middle and resumed: the same weights, average and optimizer, bit for bit."""
    options = {"steps": 8, "save_every": 4, "compile": "off"}
    whole = _pretrain(setting, place, "whole", tokenizer, **options)
    after = MaskedImageModeling.after_step

    def stop(self: MaskedImageModeling, step: int) -> dict[str, float]:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return after(self, step)

    MaskedImageModeling.after_step = stop  # type: ignore[method-assign]
    try:
        _pretrain(setting, place, "stopped", tokenizer, **options)
    except Preempted:
        pass
    finally:
        MaskedImageModeling.after_step = after  # type: ignore[method-assign]
    stopped = _pretrain(setting, place, "stopped", tokenizer, resume=True, **options)
    first, second = (newest_checkpoint(run / "checkpoints").checkpoint for run in (whole, stopped))
    assert first is not None
    assert second is not None
    worst = max(
        float((value.double() - second.tensors[group][name].double()).abs().max())
        for group, tensors in first.tensors.items()
        for name, value in tensors.items()
    )
    yield at_most("largest difference after stopping and resuming", worst, 0.0)


def _waits(setting: Setting) -> Iterator[Check]:
    """BEiT base as it is trained: how often the host waits in a step, what is compiled again."""
    if not setting.on_gpu:
        yield skipped("waits of the host per step", "tests/training/test_host_syncs.py counts them")
        return
    device = setting.device
    size = peers.Setting(quick=setting.quick, device=device, threads=1, rounds=1, batch=32)
    tokenizer = build_tokenizer(size.tokenizer).to(device)
    model = MaskedImageModel(size.pretraining, tokenizer.codes)
    objective = MaskedImageModeling(model, MaskedConfig(), tokenizer, torch.float16)
    config = TrainingConfig(
        steps=100, batch=32, micro_batch=32, lr=1e-4, clip=3.0, precision="bf16", compile="blocks"
    )
    updater = Updater(objective, config, Processes(0, 1, device), print)
    images = size.images(size.pretraining.size).cpu().pin_memory()
    small = size.images(tokenizer.size).cpu().pin_memory()
    mask = size.mask(size.pretraining).cpu().pin_memory()
    batch = MaskedBatch(images, small, mask, tuple(map(str, range(32))))
    from torch._dynamo.utils import counters

    def steps(first: int, number: int) -> int:
        for step in range(first, first + number):
            updater.update(step, iter([batch]))
        setting.wait()
        return int(counters["stats"]["unique_graphs"])

    compiled = steps(0, WARM_UP)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        for step in range(WARM_UP, WARM_UP + WATCHED):
            updater.update(step, iter([batch]))
    torch.cuda.set_sync_debug_mode("default")
    waits = [str(one.message) for one in raised if "synchroniz" in str(one.message)]
    where = sorted({f"{Path(one.filename).name}:{one.lineno}" for one in raised})
    yield at_most("waits of the host per step", len(waits) / WATCHED, 0.0)._replace(
        note=", ".join(where) if waits else ""
    )
    again = steps(WARM_UP + WATCHED, WATCHED) - compiled
    yield at_most("graphs compiled after the first steps", float(again), 0.0)
