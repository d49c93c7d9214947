"""Our Triton kernels: interpreted against float64, compiled for GPUs, run where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(ROOT), str(ROOT / "src")])
INTERPRETED = Path(__file__).with_name("interpreted.py")
TOLERANCE = {"float32": 1e-6, "float16": 1e-3}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.slow
def test_outputs_and_gradients_are_those_of_the_formula():
    """In an odd number of tokens too; and twice the same bits, as nothing is added atomically."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": PATH}
    command = [sys.executable, INTERPRETED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(case["dtype"], case["tokens"], case["width"]) for case in cases} >= {
        ("float32", 197, 64),
        ("float16", 197, 32),
    }
    for case in cases:
        assert len(case["errors"]) == 4 + case["learned"], case
        assert max(case["errors"]) < TOLERANCE[case["dtype"]], case
        assert case["same"], case


@pytest.mark.parametrize(("capability", "number"), [(80, "*fp16"), (90, "*bf16")])
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_they_compile_for_gpus_and_fit_their_shared_memory(capability, number):
    """The largest case that is chosen: 256 tokens, 64 channels. The compiler needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    from benchmarks import triton_kernels as kernels

    types = dict.fromkeys(("logsum", "delta", "bias_pull"), "*fp32")
    types |= dict.fromkeys(
        ("batch_stride", "head_stride", "token_stride", "batch", "heads", "tokens"), "i32"
    )
    types["scale"] = "fp32"
    shared = {80: 163 * 1024, 90: 227 * 1024}[capability]
    for kernel, constants, warps in (
        (kernels.forward_kernel, {"ROWS": 64, "COLUMNS": 256, "WIDTH": 64}, 4),
        (kernels.backward_kernel, {"ROWS": 32, "COLUMNS": 256, "WIDTH": 64}, 8),
        (kernels.bias_kernel, {"ROWS": 64, "COLUMNS": 64, "WIDTH": 64, "SHARES": 4}, 4),
    ):
        signature = {
            name: "constexpr" if name in constants else types.get(name, number)
            for name in kernel.arg_names
        }
        made = compile_kernel(
            ASTSource(fn=kernel, signature=signature, constexprs=constants),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": warps},
        )
        assert made.asm["cubin"]
        assert made.metadata.shared <= shared


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "width"), [(197, 64), (64, 32), (192, 64), (256, 128)])
def test_on_a_gpu(dtype, tokens, width):
    from interpreted import formula, results

    from benchmarks.triton_attention import biased_attention

    shape = (2, 3, tokens, width)
    query, key, value, pull = torch.randn(4, *shape, dtype=dtype, device="cuda").unbind()
    bias = torch.randn(3, tokens, tokens, dtype=dtype, device="cuda")
    tensors = [tensor.clone().requires_grad_() for tensor in (query, key, value, bias)]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    found, expected = results(biased_attention, tensors, pull), results(formula, exact, pull)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).norm() / theirs.norm() < 0.02


@needs_gpu
def test_the_operators_are_whole():
    """Their shapes, strides and gradients as PyTorch's compiler expects them."""
    from benchmarks.triton_attention import _forward

    tensors = [
        torch.randn(2, 3, 17, 32, device="cuda", dtype=torch.float16, requires_grad=True)
        for _ in range(3)
    ]
    bias = torch.randn(3, 17, 17, device="cuda", dtype=torch.float16, requires_grad=True)
    torch.library.opcheck(_forward, (*tensors, bias))
