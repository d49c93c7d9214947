"""Attention with a bias: one function, and a table that says which kernel computes it where."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from beit.config.training import AttentionKernel
from beit.hardware import multiplies_bfloat16

Heads = Float[Tensor, "batch heads tokens width"]
Bias = Float[Tensor, "heads tokens tokens"]
Backend = Literal["explicit", "fused", "efficient", "triton"]

TRITON_TOKENS = 256
"""Most tokens of the Triton kernel, which never cuts a row of scores."""
TRITON_WIDTHS = (16, 32, 64, 128)
"""Channels of a head that it can have."""


class Case(NamedTuple):
    """What the choice of a kernel depends on."""

    device: torch.device
    dtype: torch.dtype
    tokens: int
    bias: Literal["none", "fixed", "learned"]
    """Learned means that this call has to give its gradient."""
    width: int
    """Channels of a head."""


def attention(
    query: Heads,
    key: Heads,
    value: Heads,
    bias: Bias | None,
    wish: AttentionKernel = "auto",
) -> Heads:
    """softmax(q kᵀ / sqrt(width) + bias) v, by the kernel that is fastest in this case, or by
    another where it can be wished for."""
    if torch.compiler.is_exporting():  # for any device and number of tokens
        return attention_by("explicit", query, key, value, bias)
    learned = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    kind: Literal["none", "fixed", "learned"] = (
        "none" if bias is None else "learned" if learned else "fixed"
    )
    case = Case(query.device, query.dtype, query.shape[-2], kind, query.shape[-1])
    return attention_by(choose(case, wish), query, key, value, bias)


def choose(case: Case, wish: AttentionKernel = "auto") -> Backend:
    """The kernel for a case.

    | device | numbers                  | bias            | kernel    | why                        |
    |--------|--------------------------|-----------------|-----------|----------------------------|
    | CPU    | float32                  | learned         | explicit  | SDPA takes 1.15 times as   |
    |        |                          |                 |           | long, forward and backward |
    | CPU    | float32                  | not learned     | fused     | takes 0.75 of the time of  |
    |        |                          |                 |           | explicit, and never keeps  |
    |        |                          |                 |           | all scores                 |
    | CPU    | half, fast in hardware   | any             | explicit  | SDPA with a learned bias   |
    |        |                          |                 |           | takes 2.5 times as long    |
    | CPU    | half, emulated           | any             | fused     | multiplies in float32, in  |
    |        |                          |                 |           | an eighth of the time      |
    | GPU    | half, up to 256 tokens   | learned         | triton,   | sums its gradient over the |
    |        |                          |                 | if wished | images; not raced yet    |
    | GPU    | any                      | learned         | efficient | flash and cuDNN give no    |
    |        |                          |                 |           | gradient of a bias         |
    | GPU    | any, tokens % 128 == 64  | fixed           | efficient | cuDNN's gradient of the    |
    |        |                          |                 |           | queries is NaN (PyTorch    |
    |        |                          |                 |           | issue 196678)              |
    | GPU    | any                      | else            | fused     | flash or cuDNN             |
    """
    if wish == "triton" and case.bias == "learned" and fits_triton(case):
        return "triton"
    if case.device.type == "cuda":
        broken = case.bias == "fixed" and case.tokens % 128 == 64
        return "efficient" if case.bias == "learned" or broken else "fused"
    if case.device.type != "cpu":
        return "fused"
    if case.dtype in (torch.bfloat16, torch.float16):
        return "explicit" if multiplies_bfloat16(case.device) else "fused"
    return "explicit" if case.bias == "learned" else "fused"


def fits_triton(case: Case) -> bool:
    """Whether the Triton kernel is made for such tensors."""
    return (
        case.device.type == "cuda"
        and case.dtype in (torch.bfloat16, torch.float16)
        and case.tokens <= TRITON_TOKENS
        and case.width in TRITON_WIDTHS
    )


def attention_by(
    backend: Backend, query: Heads, key: Heads, value: Heads, bias: Bias | None
) -> Heads:
    """The same by a given kernel: the products written out, those of PyTorch's SDPA, or our own,
    which is for a bias and `fits_triton` only."""
    if bias is not None:
        # A wider bias would widen the scores, or be read wrongly (PyTorch issue 191612).
        bias = bias.to(query.dtype)
    if backend == "explicit":
        return attention_weights(query, key, bias) @ value
    if backend == "triton":
        from beit.models.biased_attention import biased_attention  # not every PyTorch has Triton

        assert bias is not None
        return biased_attention(query, key, value, bias)
    # A mask of three dimensions would keep SDPA from its fast kernel on a CPU.
    mask = None if bias is None else bias[None]
    if backend == "fused":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if mask is not None:  # whose rows have to begin at multiples of eight numbers
        tokens = mask.shape[-1]
        mask = F.pad(mask, (0, -tokens % 8))[..., :tokens]
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attention_weights(
    query: Heads, key: Heads, bias: Bias | None
) -> Float[Tensor, "batch heads tokens tokens"]:
    """softmax(q kᵀ / sqrt(width) + bias), the statistics in float32 whatever the type."""
    scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        scores += bias
    return scores.softmax(dim=-1)
