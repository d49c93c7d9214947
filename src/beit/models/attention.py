"""Attention with a bias: one function, and a table that says which kernel computes it where."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from beit.hardware import multiplies_bfloat16

Heads = Float[Tensor, "batch heads tokens width"]
Bias = Float[Tensor, "heads tokens tokens"]
Backend = Literal["explicit", "fused", "efficient"]


class Case(NamedTuple):
    """What the choice of a kernel depends on."""

    device: torch.device
    dtype: torch.dtype
    tokens: int
    bias: Literal["none", "fixed", "learned"]
    """Learned means that this call has to compute the gradient of the bias."""


def attention(
    query: Heads,
    key: Heads,
    value: Heads,
    bias: Bias | None,
) -> Heads:
    """softmax(q kᵀ / sqrt(width) + bias) v, by the kernel that is fastest in this case.

    Args:
        query: Unscaled.
        key: Of the same tokens as the queries.
        value: Averaged by the attention weights.
        bias: Added to the scores of every image; None for none.
    """
    if torch.compiler.is_exporting():  # for any device and number of tokens
        return attention_by("explicit", query, key, value, bias)
    learned = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    kind: Literal["none", "fixed", "learned"] = (
        "none" if bias is None else "learned" if learned else "fixed"
    )
    case = Case(query.device, query.dtype, query.shape[-2], kind)
    return attention_by(choose(case), query, key, value, bias)


def choose(case: Case) -> Backend:
    """The kernel for a case.

    | device | type                     | bias            | kernel    | why                        |
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
    | GPU    | any                      | learned         | efficient | flash and cuDNN give no    |
    |        |                          |                 |           | gradient of a bias         |
    | GPU    | any, tokens % 128 == 64  | fixed           | efficient | cuDNN's gradient of the    |
    |        |                          |                 |           | queries is NaN (PyTorch    |
    |        |                          |                 |           | issue 196678)              |
    | GPU    | any                      | otherwise       | fused     | flash or cuDNN             |
    """
    if case.device.type == "cuda":
        broken = case.bias == "fixed" and case.tokens % 128 == 64
        return "efficient" if case.bias == "learned" or broken else "fused"
    if case.device.type != "cpu":
        return "fused"
    if case.dtype in (torch.bfloat16, torch.float16):
        return "explicit" if multiplies_bfloat16(case.device) else "fused"
    return "explicit" if case.bias == "learned" else "fused"


def attention_by(
    backend: Backend, query: Heads, key: Heads, value: Heads, bias: Bias | None
) -> Heads:
    """Like `attention`, by a given kernel.

    Args:
        backend: `explicit` writes the products out; `fused` lets PyTorch's SDPA choose, `efficient`
            is its memory-efficient kernel.
        query: Unscaled.
        key: Of the same tokens as the queries.
        value: Averaged by the attention weights.
        bias: Added to the scores of every image, in the type of the queries; None for none.
    """
    if bias is not None:
        # A wider type would widen the scores too, or be read wrongly (PyTorch issue 191612).
        bias = bias.to(query.dtype)
    if backend == "explicit":
        return attention_weights(query, key, bias) @ value
    # A mask of three dimensions would keep SDPA from its fast kernel on a CPU.
    mask = None if bias is None else bias[None]
    if backend == "fused":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if mask is not None:  # its rows have to begin at multiples of eight numbers
        tokens = mask.shape[-1]
        mask = F.pad(mask, (0, -tokens % 8))[..., :tokens]
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attention_weights(
    query: Heads, key: Heads, bias: Bias | None
) -> Float[Tensor, "batch heads tokens tokens"]:
    """softmax(q kᵀ / sqrt(width) + bias), with statistics in float32 whatever the type.

    Args:
        query: Unscaled.
        key: Of the same tokens as the queries.
        bias: Added to the scores of every image; None for none.
    """
    scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        scores += bias
    return scores.softmax(dim=-1)
