"""What the hardware does fast, wherever a precision is chosen."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there.

    A GPU has it in hardware or not. A CPU has it with AVX512-BF16 or AMX; any other emulates it,
    which makes matrix products several times slower than in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
