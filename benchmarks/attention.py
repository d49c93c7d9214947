"""Attention forward and backward: the kernel that is chosen, beside every other that can run."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from beit.models.attention import Backend, Case, attention, attention_by, fits_triton
from benchmarks.race import OURS, Clock, Contest, Contestant
from benchmarks.setting import TYPES, Setting


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
            if fits_triton(Case(setting.device, dtype, tokens, "learned", width)):
                names.append("triton")
        for learned in (True, False):
            yield Contest(
                case=f"{precision}, bias {'learned' if learned else 'fixed'}",
                contestants={
                    OURS: _by(None, vectors, bias, learned),
                    **{
                        name: _by(name, vectors, bias, learned)
                        for name in names
                        if learned or name != "triton"
                    },
                },
                precision=precision,
            )


def _by(
    name: Backend | None, vectors: torch.Tensor, bias: torch.Tensor, learned: bool
) -> Contestant:
    def attend(_clock: Clock) -> None:
        query, key, value = vectors.detach().requires_grad_(learned)
        table = bias.detach().requires_grad_(learned)
        if name is None:
            mixed = attention(query, key, value, table)
        else:
            mixed = attention_by(name, query, key, value, table)
        if learned:
            mixed.sum().backward()

    return attend
