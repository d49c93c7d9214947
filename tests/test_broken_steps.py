"""Numbers that break, or stand out, in one of several processes: all of them do the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from beit.batch import LabelledBatch
from beit.errors import DivergedError
from beit.objectives.base import Loss
from beit.objectives.classify import Classification
from beit.training import optim
from beit.training.checkpoint import newest_checkpoint
from ranks import together, train

pytestmark = pytest.mark.slow

SPOILT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a loss whose gradient is finite": lambda total: total + torch.inf,
    "a loss and its gradient": lambda total: total * torch.nan,
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_step_that_breaks_in_one_process_ends_all_before_its_update(how, class_folders, tmp_path):
    """The same step in all, told alike, with the images of that process, which records it."""
    out, step = tmp_path / "run", 2
    told = together(diverging, how, step, class_folders, out)
    assert told[0] == told[1]
    (record,) = (out / "diverged").glob("*.json")
    assert record.name == f"step-{step:08d}-rank-1.json"
    keys = json.loads(record.read_text())["keys"]
    assert len(keys) == 2
    assert f"at step {step}; first in the loss, with the images {', '.join(keys)} of process 1" \
        in told[0]  # fmt: skip
    assert f"replay {record.with_suffix('.safetensors')} repeats" in told[0].replace("`", "")
    saved = newest_checkpoint(out / "checkpoints").checkpoint
    assert saved is not None
    assert saved.step == step


def diverging(rank: int, how: str, broken: int, data: Path, out: Path) -> str:
    """The first of two micro-batches of the second process is spoilt; what the run says then."""
    forward, done = Classification.forward, Classification.after_step
    steps = 6
    spoilt: list[tuple[str, ...]] = []  # the images, by which the step is repeated
    weights: list[torch.Tensor] = []

    def spoil(self: Classification, batch: LabelledBatch, progress: float) -> Loss:
        loss = forward(self, batch, progress)
        if rank == 1 and round(progress * steps) == broken:
            spoilt.append(batch.keys)
            if batch.keys == spoilt[0]:
                loss = loss._replace(total=SPOILT[how](loss.total))
        return loss

    def after_step(self: Classification, step: int) -> dict[str, float]:
        weights.append(self.model.head.weight.detach().clone())
        return done(self, step)

    Classification.forward = spoil  # type: ignore[method-assign]
    Classification.after_step = after_step  # type: ignore[method-assign]
    options = {"steps": steps, "micro_batch": 2, "save_every": 1}
    with pytest.raises(DivergedError) as caught:
        train(rank, "finetune", data, out, options)
    assert len(weights) == broken + 1
    assert torch.equal(weights[-1], weights[-2])
    return str(caught.value)


def test_a_step_that_stands_out_in_one_process_is_left_out_by_all(class_folders, tmp_path):
    first, second = together(spiking, class_folders, tmp_path / "run")
    assert first == second
    assert first[4] == first[3] != first[2]
    assert first[5] != first[4]


def spiking(rank: int, data: Path, out: Path) -> list[list[float]]:
    """Some weights after each step, in the fifth of which the second process has a large loss."""
    optim.WINDOW = 2
    forward, done = Classification.forward, Classification.after_step
    weights: list[list[float]] = []

    def spike(self: Classification, batch: LabelledBatch, progress: float) -> Loss:
        loss = forward(self, batch, progress)
        large = rank == 1 and round(progress * 6) == 4
        return loss._replace(total=loss.total * (1e4 if large else 1.0))

    def after_step(self: Classification, step: int) -> dict[str, float]:
        weights.append(self.model.head.weight.flatten().tolist())
        return done(self, step)

    Classification.forward = spike  # type: ignore[method-assign]
    Classification.after_step = after_step  # type: ignore[method-assign]
    train(rank, "finetune", data, out, {"steps": 6, "skip_spikes": 100.0})
    return weights
