"""What saving costs training: python -m benchmarks.saving [--quick] [--saves N] [--every SECONDS]

A fine-tuning of BEiT base with an average saves as its runs do, beside its steps. A save costs the
seconds for which its step waits (the state is copied), and what the steps take longer while it is
written. Steps while nothing is written are those right after, as many as there were before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from beit.batch import LabelledBatch
from beit.config import AugmentConfig, TrainingConfig
from beit.models.heads import Classifier
from beit.objectives.classify import Classification
from beit.training.checkpoint import Checkpoint, Saver
from beit.training.distributed import Processes
from beit.training.update import Updater
from benchmarks.machine import describe
from benchmarks.setting import Setting

CLASSES = 1000
PLAIN = AugmentConfig(rand_augment="", erasing=0.0, mixup=0.0, cutmix=0.0)


class Save(NamedTuple):
    """Seconds of one save, and of the steps beside and after it."""

    waited: float
    published: float
    beside: list[float]
    after: list[float]

    @property
    def cost(self) -> float:
        """Seconds that training lost."""
        return self.waited + sum(self.beside) - len(self.beside) * statistics.median(self.after)


class Training:
    """A model, its optimizer and its average, trained on the same images again and again."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        config = setting.classifying
        objective = Classification(Classifier(config, CLASSES), PLAIN, classes=CLASSES)
        training = TrainingConfig(
            steps=10**6, batch=setting.batch, lr=1e-4, average=0.9999, compile="off"
        )
        self._updater = Updater(objective, training, Processes(0, 1, setting.device), print)
        images = setting.images(config.size).cpu()
        keys = tuple(map(str, range(setting.batch)))
        self._batch = LabelledBatch(images, torch.arange(setting.batch) % CLASSES, keys)
        self.device, self.done = setting.device, 0

    def _batches(self) -> Iterator[LabelledBatch]:
        while True:
            yield self._batch

    def step(self) -> float:
        """Do one; its seconds."""
        began = time.monotonic()
        self._updater.update(self.done, self._batches())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.done += 1
        return time.monotonic() - began

    def state(self) -> Checkpoint:
        return Checkpoint(self.done, *self._updater.state())


def save(training: Training, saver: Saver) -> Save:
    """Save beside the steps, then do as many with nothing beside them."""
    began = time.monotonic()
    saver.save(training.state())
    waited, beside = time.monotonic() - began, list[float]()
    while saver.published != training.done - len(beside):
        beside.append(training.step())
    published = time.monotonic() - began
    return Save(waited, published, beside, [training.step() for _ in beside])


def measure(setting: Setting, saves: int, every: float) -> dict[str, Any]:
    training = Training(setting)
    for _ in range(2):
        training.step()
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), keep=1)
        try:
            save(training, saver)  # which makes room for the copies, once in a run
            made = [save(training, saver) for _ in range(saves)]
        finally:
            saver.close()
    tensors = training.state().tensors
    held = sum(one.nbytes for group in tensors.values() for one in group.values())
    return {
        "megabytes": round(held / 1e6),
        "batch": setting.batch,
        "saves": saves,
        "step_seconds": statistics.median(one for save in made for one in save.after),
        "step_seconds_beside_a_save": statistics.median(
            one for save in made for one in save.beside
        ),
        "waited_seconds": statistics.median(save.waited for save in made),
        "published_after_seconds": statistics.median(save.published for save in made),
        "cost_seconds": statistics.median(save.cost for save in made),
        "share_of_waiting": statistics.median(save.waited for save in made) / every,
        f"share_of_time_at_one_save_in_{every:g}_seconds": statistics.median(
            save.cost for save in made
        )
        / every,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two narrow blocks")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=0, help="0: 4, on a GPU 64")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two saves")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    batch = asked.batch or (64 if device.type == "cuda" else 4)
    setting = Setting(
        quick=asked.quick, device=device, threads=asked.threads, rounds=1, batch=batch
    )
    print(json.dumps(measure(setting, asked.saves, asked.every) | describe(device), indent=1))


if __name__ == "__main__":
    main()
