"""In which type a frozen tokenizer encodes, and the best of K codes as float32 would have it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from beit.config.training import Precision
from beit.errors import ConfigError
from beit.hardware import multiplies_bfloat16

FEW = 8
"""Codes of a vector that are scored twice. A code that float32 puts first would have to be
misjudged by half precision beyond seven others to be lost."""
ROWS = 2048
"""Vectors at once: the weights of their few codes are gathered (128 MiB for 2048 features)."""


def encoding_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of the vectors that are scored; the scores themselves are always float32.

    `auto` is fp16 on a GPU, as published: as fast as bf16, with an eighth of its rounding. On a CPU
    it is bf16 where that is fast, else fp32.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "a tokenizer encodes in fp16 only on a GPU",
            remedy="use tokenizer_precision bf16, fp32 or auto",
        )
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def best_codes(
    rows: Float[Tensor, "rows features"],
    weight: Float[Tensor, "codes features"],
    bias: Float[Tensor, " codes"] | None,
) -> Int64[Tensor, " rows"]:
    """argmax over the codes of `rows @ weight.T + bias`, with float32 weights.

    Rows in float32 are scored as they are. Rows in half precision are scored in their own type,
    which takes half of the time or less, and the few best codes once more in float32: these decide.
    """
    if rows.dtype == torch.float32:
        return F.linear(rows, weight, bias).argmax(dim=1)
    half = weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype)
    return torch.cat([_twice(part, weight, bias, half) for part in rows.split(ROWS)])


def _twice(
    rows: Tensor, weight: Tensor, bias: Tensor | None, half: tuple[Tensor, Tensor | None]
) -> Tensor:
    near = F.linear(rows, *half).topk(min(FEW, len(weight)), dim=1).indices
    few = near.sort(dim=1).values  # so that of equal scores the first wins, as it does in float32
    scores = torch.bmm(weight[few], rows.float()[:, :, None])[:, :, 0]
    if bias is not None:
        scores += bias[few]
    return few.gather(1, scores.argmax(dim=1, keepdim=True))[:, 0]
