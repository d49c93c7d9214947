"""Attention: every kernel against float64, the table that chooses one, and two bugs of kernels."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from beit.models import attention as module
from beit.models.attention import Backend, Case, attention, attention_by, attention_weights, choose

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BACKENDS = get_args(Backend)
KINDS = ("none", "fixed", "learned")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def inputs(kind, *, tokens=17, dtype=torch.float64, device=CPU, heads=3, width=8):
    query, key, value, pull = (
        torch.randn(2, heads, tokens, width, dtype=dtype, device=device) for _ in range(4)
    )
    for tensor in (query, key, value):
        tensor.requires_grad_()
    bias = None if kind == "none" else torch.randn(heads, tokens, tokens, device=device)
    if kind == "learned":
        bias.requires_grad_()
    return (query, key, value, bias), pull


def results(function, tensors, pull):
    """The output, then the gradients of all that have one."""
    leaves = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    out = function(*tensors)
    return [out, *torch.autograd.grad(out, leaves, pull.to(out.dtype))]


def formula(query, key, value, bias):
    scores = torch.einsum("bhqc,bhkc->bhqk", query, key) / query.shape[-1] ** 0.5
    shares = (scores if bias is None else scores + bias).exp()
    return torch.einsum("bhqk,bhkc->bhqc", shares / shares.sum(dim=-1, keepdim=True), value)


def compare(backend, tensors, pull, tolerance):
    exact = [
        None if tensor is None else tensor.detach().double().requires_grad_(tensor.requires_grad)
        for tensor in tensors
    ]
    found = results(lambda *given: attention_by(backend, *given), tensors, pull)
    wanted = results(formula, exact, pull)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.double() - theirs).norm() / theirs.norm() < tolerance


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-6), (torch.bfloat16, 0.02)]
)
def test_every_kernel_is_the_formula(backend, kind, dtype, tolerance):
    tensors, pull = inputs(kind, dtype=dtype)
    compare(backend, tensors, pull, tolerance)


@needs_gpu
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [64, 65, 192, 197, 320, 577])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gpu_kernels(backend, kind, tokens, dtype):
    """With a float32 bias, and at the numbers of tokens where kernels were wrong."""
    tensors, pull = inputs(kind, tokens=tokens, dtype=dtype, device=GPU, width=64)
    if backend == "fused" and choose(Case(GPU, dtype, tokens, kind)) != "fused":
        pytest.skip("never chosen here")
    compare(backend, tensors, pull, 0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wide_bias_does_not_widen_the_rest(backend):
    (query, key, value, bias), _ = inputs("fixed", dtype=torch.bfloat16)
    assert bias.dtype == torch.float32
    assert attention_by(backend, query, key, value, bias).dtype == torch.bfloat16
    narrow = attention_by(backend, query, key, value, bias.bfloat16())
    assert torch.equal(attention_by(backend, query, key, value, bias), narrow)


@pytest.mark.parametrize("tokens", [64, 192, 320, 576])
def test_the_broken_lengths_are_never_left_to_cudnn(tokens):
    assert choose(Case(GPU, torch.bfloat16, tokens, "fixed")) == "efficient"
    assert choose(Case(GPU, torch.bfloat16, tokens + 1, "fixed")) == "fused"
    assert choose(Case(GPU, torch.bfloat16, tokens, "none")) == "fused"


def test_a_learned_bias_goes_where_its_gradient_is_made():
    for dtype in (torch.float32, torch.bfloat16):
        assert choose(Case(GPU, dtype, 197, "learned")) == "efficient"


@pytest.mark.parametrize("fast", [True, False])
def test_choices_for_cpus(monkeypatch, fast):
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: fast)
    for dtype in (torch.bfloat16, torch.float16):
        assert choose(Case(CPU, dtype, 197, "learned")) == ("explicit" if fast else "fused")
    for kind in KINDS:
        expected = "explicit" if kind == "learned" else "fused"
        assert choose(Case(CPU, torch.float32, 197, kind)) == expected
    assert choose(Case(torch.device("meta"), torch.float32, 197, "none")) == "fused"


@pytest.mark.parametrize(
    ("kind", "grad", "expected"),
    [("none", True, "none"), ("fixed", True, "fixed"), ("learned", True, "learned"),
     ("learned", False, "fixed")],
)  # fmt: skip
def test_the_case_is_read_off_the_tensors(monkeypatch, kind, grad, expected):
    cases = []
    monkeypatch.setattr(module, "choose", lambda case: cases.append(case) or "explicit")
    tensors, _ = inputs(kind, dtype=torch.float32)
    with torch.set_grad_enabled(grad):
        out = attention(*tensors)
    assert cases == [Case(CPU, torch.float32, 17, expected)]
    torch.testing.assert_close(out, formula(*tensors), atol=1e-5, rtol=1e-5)


def test_the_bias_is_left_as_it_is():
    (query, key, value, bias), _ = inputs("fixed")
    before = bias.clone()
    for backend in BACKENDS:
        attention_by(backend, query, key, value, bias)
    assert torch.equal(bias, before)


def test_weights_sum_to_one():
    (query, key, _, bias), _ = inputs("fixed", dtype=torch.float32)
    weights = attention_weights(query, key, bias)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 17))


def test_a_bias_does_not_keep_sdpa_from_its_fast_kernel():
    """A mask of three dimensions would be added to scores that are written out."""
    (query, key, value, bias), _ = inputs("fixed", dtype=torch.float32)
    with torch.no_grad(), torch.profiler.profile() as profile:
        attention(query, key, value, bias)
    called = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in called
