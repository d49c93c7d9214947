"""Samples to batches: readable ones are stacked, the others listed and never replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from beit.batch import (
    Batch,
    ImageBatch,
    LabelledBatch,
    MaskedBatch,
    SegmentedBatch,
    Unreadable,
    map_tensors,
)
from beit.data.transforms import (
    ImageSample,
    LabelledSample,
    MaskedSample,
    Sample,
    SegmentedSample,
)


class SampleResult(NamedTuple):
    """An image's key with its sample, or with the reason why there is none."""

    key: str
    sample: Sample | None
    reason: str = ""
    several: bool = False
    """Whether it is the first of several in its file."""


class WorkerBatch:
    """What a worker hands over: a batch, or None if no image of it could be read.

    Not a tuple, so that DataLoader pins it by calling `pin_memory` and leaves its insides alone.
    """

    def __init__(self, batch: Batch | None, unreadable: tuple[Unreadable, ...]) -> None:
        self.batch = batch
        self.unreadable = unreadable

    def pin_memory(self) -> WorkerBatch:
        """The same with its tensors in page-locked memory."""
        batch = self.batch
        pinned = None if batch is None else map_tensors(batch, lambda tensor: tensor.pin_memory())
        return WorkerBatch(pinned, self.unreadable)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Contiguous, whatever the strides of the views are."""
    first = tensors[0]
    target = torch.empty((len(tensors), *first.shape), dtype=first.dtype)
    return torch.stack(list(tensors), out=target)


def _jitter(samples: Sequence[ImageSample | MaskedSample]) -> Tensor | None:
    changes = [sample.jitter for sample in samples if sample.jitter is not None]
    return _stack(changes) if changes else None


def _views(samples: Sequence[ImageSample | MaskedSample]) -> Tensor | None:
    places = [sample.view for sample in samples if sample.view is not None]
    return torch.tensor(places) if places else None


def _batch(
    samples: list[Sample], keys: tuple[str, ...], unreadable: tuple[Unreadable, ...]
) -> Batch:
    images = _stack([sample.image for sample in samples])
    first = samples[0]
    if isinstance(first, ImageSample):
        single = [sample for sample in samples if isinstance(sample, ImageSample)]
        return ImageBatch(images, keys, unreadable, _jitter(single), _views(single))
    if isinstance(first, LabelledSample):
        labelled = [sample for sample in samples if isinstance(sample, LabelledSample)]
        targets = torch.stack([torch.as_tensor(sample.target) for sample in labelled])
        return LabelledBatch(images, targets, keys, unreadable)
    if isinstance(first, SegmentedSample):
        segmented = [sample for sample in samples if isinstance(sample, SegmentedSample)]
        return SegmentedBatch(images, _stack([one.labels for one in segmented]), keys, unreadable)
    masked = [sample for sample in samples if isinstance(sample, MaskedSample)]
    token_views = [sample.token_image for sample in masked if sample.token_image is not None]
    token_images = _stack(token_views) if token_views else images
    mask = _stack([sample.mask for sample in masked])
    return MaskedBatch(
        images, token_images, mask, keys, unreadable, _jitter(masked), _views(masked)
    )


def collate(outcomes: list[SampleResult]) -> WorkerBatch:
    """One micro-batch in the order of its samples, uint8 [B,C,H,W] and what belongs to it."""
    read = [(outcome.key, outcome.sample) for outcome in outcomes if outcome.sample is not None]
    unreadable = tuple(
        Unreadable(outcome.key, outcome.reason) for outcome in outcomes if outcome.sample is None
    )
    if not read:
        return WorkerBatch(None, unreadable)
    keys, samples = tuple(key for key, _ in read), [sample for _, sample in read]
    several = tuple(outcome.key for outcome in outcomes if outcome.several)
    return WorkerBatch(_batch(samples, keys, unreadable)._replace(several=several), unreadable)
