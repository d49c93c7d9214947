"""Compiled blocks: the same training, one compilation for all blocks, and told when impossible."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import jaxtyping
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from beit.errors import ConfigError, Preempted
from beit.models.vit import VisionTransformer
from beit.training import device as devices
from beit.training.checkpoint import newest_checkpoint
from beit.training.device import compile_blocks
from beit.training.loop import fit
from miniature import (
    BACKBONE,
    InMemory,
    classification,
    labelled_batch,
    masked,
    masked_batch,
    opened,
    reconstruct,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# PyTorch asks intermediate results for gradients while it traces.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture(autouse=True)
def apart():
    """Compilations of one test are not those of another; checks of shapes cannot be compiled."""
    torch.compiler.reset()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch.compiler.reset()


def train(folder, objective, batches, resume=False, **options):
    with opened(folder, InMemory(batches), **options) as run:
        return fit(objective, run, resume=resume)


def weights(folder):
    return newest_checkpoint(folder / "checkpoints").checkpoint.tensors


def compare(first, second, tolerance):
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for group, tensors in one.items():
        assert tensors.keys() == other[group].keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                tensor, other[group][name], atol=tolerance, rtol=tolerance, msg=f"{group} {name}"
            )


MAKE = {
    "pretrain": (masked, masked_batch),
    "finetune": (lambda: classification(drop_path=0.3), labelled_batch),
}


@pytest.mark.parametrize("kind", MAKE)
def test_training_is_the_same_and_resumes(tmp_path, monkeypatch, kind):
    """Traced and run by PyTorch's own operators: names, random numbers and values to rounding."""
    monkeypatch.setattr(devices, "COMPILER", {"backend": "aot_eager"})
    make, batches = MAKE[kind]
    options = {"average": 0.9, "evaluate_every": 3}
    train(tmp_path / "plain", make(), batches, **options)
    train(tmp_path / "whole", make(), batches, compile="blocks", **options)
    compare(tmp_path / "plain", tmp_path / "whole", 1e-5)
    assert ", compiled" in (tmp_path / "whole" / "log.txt").read_text()
    assert ", compiled" not in (tmp_path / "plain" / "log.txt").read_text()

    if kind == "pretrain":
        return  # that it resumes is shown by the other, in which more is random

    def stop(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    loader = InMemory(batches, before=stop)
    with (
        opened(tmp_path / "parts", loader, compile="blocks", **options) as run,
        pytest.raises(Preempted),
    ):
        fit(make(), run, resume=False)
    torch.compiler.reset()
    train(tmp_path / "parts", make(), batches, resume=True, compile="blocks", **options)
    compare(tmp_path / "whole", tmp_path / "parts", 0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_compiler_trains_the_same(tmp_path):
    make, batches = MAKE["finetune"]
    train(tmp_path / "plain", make(), batches)
    train(tmp_path / "compiled", make(), batches, compile="blocks")
    compare(tmp_path / "plain", tmp_path / "compiled", 1e-4)


def test_blocks_that_are_alike_are_compiled_once(monkeypatch):
    """Whatever their stochastic depth: twelve of them would be more than PyTorch compiles."""
    counter = CompileCounter()
    monkeypatch.setattr(devices, "COMPILER", {"backend": counter})
    objective = masked()
    objective.model.backbone = VisionTransformer(replace(BACKBONE, depth=12, drop_path=0.2))
    assert compile_blocks(objective, "blocks", CPU)
    objective.train()
    for step in range(3):
        objective(masked_batch(step), 0.0).total.backward()
    # The first block drops nothing, the last computes the masked only; and the tokenizer.
    assert counter.frame_count == 3 + 1


@pytest.mark.parametrize(
    ("choice", "device", "found", "compiled"),
    [
        ("auto", CPU, True, False),
        ("auto", GPU, True, True),
        ("auto", GPU, False, False),
        ("off", GPU, True, False),
        ("blocks", CPU, True, True),
    ],
)
def test_choice(monkeypatch, choice, device, found, compiled):
    monkeypatch.setattr(
        devices, "compiler_problem", lambda device: "" if found else "no C compiler"
    )
    objective = masked()
    blocks = list(objective.model.backbone.blocks)
    assert objective.blocks() == blocks
    done = []
    for part in (*blocks, *objective.tokenizer._trunk()):
        monkeypatch.setattr(part, "compile", lambda **manner: done.append(manner))
    assert compile_blocks(objective, choice, device) is compiled
    assert done == [devices.COMPILER] * (len(blocks) + 1) * compiled


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"no C compiler\n  remedy: .*compile off"):
        compile_blocks(masked(), "blocks", CPU)
    monkeypatch.setattr(devices.shutil, "which", lambda name: name)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert devices.compiler_problem(CPU) == ""
    assert "triton" in devices.compiler_problem(GPU)


def test_models_without_blocks_have_nothing_to_compile():
    assert reconstruct().blocks() == []
