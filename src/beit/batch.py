"""What travels from a view to an objective: batches. Images are uint8; B is the micro-batch.

A view makes a batch of one image, `collate` puts those of a micro-batch together. `keys` names the
images, `unreadable` those that were left out, and `multi_frame` those whose files hold more than
one image, of which the first was taken.
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
    """An image that was left out of a batch, and why."""

    key: str
    reason: str


class ImageBatch(NamedTuple):
    """Images without labels; `jitter` is what `to_device` applies to them.

    Where views recur, `views` says which view of which image each is: (view, index), on the CPU.
    """

    images: UInt8[Tensor, "batch channels height width"]
    keys: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    jitter: Float[Tensor, "batch changes numbers"] | None = None
    views: Int64[Tensor, "batch 2"] | None = None
    multi_frame: tuple[str, ...] = ()


class MaskedBatch(NamedTuple):
    """Two views of one crop and a mask: what masked image modeling learns from.

    `jitter` is what `to_device` applies to both views. Where views recur, `views` says which view
    of which image each is: (view, index), on the CPU. `masked` is the mask as `to_device` read it.
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
    """Images and their class ids or, where each may have several labels, those labels."""

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
    """What batches say of images that were left out or are one of several, over all passes."""

    def __init__(self) -> None:
        self._unreadable: dict[str, Unreadable] = {}
        self._multi_frame: dict[str, None] = {}

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """Those that could not be read so far."""
        return tuple(self._unreadable.values())

    @property
    def multi_frame(self) -> tuple[str, ...]:
        """Those that are the first of several in their file."""
        return tuple(self._multi_frame)

    def add(self, batch: Batch) -> None:
        """Gather what a batch says."""
        self._unreadable.update((found.key, found) for found in batch.unreadable)
        self._multi_frame.update(dict.fromkeys(batch.multi_frame))

    def of_all(self, gather: Callable[[SkipLog], list[SkipLog]]) -> SkipLog:
        """Of every process that reads a part of the images, in the order of the parts."""
        found = SkipLog()
        for log in gather(self):
            found._unreadable |= log._unreadable
            found._multi_frame |= log._multi_frame
        return found


def collate(samples: Sequence[Batch | Unreadable]) -> Batch | list[Unreadable]:
    """One batch of batches of the same kind, in their order; without any, what was unreadable."""
    unreadable = [sample for sample in samples if isinstance(sample, Unreadable)]
    batches = [sample for sample in samples if not isinstance(sample, Unreadable)]
    if not batches:
        return unreadable
    tensors: dict[int, Tensor] = {}  # one that serves twice stays one
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
    """The batch with the function's result for each tensor; one that serves twice stays one."""
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
    """The batch in parts of `size` images, in order, the last one perhaps smaller. What could not
    be read is listed in the first part."""
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
    """The batch with its tensors on the device, and with the jitter that was left to do there."""
    moved = map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=device.type != "mps"))
    if not isinstance(moved, ImageBatch | MaskedBatch):
        return moved
    assert isinstance(batch, ImageBatch | MaskedBatch)
    moved = moved._replace(views=batch.views)  # to be read without waiting for the device
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
