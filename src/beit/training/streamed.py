"""Tensors as the pieces of a safetensors file, without a second copy of them in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch import Tensor

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def safetensors_pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The header, then the bytes of each tensor; tensors on the CPU, in any order and layout.

    The widest types come first, so that each tensor starts at a multiple of its own width.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        flat = tensors[name].detach().contiguous().reshape(-1)
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data
