"""Views that come again: the first round is as without them, then crops return and masks do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from beit.batch import MaskedBatch, to_device
from beit.config.data import LoaderConfig, ViewConfig
from beit.config.masking import BlockMasking
from beit.data.dataset import open_source
from beit.data.loader import Loader, View
from beit.data.sources import ImageSource
from beit.data.transforms import CachedViews, MaskedViews
from beit.masking import build_sampler

IMAGES = 6


@pytest.fixture
def source(draw: Callable[..., Path]) -> ImageSource:
    return open_source(str(draw(*(f"{number}.png" for number in range(IMAGES)))))


def masked_views(pipeline: str) -> MaskedViews:
    return MaskedViews(
        config=ViewConfig(pipeline=pipeline),
        size=(16, 16),
        token_size=(8, 8),
        sampler=build_sampler(BlockMasking(), (8, 8)),
    )


def epochs(source: ImageSource, view: View, number: int, workers: int = 0) -> list[MaskedBatch]:
    """Each epoch as one batch, its images by their index."""
    loader = Loader(
        source, view, channels=3, batch=IMAGES, micro_batch=IMAGES, seed=3,
        config=LoaderConfig(workers=workers),
    )  # fmt: skip
    found = []
    for batch in loader.batches(0, number):
        assert isinstance(batch, MaskedBatch)
        order = sorted(range(IMAGES), key=lambda place: batch.keys[place])
        columns = {
            name: value[order]
            for name, value in batch._asdict().items()
            if isinstance(value, torch.Tensor)
        }
        found.append(batch._replace(**columns, keys=tuple(sorted(batch.keys))))
    return found


@pytest.mark.parametrize("pipeline", ["parity", "fast"])
def test_views_return_and_masks_are_new(source: ImageSource, pipeline: str) -> None:
    plain = masked_views(pipeline)
    fresh = epochs(source, plain, 6)
    found = epochs(source, CachedViews(views=plain, number=2), 6, workers=1)
    for epoch, batch in enumerate(found):
        view = epoch % 2
        assert batch.keys == fresh[epoch].keys
        assert torch.equal(batch.images, fresh[view].images)
        assert torch.equal(batch.token_images, fresh[view].token_images)
        assert (batch.jitter is None) == (pipeline == "parity")
        assert batch.jitter is None or torch.equal(batch.jitter, fresh[view].jitter)
        assert batch.views.tolist() == [[view, index] for index in range(IMAGES)]
        if epoch < 2:
            assert torch.equal(batch.mask, fresh[epoch].mask)
    masks = {batch.mask[place].numpy().tobytes() for batch in found for place in range(IMAGES)}
    assert len(masks) == 6 * IMAGES
    assert fresh[0].views is None


def test_where_a_view_is_kept_is_told_on_the_cpu(source: ImageSource) -> None:
    (batch,) = epochs(source, CachedViews(views=masked_views("fast"), number=1), 1)
    moved = to_device(batch, torch.device("meta"))
    assert moved.images.device.type == "meta"
    assert moved.views is batch.views
