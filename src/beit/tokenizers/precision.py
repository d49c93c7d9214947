"""In which type a frozen tokenizer encodes."""

from __future__ import annotations

import torch

from beit.config.training import Precision
from beit.errors import ConfigError
from beit.hardware import multiplies_bfloat16


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
