"""One update: the same one where fp16 overflows or memory runs out on the way."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from beit.batch import ImageBatch, Unreadable, divide
from beit.config import AugmentConfig, TrainingConfig
from beit.errors import DivergedError, ResourceError
from beit.hardware import is_out_of_memory
from beit.models.layers import DropPath
from beit.objectives.base import Loss, Objective
from beit.rng import SampleRNG
from beit.training import update
from beit.training.checkpoint import newest_checkpoint
from beit.training.device import smaller_micro_batch
from beit.training.loop import fit
from beit.training.update import Updater
from miniature import (
    BATCH,
    CPU,
    InMemory,
    classification,
    evaluation,
    image_batch,
    labelled_batch,
    opened,
    reconstruct,
)
from states import assert_same


def train(folder, objective, loader, resume=False, **options):
    with opened(folder, loader, **options) as run:
        return fit(objective, run, resume=resume)


def saved(folder):
    return newest_checkpoint(folder / "checkpoints").checkpoint


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "train"]


class Brightness(Objective[ImageBatch]):
    """A linear map, whose gradient overflows where the loss is scaled by more than a limit."""

    def __init__(self, limit=float("inf"), breaks_at=99):
        super().__init__()
        torch.manual_seed(1)
        self.model = nn.Linear(3, 1, bias=False)
        self.limit, self.breaks_at = limit, breaks_at

    def forward(self, batch, progress):
        total = self.model(batch.images.float().mean(dim=(2, 3)) / 255).float().square().mean()
        if progress * 6 >= self.breaks_at:
            total = total / 0
        if total.requires_grad:
            total.register_hook(lambda scale: torch.where(scale > self.limit, torch.inf, scale))
        return Loss(total, {"loss": total.detach()})


@pytest.fixture
def half_precision(monkeypatch):
    """fp16 with its scaler, which is for GPUs, on the CPU."""
    monkeypatch.setattr(update, "resolve_precision", lambda *_: torch.float16)


def test_a_step_that_overflows_is_done_again_with_half_the_scale(half_precision, tmp_path):
    """Nothing but the count of overflows and the scale tells the two runs apart."""
    for name, limit in (("calm", float("inf")), ("overflows", 2.0**13)):
        train(tmp_path / name, Brightness(limit), InMemory(image_batch), average=0.9)
    calm, other = saved(tmp_path / "calm"), saved(tmp_path / "overflows")
    assert calm.values.pop("scaler")["scale"] == 2**16
    assert other.values.pop("scaler")["scale"] == 2**13
    assert_same(calm, other)
    found = rows(tmp_path / "overflows")
    assert [row.get("overflows") for row in found] == [3.0, None, None, None, None, None]
    kept = ("loss", "lr", "grad_norm")
    assert [[row[name] for name in kept] for row in found] == [
        [row[name] for name in kept] for row in rows(tmp_path / "calm")
    ]


RANDOM = AugmentConfig(rand_augment="", erasing=0.6)
EVERYTHING_RANDOM = {
    "gumbel noise": (reconstruct, image_batch),
    "drop path, erasing, mixup and cutmix": (
        lambda: classification(RANDOM, drop_path=0.5),
        labelled_batch,
    ),
}


@pytest.mark.parametrize("kind", EVERYTHING_RANDOM)
@pytest.mark.parametrize("size", [2, 4])
def test_random_numbers_do_not_depend_on_the_micro_batch(kind, size, tmp_path):
    make, batches = EVERYTHING_RANDOM[kind]
    for name, micro_batch in (("whole", BATCH), ("parts", size)):
        train(tmp_path / name, make(), InMemory(batches, micro_batch), micro_batch=micro_batch)
    names = ("loss", "grad_norm")
    whole, parts = (
        [[row[name] for name in names] for row in rows(tmp_path / folder)]
        for folder in ("whole", "parts")
    )
    assert parts == [pytest.approx(numbers, abs=1e-5) for numbers in whole]


def test_drop_path_differs_between_steps_images_and_blocks():
    objective = classification(drop_path=0.5, depth=4).train()
    seen = set()
    for step in range(3):
        objective.draw(SampleRNG(0, step, 0), BATCH, CPU.device)
        layers = [module for module in objective.modules() if isinstance(module, DropPath)]
        drawn = torch.cat([layer.numbers for layer in layers if layer.drops])
        assert drawn.shape == (3 * 2 * BATCH, 1)  # the first block drops nothing
        seen |= set(drawn.flatten().tolist())
    assert len(seen) > 3 * 3 * 2 * BATCH - 3


def test_overflowing_for_ever_ends_the_run(half_precision, tmp_path):
    objective = Brightness(0.0)
    before = objective.model.weight.detach().clone()
    with pytest.raises(
        DivergedError, match=r"overflow in fp16 at every scale at step 0[\s\S]*bf16"
    ):
        train(tmp_path, objective, InMemory(image_batch))
    assert torch.equal(objective.model.weight, before)
    assert saved(tmp_path) is None
    assert (tmp_path / "diverged" / "step-00000000.safetensors").exists()


def test_the_scale_of_fp16_is_kept_for_resuming(half_precision, tmp_path):
    train(tmp_path / "whole", Brightness(2.0**13), InMemory(image_batch), steps=6)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", Brightness(2.0**13), InMemory(
            image_batch, before=lambda step: 1 // (step - 4)))  # fmt: skip
    train(tmp_path / "run", Brightness(2.0**13), InMemory(image_batch), resume=True)
    assert_same(saved(tmp_path / "run"), saved(tmp_path / "whole"))


def test_a_broken_step_changes_nothing_even_if_it_is_noticed_later():
    """As on a GPU, which is not waited for after each step."""
    objective = Brightness(breaks_at=3)
    config = TrainingConfig(steps=6, batch=8, lr=0.1, precision="fp32", average=0.5)
    updater = Updater(objective, config, CPU, log=print)
    batches = InMemory(image_batch).batches(0, 6)
    weights = []
    for step in range(6):
        updater.update(step, batches)
        weights.append(objective.model.weight.detach().clone())
        assert updater.broken_step() == (3 if step >= 3 else None)
    assert not torch.equal(weights[1], weights[2])
    for later in weights[3:]:
        assert torch.equal(later, weights[2])
    (state,) = updater.optimizer.adamw.state.values()
    assert state["step"] == 3


def short_of_memory(objective, most):
    """The objective, whose forward pass needs more memory than there is for more images."""
    real = objective.forward

    def forward(batch, progress):
        loss = real(batch, progress)
        if len(batch.keys) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss

    objective.forward = forward
    return objective


def test_memory_that_runs_out_halves_the_micro_batch_and_nothing_else(tmp_path):
    """Codebook statistics included, that the failed forward pass had already changed."""
    train(tmp_path / "asked", reconstruct(), InMemory(image_batch, 2), micro_batch=2)
    train(tmp_path / "found", short_of_memory(reconstruct(), 3), InMemory(image_batch))
    assert_same(saved(tmp_path / "found"), saved(tmp_path / "asked"))
    log = (tmp_path / "found" / "log.txt").read_text()
    assert log.count("memory ran out with 8 images at a time: going on with 2 (x4") == 1


def test_a_resumed_run_keeps_the_micro_batch_that_fits(tmp_path):
    train(tmp_path / "asked", reconstruct(), InMemory(image_batch, 4), micro_batch=4)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", short_of_memory(reconstruct(), 4), InMemory(
            image_batch, before=lambda step: 1 // (step - 4)))  # fmt: skip
    train(tmp_path / "run", reconstruct(), InMemory(image_batch), resume=True)
    assert_same(saved(tmp_path / "run"), saved(tmp_path / "asked"))


def test_a_micro_batch_that_was_asked_for_is_not_changed_in_silence(tmp_path):
    with pytest.raises(ResourceError, match=r"step 0 with a micro-batch of 8; 2 fit[\s\S]*batch 2"):
        train(tmp_path, short_of_memory(reconstruct(), 3), InMemory(image_batch), micro_batch=8)


def test_not_even_a_single_image_fits(tmp_path):
    with pytest.raises(ResourceError, match="ran out with a single image"):
        train(tmp_path, short_of_memory(reconstruct(), 0), InMemory(image_batch))


def test_memory_that_runs_out_elsewhere_is_told_as_such(tmp_path):
    def measure(model):
        raise MemoryError

    judged = evaluation()._replace(measure=measure)
    with pytest.raises(ResourceError, match="after step 2, outside the forward and backward"):
        train(tmp_path, Brightness(), InMemory(image_batch), evaluation=judged)


def test_how_memory_running_out_is_told():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


SMALLER = [(8, 8, 4), (6, 6, 3), (3, 6, 1), (5, 5, 1), (12, 36, 6), (9, 36, 4)]


@pytest.mark.parametrize(("now", "delivered", "smaller"), SMALLER)
def test_smaller_micro_batches_divide_what_is_delivered(now, delivered, smaller):
    assert smaller_micro_batch(now, delivered) == smaller


def test_parts_of_a_batch_are_the_batch():
    batch = image_batch(3)._replace(unreadable=(Unreadable("lost.png", "it is empty"),))
    assert next(divide(batch, 8)) is batch
    parts = list(divide(batch, 3))
    assert [len(part.keys) for part in parts] == [3, 3, 2]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert sum((part.keys for part in parts), ()) == batch.keys
    assert [len(part.unreadable) for part in parts] == [1, 0, 0]


@pytest.mark.parametrize(("micro_batch", "kept"), [(2, 0), (None, 1)])
def test_images_are_kept_only_where_a_step_may_be_repeated(micro_batch, kept):
    config = TrainingConfig(steps=6, batch=8, lr=0.1, precision="fp32", micro_batch=micro_batch)
    updater = Updater(Brightness(), config, CPU, log=print)
    arrived = []
    loader = InMemory(image_batch, micro_batch or 8)
    assert len(list(updater.micro_batches(arrived, loader.batches(0, 1)))) == 8 // (
        micro_batch or 8
    )
    assert sum(batch is not None for batch in arrived) == kept
