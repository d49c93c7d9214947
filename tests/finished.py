"""Two runs that should be one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from beit.training.checkpoint import newest_checkpoint


def losses(run: Path, term: str = "loss") -> list[float]:
    """Of every line of the journal that tells of training."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[term] for row in rows if row["kind"] == "train"]


def assert_same(one: Path, other: Path) -> None:
    """The same losses, and the same state bit for bit."""
    assert losses(one) == losses(other)
    first, second = (newest_checkpoint(run / "checkpoints").checkpoint for run in (one, other))
    for group, tensors in first.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second.tensors[group][name]), f"{group} {name}"
