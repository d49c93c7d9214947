"""Selecting by a mask that was read before: the same rows, in the same order."""

from __future__ import annotations

import pytest
import torch

from beit.masked_patches import MaskedPatches, read_mask

EVEN = torch.rand(5, 12, generator=torch.Generator().manual_seed(0)).argsort(dim=1) < 4
UNEVEN = torch.rand(5, 12, generator=torch.Generator().manual_seed(0)) < 0.4
MASKS = {
    "even": EVEN,
    "uneven": UNEVEN,
    "none": torch.zeros(3, 4, dtype=torch.bool),
    "all": torch.ones(3, 4, dtype=torch.bool),
    "one image without": torch.cat([UNEVEN[:2], torch.zeros(1, 12, dtype=torch.bool)]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("values", [(), (3,), (2, 3)])
def test_it_selects_what_indexing_by_the_mask_selects(mask, values):
    every = torch.randn(*mask.shape, *values)
    masked = MaskedPatches.of(mask)
    assert torch.equal(masked.select(every), every[mask])
    assert (masked.real is None) == (masked.fewest == masked.most)
    counts = mask.sum(dim=1)
    assert (masked.fewest, masked.most) == (counts.min(), counts.max())
    assert torch.equal(masked.to(torch.device("cpu")).select(every), every[mask])


def test_a_mask_is_read_once():
    masked = read_mask(EVEN)
    assert read_mask(masked) is masked
    assert read_mask(None) is None
