"""Batches, which travel from a view to an objective. Images are uint8; B is the micro-batch.

A view makes a batch of one image, and `collate` joins those of a micro-batch. `keys` names the
images, `unreadable` lists those that were skipped, and `multi_frame` names those whose files hold
several images, of which the first is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from beit.jitter import changed_batch
from beit.masked_patches import MaskedPatches


class Unreadable(NamedTuple):
    """An image that was skipped, and why."""

    key: str
    reason: str


class ImageBatch(NamedTuple):
    """Images without labels.

    `jitter` holds the colour changes that `to_device` applies. Where views recur, `views` says
    which view of which image each one is: (view, index), on the CPU.
    """

    images: UInt8[Tensor, "batch channels height width"]
    keys: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    jitter: Float[Tensor, "batch changes numbers"] | None = None
    views: Int64[Tensor, "batch 2"] | None = None
    multi_frame: tuple[str, ...] = ()


class MaskedBatch(NamedTuple):
    """Two views of one crop and a mask: what masked image modeling learns from.

    `jitter` holds the colour changes that `to_device` applies to both views. Where views recur,
    `views` says which view of which image each one is: (view, index), on the CPU. `masked` is what
    `to_device` read from the mask.
    """

    images: UInt8[Tensor, "batch channels height width"]
    token_images: UInt8[Tensor, "batch channels token_height token_width"]
    mask: Bool[Tensor, "batch patches"]
    keys: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    jitter: Float[Tensor, "batch changes numbers"] | None = None
    views: Int64[Tensor, "batch 2"] | None = None
    multi_frame: tuple[str, ...] = ()
    masked: MaskedPatches | None = None


class LabelledBatch(NamedTuple):
    """Images with one class id each or, where an image may have several labels, a flag per
    class."""

    images: UInt8[Tensor, "batch channels height width"]
    targets: Int64[Tensor, " batch"] | Bool[Tensor, "batch classes"]
    keys: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    multi_frame: tuple[str, ...] = ()


class SegmentedBatch(NamedTuple):
    """Images and the class id of each pixel; 255 is ignored."""

    images: UInt8[Tensor, "batch channels height width"]
    labels: UInt8[Tensor, "batch height width"]
    keys: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    multi_frame: tuple[str, ...] = ()


Batch = ImageBatch | MaskedBatch | LabelledBatch | SegmentedBatch


class SkipLog:
    """The images that were skipped, or are the first of several in their file, over all passes."""

    def __init__(self) -> None:
        self._unreadable: dict[str, Unreadable] = {}
        self._multi_frame: dict[str, None] = {}

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """The images that could not be read so far."""
        return tuple(self._unreadable.values())

    @property
    def multi_frame(self) -> tuple[str, ...]:
        """Keys of the images that are the first of several in their file."""
        return tuple(self._multi_frame)

    def add(self, batch: Batch) -> None:
        """Note the images that a batch reports."""
        self._unreadable.update((found.key, found) for found in batch.unreadable)
        self._multi_frame.update(dict.fromkeys(batch.multi_frame))

    def of_all(self, gather: Callable[[SkipLog], list[SkipLog]]) -> SkipLog:
        """One log for all processes, each of which reads a part of the images, in the order of the
        parts."""
        found = SkipLog()
        for log in gather(self):
            found._unreadable |= log._unreadable
            found._multi_frame |= log._multi_frame
        return found


def collate(samples: Sequence[Batch | Unreadable]) -> Batch | list[Unreadable]:
    """Join batches of one kind in their order; if no image could be read, return why instead."""
    unreadable = [sample for sample in samples if isinstance(sample, Unreadable)]
    batches = [sample for sample in samples if not isinstance(sample, Unreadable)]
    if not batches:
        return unreadable
    tensors: dict[int, Tensor] = {}  # a tensor shared by two fields stays shared
    values: list[Any] = []
    for column in zip(*batches, strict=True):
        first = column[0]
        if isinstance(first, Tensor):
            if id(first) not in tensors:
                joined = first.new_empty((sum(map(len, column)), *first.shape[1:]))
                tensors[id(first)] = torch.cat(column, out=joined)  # contiguous, as views are not
            values.append(tensors[id(first)])
        else:
            values.append(None if first is None else tuple(chain.from_iterable(column)))
    return type(batches[0])(*values)._replace(unreadable=tuple(unreadable))


def map_tensors(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Apply a function to every tensor of a batch; a tensor shared by two fields stays shared."""
    results: dict[int, Tensor] = {}
    values: list[Any] = []
    for value in batch:
        if isinstance(value, Tensor):
            if id(value) not in results:
                results[id(value)] = function(value)
            values.append(results[id(value)])
        else:
            values.append(value)
    return type(batch)(*values)


def divide(batch: Batch, size: int) -> Iterator[Batch]:
    """Split a batch into parts of `size` images, in order; the last one may be smaller. Images that
    could not be read are listed in the first part only."""
    if len(batch.keys) <= size:
        yield batch
        return
    for start in range(0, len(batch.keys), size):
        part = {
            name: value[start : start + size]
            if name == "keys" or isinstance(value, Tensor)
            else value
            for name, value in batch._asdict().items()
        }
        yield type(batch)(**part | {"unreadable": batch.unreadable if start == 0 else ()})


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch to the device, and apply the colour jitter there."""
    moved = map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=device.type != "mps"))
    if not isinstance(moved, ImageBatch | MaskedBatch):
        return moved
    assert isinstance(batch, ImageBatch | MaskedBatch)
    moved = moved._replace(views=batch.views)  # read without waiting for the device
    if isinstance(batch, MaskedBatch) and isinstance(moved, MaskedBatch):
        masked = MaskedPatches.of(batch.mask).to(device)
        moved = moved._replace(mask=masked.mask, masked=masked)
    if moved.jitter is None:
        return moved
    jitter, images = moved.jitter, changed_batch(moved.images, moved.jitter)
    if isinstance(moved, ImageBatch):
        return moved._replace(images=images, jitter=None)
    shared = moved.token_images is moved.images
    token_images = images if shared else changed_batch(moved.token_images, jitter)
    return moved._replace(images=images, token_images=token_images, jitter=None)
