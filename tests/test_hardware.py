"""Where bfloat16 is fast."""

from __future__ import annotations

import pytest
import torch

from beit.hardware import multiplies_bfloat16
from beit.training.parallel import resolve_precision

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


def test_other_devices_are_not_known():
    assert not multiplies_bfloat16(torch.device("meta"))
