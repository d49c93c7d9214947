"""From one backbone to the next: the published transfer, and what cannot be transferred."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from beit.config import VisionTransformerConfig
from beit.errors import CheckpointError
from beit.models.heads import Classifier
from beit.models.vit import VisionTransformer
from beit.weights.transfer import start_from
from miniature import BACKBONE
from reference import FINE, close, disturb, from_published

PRETRAINED = replace(FINE, size=(80, 80), depth=4, heads=6, absolute_position=True,
                     relative_position="shared", mask_token=True)  # fmt: skip
TUNED = replace(PRETRAINED, size=(112, 112), relative_position="per-block", mask_token=False)


def backbone_of(tensors):
    renamed = from_published(tensors)
    prefix = "backbone."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in renamed.items()
        if name.startswith(prefix)
    }


def test_published_transfer(golden):
    """Pre-trained at 80 pixels with a shared table, fine-tuned at 112 with one per block."""
    facts = golden("transfer_112")
    model = Classifier(TUNED, 9)
    tuned = from_published(facts["model"])
    head = {name: tensor for name, tensor in tuned.items() if not name.startswith("backbone.")}
    model.load_state_dict(head, strict=False)
    source = backbone_of(golden("transfer_source")["model"])
    before = {name: tensor.clone() for name, tensor in source.items()}
    transfer = start_from(model.backbone, source, PRETRAINED)
    close(model(facts["image"]), facts["logits"], 1e-4)
    close(model.embed(facts["image"]), facts["features"], 1e-4)
    assert transfer.left == ["mask_token"]
    assert transfer.changed == [
        "shared relative position bias copied into every block",
        "positions resized from (5, 5) to (7, 7) patches",
    ]
    assert source.keys() == before.keys()
    assert all(torch.equal(source[name], tensor) for name, tensor in before.items())


def test_a_mask_token_that_is_missing_stays_as_it_was_drawn():
    model = VisionTransformer(replace(TUNED, mask_token=True))
    drawn = model.mask_token.detach().clone()
    assert drawn.any()
    transfer = start_from(model, VisionTransformer(TUNED).state_dict(), TUNED)
    assert transfer.changed == ["a mask token of its own, as there was none"]
    assert torch.equal(model.mask_token, drawn)


def test_tables_of_the_blocks_are_their_own():
    model, source = VisionTransformer(TUNED), VisionTransformer(PRETRAINED)
    start_from(model, source.state_dict(), PRETRAINED)
    first, second = (model.blocks[index].attn.rel_pos_bias for index in (0, 1))
    with torch.no_grad():
        first.relative_position_bias_table.add_(1)
    assert not second.relative_position_bias_table.any()


def test_the_same_architecture_is_a_copy():
    source, model = VisionTransformer(BACKBONE), VisionTransformer(BACKBONE)
    disturb(source)
    assert start_from(model, source.state_dict(), BACKBONE) == ([], [])
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"depth": 3}, "depth is 3, and 2 in the weights"),
        ({"width": 12}, "width is 12, and 24 in the weights"),
        ({"heads": 6}, "heads is 6, and 2 in the weights"),
        ({"patch": 8}, "patch is 8, and 4 in the weights"),
        ({"layer_scale": None}, "layer_scale is absent, and present in the weights"),
        ({"absolute_position": False}, "absolute_position is False, and True in the weights"),
        ({"relative_position": "none"}, "relative_position is none, and shared in the weights"),
        ({"depth": 1, "hidden": 8}, "depth is 1, and 2 in the weights; hidden is 8, and 48"),
    ],
)
def test_other_architectures_are_refused(options, problem):
    config = VisionTransformerConfig(**(vars(BACKBONE) | options))
    with pytest.raises(CheckpointError, match=f"another architecture: {problem}") as caught:
        start_from(VisionTransformer(config), VisionTransformer(BACKBONE).state_dict(), BACKBONE)
    assert "leave these options out" in caught.value.remedy


def test_other_numbers_of_heads_are_refused_where_no_shape_tells_them():
    plain = replace(BACKBONE, relative_position="none")
    other = replace(plain, heads=4)
    assert {name: value.shape for name, value in VisionTransformer(plain).state_dict().items()} == {
        name: value.shape for name, value in VisionTransformer(other).state_dict().items()
    }
    with pytest.raises(CheckpointError, match="heads is 4, and 2 in the weights"):
        start_from(VisionTransformer(other), VisionTransformer(plain).state_dict(), plain)


def test_tables_of_blocks_are_not_joined_on_the_way():
    apart = replace(BACKBONE, relative_position="per-block")
    with pytest.raises(CheckpointError, match="per-block in the weights") as caught:
        start_from(VisionTransformer(BACKBONE), VisionTransformer(apart).state_dict(), apart)
    assert "beit convert --bias shared" in caught.value.remedy
