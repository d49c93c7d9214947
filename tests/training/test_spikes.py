"""Updates whose gradient stands out: left out where asked, and nothing else is changed by it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from beit.batch import ImageBatch
from beit.config import TrainingConfig
from beit.errors import ConfigError
from beit.objectives.base import Loss, Objective
from beit.training import optim, update
from beit.training.checkpoint import newest_checkpoint
from beit.training.loop import fit
from beit.training.optim import SpikeDetector
from beit.training.update import Updater
from miniature import CPU, InMemory, image_batch, opened
from states import assert_same

STEPS, BAD = 9, 6


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    monkeypatch.setattr(optim, "WINDOW", 4)


class Spiking(Objective[ImageBatch]):
    """A linear map, whose loss is a thousand times larger from one step to another."""

    def __init__(self, first=BAD, last=BAD):
        super().__init__()
        torch.manual_seed(1)
        self.model = nn.Linear(3, 1, bias=False)
        self.bad = range(first, last + 1)

    def forward(self, batch, progress):
        total = self.model(batch.images.float().mean(dim=(2, 3)) / 255).float().square().mean()
        total = total * (1000.0 if round(progress * STEPS) in self.bad else 1.0)
        return Loss(total, {"loss": total.detach()})


def weights_by_step(objective, **options):
    """After each update, with the share of it that was left out."""
    config = TrainingConfig(steps=STEPS, batch=8, lr=0.1, precision="fp32", **options)
    updater = Updater(objective, config, CPU, log=print)
    batches = InMemory(image_batch).batches(0, STEPS)
    found = []
    for step in range(STEPS):
        told = updater.update(step, batches)
        found.append((objective.model.weight.detach().clone(), told.terms.get("left_out")))
    (state,) = updater.optimizer.adamw.state.values()
    return found, int(state["step"])


def test_a_step_that_stands_out_changes_no_weight():
    found, updates = weights_by_step(Spiking(), skip_spikes=10.0)
    assert [float(left_out) for _, left_out in found] == [float(s == BAD) for s in range(STEPS)]
    for step in range(2, STEPS):
        same = torch.equal(found[step][0], found[step - 1][0])
        assert same == (step == BAD)
    assert updates == STEPS - 1


def test_nothing_is_left_out_unasked():
    found, updates = weights_by_step(Spiking())
    assert not torch.equal(found[BAD][0], found[BAD - 1][0])
    assert (found[BAD][1], updates) == (None, STEPS)
    plain, _ = weights_by_step(Spiking(first=99), skip_spikes=10.0)
    for (weights, _), (expected, left_out) in zip(found[:BAD], plain, strict=False):
        assert torch.equal(weights, expected)
        assert left_out == 0


def test_half_precision_leaves_it_out_too(monkeypatch):
    """With its scaler, which is for GPUs, on the CPU."""
    monkeypatch.setattr(update, "resolve_precision", lambda *_: torch.float16)
    found, updates = weights_by_step(Spiking(), skip_spikes=10.0)
    assert torch.equal(found[BAD][0], found[BAD - 1][0])
    assert not torch.equal(found[BAD + 1][0], found[BAD][0])
    assert updates == STEPS - 1


def test_gradients_that_stay_large_are_usual_soon():
    looking = SpikeDetector(10.0, torch.device("cpu"))
    norms = [1.0, 1.1, 0.9, 1.0, *[50.0] * 6]
    assert [int(looking.stands_out(torch.tensor(norm))) for norm in norms] \
        == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0]  # fmt: skip
    assert looking.stands_out(torch.tensor(torch.nan)) == 0
    assert looking.state()["norms"].tolist() == [50.0] * 4  # what is no number is not remembered


def train(folder, resume=False, before=id):
    loader = InMemory(image_batch, before=before)
    with opened(folder, loader, steps=STEPS, skip_spikes=10.0, save_every=1, keep=1) as run:
        return fit(Spiking(), run, resume=resume)


@pytest.mark.parametrize("stop", [2, BAD, BAD + 1])
def test_stopped_and_resumed_leaves_out_the_same(tmp_path, stop):
    train(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", before=lambda step: 1 // (step - stop))
    train(tmp_path / "run", resume=True)
    runs = [tmp_path / name for name in ("whole", "run")]
    first, second = (newest_checkpoint(run / "checkpoints").checkpoint for run in runs)
    assert_same(first, second)
    rows = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    told = [row["left_out"] for row in rows if row["kind"] == "train"]
    assert told == [float(step == BAD) for step in range(STEPS)]


@pytest.mark.parametrize("factor", [1.0, 0.0, -3.0])
def test_factors_that_leave_out_too_much(factor):
    with pytest.raises(ConfigError, match=f"skip_spikes is {factor}"):
        TrainingConfig(steps=1, batch=1, lr=1.0, skip_spikes=factor)
