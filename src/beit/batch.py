"""What travels from the loader to an objective. Pictures are uint8; B is the micro-batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor


class Unreadable(NamedTuple):
    """A picture that was left out of a batch, and why."""

    key: str
    reason: str


class ImageBatch(NamedTuple):
    """Pictures without labels."""

    images: UInt8[Tensor, "batch channels height width"]
    keys: tuple[str, ...]
    unreadable: tuple[Unreadable, ...] = ()


class MaskedBatch(NamedTuple):
    """Two views of one crop and a mask: what masked image modeling learns from."""

    images: UInt8[Tensor, "batch channels height width"]
    token_images: UInt8[Tensor, "batch channels token_height token_width"]
    mask: Bool[Tensor, "batch patches"]
    keys: tuple[str, ...]
    unreadable: tuple[Unreadable, ...] = ()


class LabelledBatch(NamedTuple):
    """Pictures and their class ids."""

    images: UInt8[Tensor, "batch channels height width"]
    targets: Int64[Tensor, " batch"]
    keys: tuple[str, ...]
    unreadable: tuple[Unreadable, ...] = ()


class SegmentedBatch(NamedTuple):
    """Pictures and the class id of each pixel; 255 is ignored."""

    images: UInt8[Tensor, "batch channels height width"]
    labels: UInt8[Tensor, "batch height width"]
    keys: tuple[str, ...]
    unreadable: tuple[Unreadable, ...] = ()


Batch = ImageBatch | MaskedBatch | LabelledBatch | SegmentedBatch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device."""
    values: list[Any] = [
        value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for value in batch
    ]
    return type(batch)(*values)
