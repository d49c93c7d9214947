"""Training equals the official engines: losses, gradient norms, learning rates, weights and their
average after 12 steps agree with the records to 1e-5."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from beit.training.optim import weight_decay
from miniature import CPU
from reference import assert_same
from trajectories import RECORDS, ours, replayed

TOLERANCE = 1e-5


def close(measured: list[float], recorded: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(
        torch.tensor(measured, dtype=torch.float64), recorded, atol=tolerance, rtol=tolerance
    )


@pytest.mark.parametrize("record", RECORDS)
def test_twelve_steps_of_the_official_engine(golden, record):
    facts = golden(record)
    settings = facts["settings"]
    updater, batch = RECORDS[record](facts, CPU.device)
    measured = replayed(updater, batch, settings["steps"])
    close(measured.rates, facts["learning_rates"], 1e-12)
    close(measured.losses, facts["losses"])
    close(measured.norms, facts["grad_norms"])
    if "weight_decays" in facts:
        decays = [weight_decay(step, updater.config) for step in range(settings["steps"])]
        close(decays, facts["weight_decays"], 1e-12)
    assert_same(dict(updater.objective.model.state_dict()), ours(facts["after"]), TOLERANCE)
    if "average" in facts:
        average = updater.weights.average
        assert average is not None
        assert_same(dict(average.module.state_dict()), ours(facts["average"]), TOLERANCE)


@pytest.mark.parametrize("record", RECORDS)
def test_the_weights_of_a_record_move(golden, record):
    """A replay that did nothing could not pass: every learned weight differs after 12 steps."""
    facts = golden(record)
    before, after = ours(facts["before"]), ours(facts["after"])
    moved = [float((after[name] - before[name]).abs().max()) for name in before]
    assert min(moved) > 10 * TOLERANCE
