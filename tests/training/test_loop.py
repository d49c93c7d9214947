"""The one training loop: where it starts, how it steps, and how it stops."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from beit.batch import ImageBatch, Unreadable
from beit.config import TrainingConfig
from beit.errors import CheckpointError, ConfigError, DataError, DivergedError, Preempted
from beit.objectives.base import Loss, Objective
from beit.process import ONE_REQUEST
from beit.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from beit.training.loop import fit
from beit.training.spec import Evaluation
from miniature import (
    KINDS,
    PLAIN,
    InMemory,
    classification,
    evaluation,
    image_batch,
    labelled_batch,
    masked,
    masked_batch,
    opened,
)

SIGNALS = {1: signal.SIGTERM, 3: signal.SIGINT, 5: signal.SIGUSR1}
CLOCK = {"images_per_second", "data_wait", "memory_gib", "seconds_left"}


def train(folder, objective, loader, resume=False, **options):
    with opened(folder, loader, **options) as run:
        return fit(objective, run, resume=resume)


def state(folder):
    """Everything that the last checkpoint holds, and every row of the journal but its clock."""
    checkpoint = newest_checkpoint(folder / "checkpoints").checkpoint
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [
        {name: value for name, value in json.loads(line).items() if name not in CLOCK}
        for line in lines
    ]
    return checkpoint, rows


def assert_same_state(first, second):
    (one, rows), (other, other_rows) = state(first), state(second)
    assert (one.step, one.values) == (other.step, other.values)
    assert one.tensors.keys() == other.tensors.keys()
    for group, tensors in one.tensors.items():
        assert tensors.keys() == other.tensors[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.tensors[group][name]), f"{group} {name}"
    assert rows == other_rows


def assert_same_weights(first, second, tolerance=0.0):
    one, other = (state(folder)[0].tensors["model"] for folder in (first, second))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=tolerance, rtol=tolerance, msg=name)


def ask_to_stop(at, number):
    """Sends the signal while the batch of a step is made."""
    return lambda step: os.kill(os.getpid(), number) if step == at else None


@pytest.mark.parametrize(
    ("kind", "average"), [*((kind, 0.9) for kind in KINDS), ("finetune", None)]
)
def test_stopped_and_resumed_equals_uninterrupted(unchecked, tmp_path, kind, average):
    """Weights, optimizer, average, best score and journal, bit for bit, wherever it stopped."""
    make, batches = KINDS[kind]
    options = {"average": average, "evaluation": evaluation("score")}
    expected = train(tmp_path / "whole", make(), InMemory(batches), **options)
    for done, number in SIGNALS.items():
        folder = tmp_path / str(done)
        loader = InMemory(batches, before=ask_to_stop(done - 1, number))
        with pytest.raises(Preempted, match=f"after step {done} of 6"):
            train(folder, make(), loader, **options)
        assert newest_checkpoint(folder / "checkpoints").checkpoint.step == done
        torch.manual_seed(99)  # nothing may hang on the state of a global generator
        assert train(folder, make(), InMemory(batches), resume=True, **options) == expected
        assert_same_state(tmp_path / "whole", folder)


def test_handlers_of_signals_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS.values()]
    with pytest.raises(Preempted):
        train(tmp_path, masked(), InMemory(masked_batch, before=ask_to_stop(2, signal.SIGTERM)))
    assert [signal.getsignal(number) for number in SIGNALS.values()] == before


@pytest.mark.parametrize("pause", [0.0, 2 * ONE_REQUEST])
def test_a_second_request_ends_the_run_at_once_unless_it_is_the_same(tmp_path, monkeypatch, pause):
    """One that comes with the first is sent by a scheduler to a process and to its group."""
    clock = [100.0]
    monkeypatch.setattr("beit.process.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def ask_twice(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            clock[0] += pause
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt if pause else Preempted):
        train(tmp_path, masked(), InMemory(masked_batch, before=ask_twice), save_every=2)
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert not found.damaged
    assert found.checkpoint.step == (2 if pause else 4)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    class Killed(BaseException):
        pass

    def die(step):
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "killed", masked(), InMemory(masked_batch, before=die))
    assert newest_checkpoint(tmp_path / "killed" / "checkpoints").checkpoint.step == 4
    train(tmp_path / "killed", masked(), InMemory(masked_batch), resume=True)
    train(tmp_path / "whole", masked(), InMemory(masked_batch))
    assert_same_state(tmp_path / "whole", tmp_path / "killed")


def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path):
    train(tmp_path / "whole", masked(), InMemory(masked_batch), keep=9)
    weights = tmp_path / "whole" / "checkpoints" / "step-00000006" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    train(tmp_path / "whole", masked(), InMemory(masked_batch), resume=True, keep=9)
    log = (tmp_path / "whole" / "log.txt").read_text()
    assert f"{weights} is damaged" in log
    assert "going on after step 4" in log
    train(tmp_path / "other", masked(), InMemory(masked_batch), keep=9)
    assert_same_state(tmp_path / "whole", tmp_path / "other")
    for file in (tmp_path / "whole" / "checkpoints").glob("*/state.json"):
        file.write_text("")
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        train(tmp_path / "whole", masked(), InMemory(masked_batch), resume=True)


def test_resume_before_the_first_checkpoint_starts_from_the_beginning(tmp_path):
    train(tmp_path / "resumed", masked(), InMemory(masked_batch), resume=True)
    train(tmp_path / "whole", masked(), InMemory(masked_batch))
    assert_same_state(tmp_path / "whole", tmp_path / "resumed")


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    train(tmp_path, classification(), InMemory(labelled_batch))
    with pytest.raises(CheckpointError, match=r"of step 6 .*another architecture[\s\S]*blocks\.2"):
        train(tmp_path, classification(depth=3), InMemory(labelled_batch), resume=True, steps=9)


@pytest.mark.parametrize("group", ["model", "optimizer", "average"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_checkpoint_in_another_type_is_neither_narrowed_nor_widened(tmp_path, group, dtype):
    """It would go on, but no longer be the run that was saved."""
    train(tmp_path, masked(), InMemory(masked_batch), average=0.9)
    step, tensors, values = state(tmp_path)[0]
    tensors[group] = {
        name: tensor.to(dtype) if "head.weight" in name else tensor
        for name, tensor in tensors[group].items()
    }
    save_checkpoint(tmp_path / "checkpoints", Checkpoint(step, tensors, values), keep=1)
    with pytest.raises(CheckpointError, match=rf"{group}\).*head.weight.*{dtype} instead of"):
        train(tmp_path, masked(), InMemory(masked_batch), resume=True, average=0.9, steps=9)


def test_a_finished_run_is_done_but_publishes_again(tmp_path):
    """It may have been killed between its last checkpoint and its artifact."""
    first = train(tmp_path, masked(), InMemory(masked_batch))
    published = []
    again = train(
        tmp_path, masked(), InMemory(masked_batch, before=pytest.fail), resume=True,
        publish=lambda model, best, metrics: published.append((model, best)),
    )  # fmt: skip
    assert again == first
    assert "this run was already done: 6 of 6 steps" in (tmp_path / "log.txt").read_text()
    ((model, best),) = published
    assert not best
    for name, tensor in state(tmp_path)[0].tensors["model"].items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_the_best_and_the_last_are_published(tmp_path):
    published = []
    scores = iter([0.3, 0.9, 0.9, 0.5])

    def publish(model, best, metrics):
        published.append((best, model.weight.detach().clone()))

    fitted = train(
        tmp_path, Line(), InMemory(image_batch), steps=8, publish=publish,
        evaluation=evaluation("score")._replace(measure=lambda model: {"score": next(scores)}),
    )  # fmt: skip
    assert fitted.best_step == 6  # the latest of equals
    assert fitted.metrics == {"score": 0.5}
    assert [best for best, _ in published] == [True, True, True, False]
    assert not torch.equal(published[2][1], published[3][1])


def test_the_average_is_what_is_judged_and_published(tmp_path):
    published = []
    train(tmp_path, Line(), InMemory(image_batch), average=0.5,
          publish=lambda model, best, metrics: published.append(model))  # fmt: skip
    average = state(tmp_path)[0].tensors["average"]
    assert torch.equal(published[0].weight, average["module.weight"])
    assert not torch.equal(average["module.weight"], state(tmp_path)[0].tensors["model"]["weight"])


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_accumulation_equals_a_large_batch(tmp_path, micro_batch):
    for name, size in (("whole", 8), ("parts", micro_batch)):
        loader = InMemory(masked_batch, size)
        train(tmp_path / name, masked(), loader, micro_batch=size, epsilon=1e-4)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", 1e-5)
    losses = [[row.get("loss") for row in state(tmp_path / name)[1]] for name in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(
    "rhythm", [{"log_every": 4}, {"evaluate_every": 0}, {"evaluate_every": 1}, {"save_every": 100}]
)
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_rhythm_does_not_change_the_weights(tmp_path, kind, rhythm):
    make, batches = KINDS[kind]
    for name, options in (("usual", {}), ("other", rhythm)):
        train(tmp_path / name, make(), InMemory(batches), **options)
    assert_same_weights(tmp_path / "usual", tmp_path / "other")


def test_the_seed_decides(tmp_path):
    make, batches = KINDS["finetune"]
    for seed in (0, 1):
        train(tmp_path / str(seed), make(), InMemory(batches), seed=seed)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "0", tmp_path / "1")


def test_a_step_is_the_formula_of_adamw(tmp_path):
    """Clipped gradient, scheduled rate and decay, against torch's AdamW on its own."""
    train(tmp_path, Line(), InMemory(image_batch), steps=3, clip=0.01, weight_decay=0.1)
    objective = Line()
    optimizer = torch.optim.AdamW(objective.parameters(), weight_decay=0.1)
    for step, rate in enumerate((0.0, 1e-2, 1e-2)):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        objective(image_batch(step), 0.0).total.backward()
        assert nn.utils.clip_grad_norm_(objective.parameters(), 0.01) > 0.01
        optimizer.step()
    torch.testing.assert_close(
        state(tmp_path)[0].tensors["model"]["weight"], objective.model.weight.detach()
    )


class Line(Objective[ImageBatch]):
    """A linear map; from `breaks_at` on, its loss or its gradient is broken."""

    def __init__(self, breaks_at=99, how=""):
        super().__init__()
        torch.manual_seed(1)
        self.model = nn.Linear(3, 1, bias=False)
        self.breaks_at, self.how, self.calls = breaks_at, how, 0

    def forward(self, batch, progress):
        total = self.model(batch.images.float().mean(dim=(2, 3)) / 255).square().mean()
        if self.calls >= self.breaks_at:
            broken = total / 0 if self.how == "loss" else (total - total.detach()).sqrt()
            total = broken
        self.calls += 1
        return Loss(total, {"loss": total.detach()})


class Lost(Line):
    """Of two maps only one has a part in the loss."""

    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"used": self.model, "lost": nn.Linear(3, 1)})

    def forward(self, batch, progress):
        total = self.model["used"](batch.images.float().mean(dim=(2, 3)) / 255).square().mean()
        return Loss(total, {"loss": total.detach()})


def test_weights_without_a_gradient_are_told_once(tmp_path):
    train(tmp_path / "lost", Lost(), InMemory(image_batch))
    told = [line for line in (tmp_path / "lost/log.txt").read_text().splitlines() if "grad" in line]
    assert [line for line in told if not line.startswith("step")] == [
        "no gradient reaches 2 tensors of weights: lost.bias, lost.weight"
    ]
    train(tmp_path / "all", Line(), InMemory(image_batch))
    assert "no gradient" not in (tmp_path / "all" / "log.txt").read_text()


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_broken_loss_stops_the_run_before_the_weights_change(tmp_path, how):
    objective = Line(3, how)
    kept = []
    with pytest.raises(DivergedError, match="not finite at step 3"):
        train(tmp_path, objective, InMemory(image_batch, before=lambda step: kept.append(
            objective.model.weight.detach().clone())), save_every=1)  # fmt: skip
    assert torch.equal(objective.model.weight, kept[-1])
    assert objective.model.weight.isfinite().all()
    assert newest_checkpoint(tmp_path / "checkpoints").checkpoint.step == 3


def test_unreadable_images_are_told_and_too_many_stop_the_run(tmp_path):
    def some_lost(step):
        return image_batch(step)._replace(unreadable=(Unreadable("lost.png", "it is empty"),))

    train(tmp_path / "one", Line(), InMemory(some_lost))
    assert state(tmp_path / "one")[1][0]["unreadable"] == 1

    def many_lost(step):
        return image_batch(step)._replace(unreadable=(Unreadable(f"{step}.png", "it is empty"),))

    with pytest.raises(DataError, match=r"3 of 100 .*0\.png: it is empty"):
        train(tmp_path / "many", Line(), InMemory(many_lost))


@pytest.mark.parametrize("precision", ["bf16", "fp32", "auto"])
def test_precisions_of_the_processor(tmp_path, precision):
    augment = replace(PLAIN, mixup=0.8, cutmix=1.0)
    train(tmp_path, classification(augment), InMemory(labelled_batch), precision=precision)
    tensors = state(tmp_path)[0].tensors["model"].values()
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in tensors)


def test_half_precision_needs_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="fp16 training needs a GPU"):
        train(tmp_path, masked(), InMemory(masked_batch), precision="fp16")


def test_training_learns(unchecked, tmp_path):
    objective = classification(replace(PLAIN, smoothing=0.1))
    train(tmp_path, objective, InMemory(labelled_batch), steps=60, log_every=10)
    accuracies = [row["accuracy"] for row in state(tmp_path)[1] if row["kind"] == "train"]
    assert accuracies[-1] > 0.8 > accuracies[0]


class Scores:
    """A score per evaluation, whatever the model."""

    def __init__(self, *scores: float) -> None:
        self.left = list(scores)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        return {"score": self.left.pop(0)}


def test_a_run_ends_once_its_score_has_not_become_better_for_long_enough(tmp_path):
    """Equal scores are not better; the best one is published, and the state of the end is saved."""
    published = []
    options = {
        "steps": 12,
        "evaluate_every": 1,
        "evaluation": Evaluation(Scores(0.1, 0.4, 0.3, 0.5, 0.5, 0.2, 0.9), best="score"),
        "publish": lambda model, best, metrics: published.append((best, metrics["score"])),
    }
    loader = InMemory(labelled_batch)
    train(tmp_path, classification(), loader, patience=2, **options)
    assert state(tmp_path)[0].step == 6
    assert published == [(True, 0.1), (True, 0.4), (True, 0.5), (True, 0.5), (False, 0.2)]
    assert "2 evaluations without a better score than 0.5" in (tmp_path / "log.txt").read_text()
    # Going on does nothing more, unless there is more patience.
    again = train(tmp_path, classification(), loader, resume=True, patience=2, **options)
    assert again.best_step == 5
    assert state(tmp_path)[0].step == 6
    options |= {"steps": 7}
    train(tmp_path, classification(), loader, resume=True, patience=3, **options)
    assert published[-2:] == [(True, 0.9), (False, 0.9)]


def test_patience_needs_evaluations():
    with pytest.raises(ConfigError, match="nothing is evaluated before the end"):
        TrainingConfig(steps=100, batch=1, lr=1e-3, patience=3)
