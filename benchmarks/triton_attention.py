"""Attention with a learned bias by Triton kernels of our own, for up to 256 tokens.

PyTorch's fast kernels give no gradient of a bias, or write one per image. Here it is summed over
the images inside the kernel, without atomic additions: the same inputs give the same gradients,
bit for bit. It is no part of the package until it has won the race on a GPU (`scripts/gpu
kernels`); not every PyTorch comes with Triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from benchmarks.triton_kernels import backward_kernel, bias_kernel, forward_kernel

MOST_TOKENS = 256
"""A row of scores is never cut."""
WIDTHS = (16, 32, 64, 128)
"""Channels that a head can have."""
SHARES = 4
"""Parts of a batch whose bias gradients are summed side by side, to keep a GPU's cores at work."""
TILE = 64
"""Side of the tile of a bias gradient that one program sums."""

Heads = Float[Tensor, "batch heads tokens width"]
Bias = Float[Tensor, "heads tokens tokens"]
Rows = Float[Tensor, "batch heads tokens"]


def fits(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> bool:
    """Whether the kernels are made for such tensors."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and tokens <= MOST_TOKENS and width in WIDTHS


def biased_attention(query: Heads, key: Heads, value: Heads, bias: Bias) -> Heads:
    """softmax(q kᵀ / sqrt(width) + bias) v, with all gradients; all of one type."""
    if not query.stride() == key.stride() == value.stride() or query.stride(-1) != 1:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    out: Tensor = _forward(query, key, value, bias.contiguous())[0]
    return out.transpose(1, 2)


@torch.library.custom_op("beit::biased_attention", mutates_args=())
def _forward(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The output [batch, tokens, heads, width], and the log of the sum of each row of scores."""
    batch, heads, tokens, width = query.shape
    out, logsum = _outputs(query)
    rows = _rows(query)
    forward_kernel[(triton.cdiv(tokens, rows), batch * heads)](
        query, key, value, bias, out, logsum, *query.stride()[:3], heads, tokens, width**-0.5,
        ROWS=rows, COLUMNS=_columns(tokens), WIDTH=width, num_warps=4,
    )  # fmt: skip
    return out, logsum


@_forward.register_fake
def _outputs(query: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, width = query.shape
    logsum = query.new_empty(batch, heads, tokens, dtype=torch.float32)
    return query.new_empty(batch, tokens, heads, width), logsum


@torch.library.custom_op("beit::biased_attention_backward", mutates_args=())
def _backward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, out: Tensor, logsum: Tensor,
    pull: Tensor, learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, value [batch, tokens, heads, width] and bias, the last only if it is
    learned: else it is empty."""
    batch, heads, tokens, width = query.shape
    pulls = _empty(out, bias, learned)
    delta = torch.empty_like(logsum)
    strides = query.stride()[:3]
    backward_kernel[(batch * heads,)](
        query, key, value, bias, out, logsum, pull, *pulls[:3], delta, *strides, heads, tokens,
        width**-0.5, ROWS=_rows(query) // 2, COLUMNS=_columns(tokens), WIDTH=width, num_warps=8,
    )  # fmt: skip
    if not learned:
        return pulls
    shares = min(SHARES, batch)
    parts = query.new_empty(shares, *bias.shape, dtype=torch.float32)
    tile = min(TILE, _columns(tokens))
    bias_kernel[(triton.cdiv(tokens, tile), triton.cdiv(tokens, tile), shares * heads)](
        query, key, value, bias, logsum, pull, delta, parts, *strides, batch, heads, tokens,
        width**-0.5, ROWS=tile, COLUMNS=tile, WIDTH=width, SHARES=shares, num_warps=4,
    )  # fmt: skip
    return pulls[0], pulls[1], pulls[2], parts.sum(dim=0).to(bias.dtype)


@_backward.register_fake
def _like(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _query, _key, _value, bias, out, _logsum, _pull, learned = inputs
    return _empty(out, bias, learned)


def _empty(out: Tensor, bias: Tensor, learned: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_bias = bias.new_empty(bias.shape if learned else 0)
    return torch.empty_like(out), torch.empty_like(out), torch.empty_like(out), of_bias


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    out, logsum = output
    ctx.mark_non_differentiable(logsum)
    ctx.save_for_backward(*inputs, out, logsum)


def _differentiate(ctx: Any, pull: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    learned = ctx.needs_input_grad[3]
    *first, bias = _backward(*ctx.saved_tensors, pull.contiguous(), learned)
    return *(tensor.transpose(1, 2) for tensor in first), bias if learned else None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _columns(tokens: int) -> int:
    return max(16, int(triton.next_power_of_2(tokens)))


def _rows(query: Tensor) -> int:
    """Rows of scores at a time: fewer of wide numbers, whose tiles fill the fast memory."""
    return 64 if query.element_size() == 2 else 32
