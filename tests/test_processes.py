"""Runs of several processes: the same numbers as one, however the batch is shared out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import beit
from beit.cli import main
from beit.config import AugmentConfig
from ranks import together

OPTIONS: dict[str, Any] = {
    "steps": 3, "warmup_steps": 1, "batch": 8, "epsilon": 1e-4, "log_every": 1, "workers": 0,
    "average": 0.5, "clip": 1.0, "device": "cpu", "precision": "fp32", "quiet": True,
    "report": False, "process_timeout": 120.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "finetune": {
        "drop_path": 0.5, "evaluate_every": 2,
        "augment": AugmentConfig(crop_scale=(0.5, 1.0), erasing=0.5),
    },
    "tokenizer": {"revive_every": 2},
    "pretrain": {"target": "pixels", "drop_path": 0.5, "neighbour_pictures": 0},
}  # fmt: skip
"""Each with all that is random in it: drop path, erasing, mixup and cutmix; Gumbel noise."""


def train(rank: int, kind: str, data: Path, out: Path, options: dict[str, Any]) -> dict[str, float]:
    given = OPTIONS | KINDS[kind] | options
    run = getattr(beit, kind)("tiny", data=str(data), out=str(out), **given)
    metrics: dict[str, float] = run.metrics
    return metrics


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
def alone(class_folders, tmp_path_factory):
    """The run of one process, of each kind."""
    root = tmp_path_factory.mktemp("alone")
    return {kind: (train(0, kind, class_folders, root / kind, {}), root / kind) for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(kind, micro_batch, class_folders, alone, tmp_path):
    metrics, one = alone[kind]
    both = together(train, kind, class_folders, tmp_path / "two", {"micro_batch": micro_batch})
    for found in both:
        assert found == pytest.approx(metrics, abs=1e-5)
    assert_same_numbers(one, tmp_path / "two")


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
                "--micro-batch", "4", "--neighbour-pictures", "0"]  # fmt: skip

    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "beit.cli", *arguments(tmp_path / "two")]  # fmt: skip
    done = subprocess.run(both, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert main(arguments(tmp_path / "one")) == 0
    assert_same_numbers(tmp_path / "one", tmp_path / "two")
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1  # one process told it
