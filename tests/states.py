"""States of a run that are a function of the step, to save, damage and compare."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from beit.training.checkpoint import Checkpoint


def checkpoint(step: int, *, more: int = 0) -> Checkpoint:
    """Tensors of several types, shapes and layouts; `more` adds to their number."""
    chance = torch.Generator().manual_seed(step)
    tensors = {
        "model": {
            "weight": torch.randn(20, 30, generator=chance),
            "usage": torch.randn(7, generator=chance).bfloat16(),
            **{f"layer.{number}": torch.randn(3, generator=chance) for number in range(more)},
        },
        "optimizer": {
            "weight/step": torch.tensor(float(step)),
            "weight/exp_avg": torch.randn(30, 20, generator=chance).t(),
        },
    }
    return Checkpoint(step, tensors, {"best": [3, 0.1 + 0.2], "metrics": {"top1": 0.5}})


def assert_same(first: Checkpoint | None, second: Checkpoint | None) -> None:
    """Equal bit for bit."""
    assert first is not None
    assert second is not None
    assert (first.step, first.values) == (second.step, second.values)
    assert first.tensors.keys() == second.tensors.keys()
    for group, tensors in first.tensors.items():
        assert tensors.keys() == second.tensors[group].keys()
        for name, tensor in tensors.items():
            other = second.tensors[group][name]
            assert tensor.dtype == other.dtype
            assert torch.equal(tensor, other), f"{group} {name}"


def cut_after_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is emptied as soon as it was read."""
    read = Path.read_bytes

    def read_and_cut(path: Path) -> bytes:
        content = read(path)
        path.write_bytes(b"")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_cut)
