"""What a save costs is measured with saves and steps that happen."""

from __future__ import annotations

import pytest
import torch

from benchmarks.saving import Save, measure
from benchmarks.setting import Setting


def test_a_save_costs_its_wait_and_what_it_slows() -> None:
    assert Save(0.5, 3.0, [2.0, 3.0], [1.0, 2.0]).cost == 0.5 + 5.0 - 2 * 1.5


@pytest.mark.slow
def test_the_quick_measure_is_whole() -> None:
    setting = Setting(quick=True, device=torch.device("cpu"), threads=1, rounds=1, batch=1)
    found = measure(setting, saves=2, every=60.0)
    # Weights, their average and two moments, in four bytes each.
    assert found["megabytes"] > 4 * 4 * 0.9
    assert 0 < found["waited_seconds"] < found["published_after_seconds"]
    assert found["share_of_waiting"] == found["waited_seconds"] / 60
