"""Runs of several processes: the same numbers as one, however the batch is shared out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import beit
from beit.batch import LabelledBatch
from beit.cli import main
from beit.config import RunConfig
from beit.errors import ConfigError, Preempted, ResourceError
from beit.objectives.base import AnyObjective, Loss
from beit.objectives.classify import Classification
from beit.tasks import execution, finetuning
from beit.training.checkpoint import newest_checkpoint
from beit.training.distributed import Processes
from ranks import KINDS, LONGEST, OPTIONS, together, train
from segmented_folder import write_folder


def assert_same_numbers(one: Path, other: Path) -> None:
    """Losses, metrics and weights, but for the order in which floats are added."""
    losses = [_losses(run) for run in (one, other)]
    assert len(losses[0]) == OPTIONS["steps"]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=1e-5, rtol=1e-5, msg=name)


def _losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.fixture(scope="module")
def data(class_folders, tmp_path_factory):
    """What each kind learns from."""
    masks = write_folder(tmp_path_factory.mktemp("segmented"))
    return {kind: masks if kind == "segment" else class_folders for kind in KINDS}


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The run of one process, of each kind."""
    root = tmp_path_factory.mktemp("alone")
    return {kind: (train(0, kind, data[kind], root / kind, {}), root / kind) for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(kind, micro_batch, data, alone, tmp_path):
    metrics, one = alone[kind]
    both = together(train, kind, data[kind], tmp_path / "two", {"micro_batch": micro_batch})
    for found in both:
        assert found == pytest.approx(metrics, abs=1e-5)
    assert_same_numbers(one, tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("finetune", {"recompute": "selective"}),
        ("pretrain", {"compile": "blocks"}),
        ("segment", {"recompute": "blocks"}),
    ],
)
def test_weights_that_are_spread_over_processes_learn_the_same(
    kind, options, data, alone, tmp_path
):
    """Clipped, averaged, evaluated, saved and published."""
    metrics, one = alone[kind]
    options = {"sharding": "blocks", "micro_batch": 2} | options
    for found in together(train, kind, data[kind], tmp_path / "two", options):
        assert found == pytest.approx(metrics, abs=1e-5)
    assert ", sharded" in (tmp_path / "two" / "log.txt").read_text()
    assert_same_numbers(one, tmp_path / "two")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_another_sharding(
    class_folders, alone, tmp_path
):
    """It is stopped by a signal that reaches one process only."""
    _, one = alone["finetune"]
    out = tmp_path / "run"
    parts = [(2, 1, {"sharding": "blocks"}), (1, 2, {}), (2, 3, {"sharding": "blocks"})]
    for world, last, options in parts:
        together(train_until, last, class_folders, out, options, world=world)
        saved = newest_checkpoint(out / "checkpoints").checkpoint
        assert saved is not None
        assert saved.step == last
        assert saved.values["world"] == world
    assert_same_numbers(one, out)
    expected = newest_checkpoint(one / "checkpoints").checkpoint
    assert expected is not None
    for group, tensors in expected.tensors.items():
        assert tensors.keys() == saved.tensors[group].keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                tensor, saved.tensors[group][name], atol=1e-5, rtol=1e-5, msg=name
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "rank"), [(signal.SIGUSR1, 0), (signal.SIGUSR1, 1), (signal.SIGTERM, 0)]
)
def test_a_request_to_stop_that_reaches_one_process_stops_both(
    number, rank, class_folders, tmp_path
):
    """After the same step, which is saved."""
    together(train_until, 2, class_folders, tmp_path / "run", {}, number, rank)
    saved = newest_checkpoint(tmp_path / "run" / "checkpoints").checkpoint
    assert saved is not None
    assert saved.step == 2


def train_until(
    rank: int,
    last: int,
    data: Path,
    out: Path,
    options: dict[str, Any],
    number: signal.Signals = signal.SIGTERM,
    asked: int | None = None,
) -> None:
    """Fine-tune up to that step, where one process is asked to stop, if not said that of the
    highest rank."""
    done = Classification.after_step
    world = int(os.environ["WORLD_SIZE"])

    def after_step(self: Classification, step: int) -> dict[str, float]:
        if rank == (world - 1 if asked is None else asked) and step + 1 == last < OPTIONS["steps"]:
            os.kill(os.getpid(), number)
        return done(self, step)

    Classification.after_step = after_step  # type: ignore[method-assign]
    options = options | {"resume": out.exists()}
    if last == OPTIONS["steps"]:
        train(rank, "finetune", data, out, options)
        return
    with pytest.raises(Preempted, match=f"saved after step {last} of") as caught:
        train(rank, "finetune", data, out, options)
    assert caught.value.exit_code == 75


@pytest.mark.slow
def test_memory_that_runs_out_in_one_process_ends_all(class_folders, tmp_path):
    """With the micro-batch to try next; the others learn that a process is gone."""
    together(short_of_memory, class_folders, tmp_path / "run")


def short_of_memory(rank: int, data: Path, out: Path) -> None:
    """The second process cannot take more than three images."""
    forward = Classification.forward

    def limited(self: Classification, batch: LabelledBatch, progress: float) -> Loss:
        loss = forward(self, batch, progress)
        if rank == 1 and len(batch.keys) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss

    Classification.forward = limited  # type: ignore[method-assign]
    told = r"at step 0 with a micro-batch of 4\n.*--micro-batch 2" if rank else "another process"
    with pytest.raises(ResourceError, match=told):
        train(rank, "finetune", data, out, {})


@pytest.mark.slow
def test_processes_share_gradients_once_an_update(class_folders, tmp_path):
    """However many micro-batches it has."""
    options = {"steps": 2, "micro_batch": 1}
    assert together(counting_shares, class_folders, tmp_path / "run", options) == [2, 2]


def counting_shares(rank: int, data: Path, out: Path, options: dict[str, Any]) -> int:
    """How often a forward pass is one after which gradients are shared."""
    replicate, times = Processes.replicate, []

    def replicated(self: Processes, objective: nn.Module) -> nn.Module:
        module = replicate(self, objective)
        module.register_forward_pre_hook(lambda *_: times.append(1))
        return module

    Processes.replicate = replicated  # type: ignore[method-assign]
    train(rank, "finetune", data, out, options)
    return len(times)


PHASES: dict[str, tuple[Any, str]] = {
    "before the first step": (finetuning, "divide"),
    "after step 1": (Classification, "after_step"),
    "after step 2": (finetuning, "score_classifier"),
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_process_that_raises_ends_the_others(phase, class_folders, tmp_path):
    """At once: they would wait twice as long for an answer as this test does for them."""
    together(raising, phase, class_folders, tmp_path / "run")


def raising(rank: int, phase: str, data: Path, out: Path) -> None:
    calls = []
    place, name = PHASES[phase]
    done = getattr(place, name)

    def fail(*given: Any, **options: Any) -> Any:
        calls.append(0)
        if name == "after_step" and len(calls) == 1:
            return done(*given, **options)
        raise ZeroDivisionError

    if rank == 1:
        setattr(place, name, fail)
    told = rf"another process ended.* {phase}: "
    with pytest.raises(ZeroDivisionError) if rank else pytest.raises(ResourceError, match=told):
        train(rank, "finetune", data, out, {"process_timeout": 2 * LONGEST})


DIFFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "option": ({"lr": 2e-3}, r"process 1 .*options: training\.lr is 0\.002, not 0\.001"),
    "images": ({"data": "other"}, "images: their names, sizes, labels or contents"),
    "weights": ({}, "weights: those of the model, tokenizer or teacher"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DIFFERENCES)
def test_processes_that_would_train_something_else_are_told_before_anything_is_written(
    kind, class_folders, tmp_path, monkeypatch
):
    """In every process, with who, what, and what to do."""
    shutil.copytree(class_folders, tmp_path / "other")
    next((tmp_path / "other").glob("*/00.png")).unlink()
    together(disagree, kind, class_folders, tmp_path)
    assert not (tmp_path / "run").exists()


def disagree(rank: int, kind: str, data: Path, folder: Path) -> None:
    """As on two machines, of which the second has its own copy of `data` in another place."""
    os.chdir(folder)
    changes, told = DIFFERENCES[kind]
    options: dict[str, Any] = {"lr": 1e-3}
    if rank == 1:
        options |= {name: value for name, value in changes.items() if name != "data"}
    Path(f"data-{rank}").symlink_to(folder / "other" if rank and "data" in changes else data)
    agree = execution.check_agreement

    def check(
        processes: Processes, config: RunConfig, objective: AnyObjective, *rest: Any, **more: Any
    ) -> None:
        if kind == "weights" and rank == 1:
            next(objective.parameters()).data[0] += 1e-3
        agree(processes, config, objective, *rest, **more)

    execution.check_agreement = check
    with pytest.raises(ConfigError, match=told):
        train(rank, "finetune", Path(f"data-{rank}"), folder / "run", options)


@pytest.mark.slow
def test_a_model_without_blocks_is_not_shared_out(class_folders, tmp_path):
    together(refused, class_folders, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def refused(rank: int, data: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match=r"DiscreteVAE has no transformer blocks[\s\S]*off"):
        train(rank, "tokenizer", data, out, {"sharding": "blocks"})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["vqkd-tiny", "vq-tiny"])
def test_quantised_tokenizers_of_two_processes_equal_one(recipe, class_folders, trained, tmp_path):
    """The start of the codes, their averages and the revival of dead ones included. The codes start
    from the first micro-batch of all processes, so here one process has no smaller ones."""
    options = {"revive_every": 2, "average": None, "clip": None}
    if recipe == "vqkd-tiny":
        options["teacher"] = str(trained.pretrained)
    for world in (1, 2):
        together(tokenizer, recipe, class_folders, tmp_path / str(world), options, world=world)
    assert_same_numbers(tmp_path / "1", tmp_path / "2")
    artifact = tmp_path / "2" / "model" / "model.safetensors"
    assert load_file(artifact)["quantize.embedding.initted"] == 1


def tokenizer(rank: int, recipe: str, data: Path, out: Path, options: dict[str, Any]) -> None:
    beit.tokenizer(recipe, data=str(data), out=str(out), **(OPTIONS | options))


@pytest.mark.slow
def test_torchrun_and_the_command_line(class_folders, trained, tmp_path, environment):
    """Visual tokens of masked patches, as a user starts it."""

    def arguments(out):
        return ["pretrain", "tiny", "--data", str(class_folders), "--out", str(out), "--tokenizer",
                str(trained.tokenizer), "--workers", "0", "--device", "cpu", "--precision", "fp32",
                "--log-every", "1", "--steps", "3", "--warmup-steps", "1", "--epsilon", "1e-4",
                "--micro-batch", "4", "--knn-images", "0"]  # fmt: skip

    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "beit.cli", *arguments(tmp_path / "two")]  # fmt: skip
    done = subprocess.run(both, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert main(arguments(tmp_path / "one")) == 0
    assert_same_numbers(tmp_path / "one", tmp_path / "two")
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1  # one process told it


def test_an_error_of_every_process_is_printed_once(tmp_path, environment):
    """`torchrun` gives each process an error file; what only one process finds is printed too."""

    def failed(rank: int, data: Path) -> subprocess.CompletedProcess[str]:
        error_file = tmp_path / "attempt_0" / str(rank) / "error.json"
        error_file.parent.mkdir(parents=True, exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "beit", "pretrain", "--data", data, "--out", tmp_path / "run"],
            env=environment | {"TORCHELASTIC_ERROR_FILE": str(error_file), "RANK": str(rank)},
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    done = [failed(rank, tmp_path / "absent") for rank in (1, 0)]
    assert [process.returncode for process in done] == [done[0].returncode] * 2 != [0, 0]
    assert sum("there is nothing at" in process.stderr for process in done) == 1
    assert "there is nothing at" in failed(0, tmp_path / "absent too").stderr
