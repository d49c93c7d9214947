"""Which devices there are, and where bfloat16 is fast."""

from __future__ import annotations

import pytest
import torch

from beit.errors import ConfigError
from beit.hardware import find_device, multiplies_bfloat16
from beit.training.device import resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_f": True}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
    ],
)
def test_cpus(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert multiplies_bfloat16(CPU) is fast
    assert resolve_precision("auto", CPU) is (torch.bfloat16 if fast else torch.float32)
    assert resolve_precision("bf16", CPU) is torch.bfloat16


@pytest.mark.parametrize("fast", [True, False])
def test_gpus(monkeypatch, fast):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    assert multiplies_bfloat16(torch.device("cuda")) is fast


def test_devices_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cpu", "cuda", "cuda:1"):
        assert find_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "count", "problem"),
    [
        ("cuda", 0, "torch finds 0 GPUs"),
        ("cuda:2", 2, "device cuda:2 was requested, and torch finds 2 GPUs"),
        ("gpu", 1, "no device 'gpu'"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, name, count, problem):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError, match=problem):
        find_device(name)


def test_other_devices_are_not_known():
    assert not multiplies_bfloat16(torch.device("meta"))
