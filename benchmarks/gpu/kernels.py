"""The race of attention kernels: forward and backward, with a learned and with a fixed bias."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks import attention
from benchmarks import setting as peers
from benchmarks.gpu.checks import Check, Setting, skipped
from benchmarks.race import OURS, Clock, Contest, race


def checks(setting: Setting) -> Iterator[Check]:
    clock = Clock(setting.device, 1)
    size = peers.Setting(
        quick=setting.quick, device=setting.device, threads=1, rounds=5,
        batch=128 if setting.on_gpu else 2,
    )  # fmt: skip
    for contest in attention.contests(size):
        if contest.precision == "fp32" and setting.on_gpu:
            continue
        if setting.on_gpu:
            contest = _with_flex(contest, size)
        rows = race("attention", contest, rounds=2 if setting.quick else 7, clock=clock)
        kernels = [row for row in rows if row.who != OURS]
        fastest = min(kernels, key=lambda row: row.median)
        for row in rows:
            note = "fastest" if row is fastest else ""
            yield Check(f"attention, {contest.case}: {row.who}", row.median * 1e3, "ms", note=note)
    if not setting.on_gpu:
        yield skipped("attention by flex_attention and by our Triton kernel", "there is no GPU")


def _with_flex(contest: Contest, size: peers.Setting) -> Contest:
    """The contest with flex_attention beside the others, compiled, the bias read by its score."""
    from torch.nn.attention.flex_attention import flex_attention

    backbone = size.pretraining
    heads, width, tokens = backbone.heads, backbone.width // backbone.heads, 1 + backbone.patches
    dtype, learned = peers.TYPES[contest.precision], contest.case.endswith("learned")
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, size.batch, heads, tokens, width, generator=draw)
    vectors = vectors.to(size.device, dtype)
    table = torch.randn(heads, tokens, tokens, generator=draw).to(size.device, dtype)
    compiled: Any = torch.compile(flex_attention)

    def attend(_clock: Clock) -> None:
        query, key, value = vectors.detach().requires_grad_(learned)
        bias = table.detach().requires_grad_(learned)

        def score(value: Any, _batch: Any, head: Any, row: Any, column: Any) -> Any:
            return value + bias[head, row, column]

        out = compiled(query, key, value, score_mod=score)
        if learned:
            out.sum().backward()

    contestants = {**contest.contestants, "flex_attention": attend}
    return Contest(case=contest.case, contestants=contestants, precision=contest.precision)
