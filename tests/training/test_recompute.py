"""Computing again instead of keeping: the same bits, and what was meant is what is done twice."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from beit.config import TrainingConfig
from beit.training.checkpoint import newest_checkpoint
from beit.training.loop import fit
from miniature import (
    InMemory,
    classification,
    labelled_batch,
    masked,
    masked_batch,
    opened,
)

MAKE = {
    "pretrain": (masked, masked_batch),
    "finetune": (lambda: classification(drop_path=0.3), labelled_batch),
}


def training(**options):
    return TrainingConfig(steps=1, batch=1, lr=1.0, **options)


def trained(folder, kind, **options):
    make, batches = MAKE[kind]
    with opened(folder, InMemory(batches), **options) as run:
        fit(make(), run, resume=False)
    return newest_checkpoint(folder / "checkpoints").checkpoint.tensors


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("recompute", ["selective", "blocks"])
def test_training_is_the_same_bit_for_bit(tmp_path, kind, recompute):
    """With stochastic depth, an average and evaluations in between."""
    options = {"average": 0.9, "evaluate_every": 3}
    plain = trained(tmp_path / "plain", kind, **options)
    other = trained(tmp_path / "other", kind, recompute=recompute, **options)
    assert plain.keys() == other.keys()
    for group, tensors in plain.items():
        assert tensors.keys() == other[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[group][name]), f"{group} {name}"


class Counted(TorchDispatchMode):
    """How often each operator is carried out."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.name().partition(".")[0]] += 1
        return function(*args, **(kwargs or {}))


def calls(recompute):
    objective = masked().train()
    objective.set_recompute(recompute)
    with Counted() as counted:
        objective(masked_batch(0), 0.0).total.backward()
    return counted.calls, len(objective.blocks())


def test_what_is_done_twice():
    (plain, blocks), (selective, _), (whole, _) = map(calls, ("off", "selective", "blocks"))
    assert plain["aten::gelu"] == blocks
    assert selective["aten::gelu"] == whole["aten::gelu"] == 2 * blocks
    linear = ("aten::mm", "aten::addmm")
    assert sum(selective[name] for name in linear) == sum(plain[name] for name in linear)
    assert sum(whole[name] for name in linear) >= sum(plain[name] for name in linear) + 3 * blocks
