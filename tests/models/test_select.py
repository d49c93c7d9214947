"""Only what is read is computed, and nothing else changes: values, gradients, random numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.config import AggregationConfig
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.vit import VisionTransformer
from reference import FINE, TINY, assert_same, close, disturb, gradients

COUNTS = {"equal": (6, 6, 6), "unequal": (6, 0, 11), "all": (16, 16, 16), "one": (0, 0, 1)}


def hiding(counts) -> torch.Tensor:
    """A mask with these numbers of hidden patches."""
    ranks = torch.rand(len(counts), 16).argsort(dim=1).argsort(dim=1)
    return ranks < torch.tensor(counts)[:, None]


def loss_and_gradients(model, rows):
    """`rows` gives predictions of the masked patches."""
    model.zero_grad()
    torch.manual_seed(3)  # the draws of drop path
    targets = torch.randint(9, (1000,), generator=torch.Generator().manual_seed(1))
    losses = [F.cross_entropy(row, targets[: len(row)]) for row in rows()]
    sum(losses).backward()
    return losses, gradients(model)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("relative", ["shared", "per-block"])
@pytest.mark.parametrize("tap", [None, 2, 3])
def test_the_loss_and_its_gradient_stay(counts, relative, tap):
    """Against all positions computed and then chosen from; tap 3 is the last block."""
    config = replace(TINY, relative_position=relative, drop_path=0.4)
    extra = None if tap is None else AggregationConfig(early_layer=tap)
    model = MaskedImageModel(config, 9, extra).double().train()
    disturb(model)
    images, mask = torch.randn(3, 3, 64, 64, dtype=torch.float64), hiding(counts)
    chosen = mask.flatten()
    losses, found = loss_and_gradients(model, lambda: model.predictions(images, mask))
    expected, wanted = loss_and_gradients(
        model, lambda: [rows[chosen] for rows in model.predictions(images, mask, True)]
    )
    for one, other in zip(losses, expected, strict=True):
        close(one, other, 1e-13)
    assert_same(found, wanted, 1e-13)


def test_the_last_block_computes_no_more():
    model = MaskedImageModel(TINY, 9)
    rows = []
    for block in model.backbone.blocks:
        block.mlp.register_forward_hook(lambda _, inputs, out: rows.append(out.shape[1]))
    model(torch.randn(3, 3, 64, 64), hiding((6, 6, 6)))
    assert rows == [17, 17, 7]  # the class token and six patches
    model(torch.randn(3, 3, 64, 64))
    assert rows[3:] == [17, 17, 17]


def test_chosen_patches_come_in_the_order_asked():
    backbone = VisionTransformer(TINY).eval()
    disturb(backbone)
    images, wanted = torch.randn(2, 3, 64, 64), torch.tensor([[3, 0, 15], [7, 7, 1]])
    every = backbone(images, out_indices=(0, 2))
    for taps in ((), (1,), (2, 0)):
        found = backbone(images, out_indices=taps, select=wanted)
        close(found.patches, every.patches[torch.arange(2)[:, None], wanted], 1e-6)
        close(found.cls, every.cls, 1e-6)
    assert torch.equal(found.intermediates[0], every.intermediates[1])  # taps stay whole
    assert torch.equal(found.intermediates[1], every.intermediates[0])


def test_no_patch_is_wanted():
    model = Classifier(FINE, 4)
    images = torch.randn(2, 3, 64, 64)
    found = model.backbone(images, select=torch.empty(2, 0, dtype=torch.int64))
    assert found.patches.shape == (2, 0, 48)
    close(found.cls, model.backbone(images).cls, 1e-6)
    assert MaskedImageModel(TINY, 9)(images, hiding((0, 0))).shape == (0, 9)
