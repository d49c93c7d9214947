"""Attention forward and backward: the kernel that is chosen, beside every other that can run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

from beit.models.attention import Backend, attention, attention_by
from benchmarks.race import OURS, Clock, Contest, Contestant
from benchmarks.setting import TYPES, Setting

Kernel = Callable[..., torch.Tensor]
TRITON = "triton"


def contests(setting: Setting) -> Iterator[Contest]:
    """With a learned bias, as in training, and with a fixed one and no gradient, as in answers."""
    backbone = setting.pretraining
    heads, width = backbone.heads, backbone.width // backbone.heads
    tokens = 1 + backbone.patches
    chance = torch.Generator().manual_seed(0)
    for precision in setting.precisions:
        dtype = TYPES[precision]
        drawn = torch.randn(3, setting.batch, heads, tokens, width, generator=chance)
        vectors = drawn.to(setting.device, dtype)
        bias = torch.randn(heads, tokens, tokens, generator=chance).to(setting.device, dtype)
        names: list[Backend] = ["explicit", "fused"]
        if setting.device.type == "cuda":
            names.append("efficient")
        kernels: dict[str, Kernel] = {OURS: attention}
        kernels |= {name: functools.partial(attention_by, name) for name in names}
        for learned in (True, False):
            if learned and setting.device.type == "cuda":
                kernels |= _triton(setting.device, dtype, tokens, width)
            yield Contest(
                case=f"{precision}, bias {'learned' if learned else 'fixed'}",
                contestants={
                    name: _by(kernel, vectors, bias, learned)
                    for name, kernel in kernels.items()
                    if learned or name != TRITON
                },
                precision=precision,
            )


def _triton(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> dict[str, Kernel]:
    from benchmarks.triton_attention import biased_attention, fits

    return {TRITON: biased_attention} if fits(device, dtype, tokens, width) else {}


def _by(kernel: Kernel, vectors: torch.Tensor, bias: torch.Tensor, learned: bool) -> Contestant:
    def attend(_clock: Clock) -> None:
        query, key, value = vectors.detach().requires_grad_(learned)
        table = bias.detach().requires_grad_(learned)
        mixed = kernel(query, key, value, table.to(dtype=query.dtype))
        if learned:
            mixed.sum().backward()

    return attend
