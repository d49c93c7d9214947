"""Which devices there are, and where bfloat16 is fast."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from beit.config import TrainingConfig
from beit.errors import ConfigError
from beit.hardware import best_device, find_device, is_out_of_memory, multiplies_bfloat16
from beit.training import update
from beit.training.device import compile_blocks, resolve_precision
from beit.training.distributed import start_processes
from beit.training.update import Updater
from miniature import BATCH, CPU, KINDS, classification, labelled_batch


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
    assert multiplies_bfloat16(CPU.device) is fast
    assert resolve_precision("auto", CPU.device) is (torch.bfloat16 if fast else torch.float32)
    assert resolve_precision("bf16", CPU.device) is torch.bfloat16


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


@pytest.fixture
def apple(monkeypatch):
    """As if there were an Apple GPU, and no other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_an_apple_gpu_is_found_and_used_by_one_process(apple, monkeypatch):
    assert best_device().type == "mps"
    assert find_device("mps").type == "mps"
    assert not multiplies_bfloat16(torch.device("mps"))
    config = TrainingConfig(steps=1, batch=2, lr=1e-3)
    assert start_processes(config).device.type == "mps"
    assert start_processes(replace(config, device="cpu")).device.type == "cpu"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="several processes"):
        start_processes(replace(config, device="mps"))


def test_what_an_apple_gpu_cannot_do_is_refused_or_left_out(apple):
    mps = torch.device("mps")
    assert resolve_precision("auto", mps) == torch.float32
    assert resolve_precision("bf16", mps) == torch.bfloat16
    with pytest.raises(ConfigError, match="NVIDIA or AMD"):
        resolve_precision("fp16", mps)
    assert not compile_blocks(classification(), "auto", mps)
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))


def test_no_apple_gpu_is_an_error_that_says_so():
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="no Apple GPU"):
        find_device("mps")


class NoFloat64(TorchDispatchMode):
    """Fails where float64 would be computed with, which Apple GPUs cannot."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for value in found if isinstance(found, list | tuple) else (found,):
            assert not (isinstance(value, Tensor) and value.dtype == torch.float64), function
        return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_computes_in_float64(kind):
    make, batches = KINDS[kind]
    objective = make()
    assert torch.float64 not in {value.dtype for value in objective.state_dict().values()}
    assert torch.float64 not in {value.dtype for value in objective.buffers()}
    updater = Updater(objective, TrainingConfig(steps=4, batch=BATCH, lr=1e-3), CPU, print)
    with NoFloat64():
        updater.update(1, iter([batches(0)]))


def test_a_broken_step_is_left_out_where_the_kernel_does_not_leave_it_out(monkeypatch):
    monkeypatch.setattr(update, "SKIPPED_BY_KERNEL", ())
    objective = classification()
    updater = Updater(objective, TrainingConfig(steps=4, batch=BATCH, lr=1e-2), CPU, print)
    updater.update(1, iter([labelled_batch(0)]))
    before = [weight.clone() for weight in objective.model.parameters()]
    with torch.no_grad():
        objective.model.head.bias[0] = torch.nan
    updater.update(2, iter([labelled_batch(1)]))
    after = list(objective.model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before[:-1], after[:-1], strict=True))
    assert updater.broken_step() == 2
