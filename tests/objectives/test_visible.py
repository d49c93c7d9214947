"""What the backbone does not see has no part in it; the decoder predicts what is hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from beit.config import VisibleConfig
from beit.errors import ConfigError
from beit.models.heads import PretrainedBackbone
from beit.models.vit import VisionTransformer
from beit.objectives.visible import VisibleOnlyModel
from reference import TINY, assert_same, close, disturb, gradients

SEEING = replace(TINY, absolute_position=True, relative_position="none", mask_token=False)
LIGHT = VisibleConfig(decoder_width=24, decoder_depth=2, decoder_heads=3)
HIDDEN = 6


def built(outputs: int = 9) -> VisibleOnlyModel:
    model = VisibleOnlyModel(SEEING, outputs, LIGHT).eval()
    disturb(model)
    return model


def masks(hidden: int = HIDDEN) -> torch.Tensor:
    """As many of 16 patches in each of three images, others in each."""
    return torch.rand(3, 16).argsort(dim=1).argsort(dim=1) < hidden


def places(mask: torch.Tensor, pixels: bool = False) -> torch.Tensor:
    """The mask of the pixels."""
    return mask.reshape(3, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)


def test_with_every_patch_kept_nothing_changes():
    backbone, images = VisionTransformer(SEEING).eval(), torch.randn(2, 3, 64, 64)
    disturb(backbone)
    everything = torch.arange(16).expand(2, -1)
    whole, kept = (
        backbone(images, out_indices=(1,)),
        backbone(images, out_indices=(1,), keep_indices=everything),
    )
    assert torch.equal(kept.cls, whole.cls)
    assert torch.equal(kept.patches, whole.patches)
    assert torch.equal(kept.intermediates[0], whole.intermediates[0])


def test_kept_patches_come_in_the_order_asked_with_their_own_positions():
    backbone, images = VisionTransformer(SEEING).eval(), torch.randn(2, 3, 64, 64)
    disturb(backbone)
    kept = torch.tensor([[3, 0, 15, 8], [7, 9, 1, 2]])
    order = torch.tensor([2, 0, 3, 1])
    found, other = (
        backbone(images, keep_indices=kept),
        backbone(images, keep_indices=kept[:, order]),
    )
    close(other.cls, found.cls, 1e-5)
    close(other.patches, found.patches[:, order], 1e-5)
    chosen = backbone(
        images, keep_indices=kept, select=order.expand(2, -1)
    )  # counts among the kept
    close(chosen.patches, found.patches[:, order], 1e-5)


def test_kept_patches_equal_blocks_over_them_alone():
    backbone, images = VisionTransformer(SEEING).eval(), torch.randn(1, 3, 64, 64)
    disturb(backbone)
    x = backbone.patch_embed(images)[0, [2, 5, 11]] + backbone.pos_embed[0, [3, 6, 12]]
    x = torch.cat([backbone.cls_token[0] + backbone.pos_embed[0, :1], x])[None]
    for block in backbone.blocks:
        x = block(x, None, (4, 4))
    close(backbone(images, keep_indices=torch.tensor([[2, 5, 11]])).patches, x[:, 1:], 1e-5)


def test_hidden_pixels_reach_nothing():
    """Not even where they are no numbers."""
    model, images, mask = built(), torch.randn(3, 3, 64, 64), masks()
    expected = model(images, mask)
    assert expected.shape == (3 * HIDDEN, 9)
    ruined = torch.where(places(mask), torch.nan, images)
    assert torch.equal(model(ruined, mask), expected)
    seen = torch.where(places(mask), images, torch.randn_like(images))
    assert not torch.isclose(model(seen, mask), expected).any(dim=1).all()


def test_the_gradient_reaches_what_took_part_and_nothing_else():
    model, mask = built().train(), masks()[:1].expand(3, -1)
    images = torch.randn(3, 3, 64, 64, requires_grad=True)
    model(images, mask).square().sum().backward()
    assert images.grad is not None
    assert not images.grad[places(mask).expand(-1, 3, -1, -1)].any()
    reached = images.grad.unfold(2, 16, 16).unfold(3, 16, 16).abs().sum(dim=(1, 4, 5)).flatten(1)
    assert torch.equal(reached > 0, ~mask)
    found = gradients(model)
    assert all(gradient.any() for gradient in found.values())
    positions = found["backbone.pos_embed"][0, 1:].any(dim=1)
    assert torch.equal(positions, ~mask[0])
    assert found["decoder.pos_embed"][0].any(dim=1).all()


def test_predictions_equal_a_decoder_with_every_token_in_its_place():
    """As MAE writes it: put back into the grid, all computed, the masked ones taken out."""
    model, images, mask = built().double(), torch.randn(3, 3, 64, 64).double(), masks()
    decoder, rows = model.decoder, []
    for image, hidden in zip(images, mask, strict=True):
        kept = (~hidden).nonzero()[:, 0]
        seen = model.backbone(image[None], keep_indices=kept[None])
        x = decoder.mask_token[0].repeat(17, 1)
        x[1 + kept] = decoder.embed(model.norm(seen.patches[0]))
        x[0] = decoder.embed(model.norm(seen.cls[0]))
        x = x[None] + decoder.pos_embed
        for block in decoder.blocks:
            x = block(x, None, (4, 4))
        rows.append(decoder.head(decoder.norm(x[0, 1:][hidden])))
    close(model(images, mask), torch.cat(rows), 1e-12)


def test_the_backbone_computes_the_visible_patches_alone():
    model, seen = built(), []
    for block in (*model.backbone.blocks, *model.decoder.blocks):
        block.mlp.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[1]))
    model(torch.randn(3, 3, 64, 64), masks(12))
    assert seen == [5, 5, 5, 17, 12]  # the last block of the decoder: the hidden ones


def test_everything_hidden_or_nothing():
    model, images = built(), torch.randn(3, 3, 64, 64)
    assert model(images, masks(16)).shape == (48, 9)
    assert model(images, masks(0)).shape == (0, 9)


def test_the_backbone_is_what_is_left():
    model, images = built(), torch.randn(3, 3, 64, 64)
    bare = model.strip_decoder()
    assert isinstance(bare, PretrainedBackbone)
    assert_same(
        dict(bare.named_parameters()),
        {name: value for name, value in model.named_parameters() if "decoder" not in name},
        0,
    )
    assert torch.equal(bare(images), model.norm(model.backbone(images).patches))


def test_what_decays():
    model = built()
    decaying = {name for name, _ in model.named_parameters()} - model.without_decay()
    own = {name.removeprefix("decoder.") for name in decaying if name.startswith("decoder.")}
    blocks = {name for name in own if name.startswith("blocks.")}
    assert own - blocks == {"embed.weight", "mask_token", "head.weight"}
    assert len(blocks) == 4 * LIGHT.decoder_depth
    assert model.parameter_depth("decoder.embed.weight") == model.deepest == SEEING.depth + 1


def test_numbers_of_hidden_patches_that_differ():
    mask = masks()
    mask[1] = torch.arange(16) < 7
    with pytest.raises(ConfigError, match="6 to 7 patches are hidden") as caught:
        built()(torch.randn(3, 3, 64, 64), mask)
    assert "exact number" in caught.value.remedy


@pytest.mark.parametrize("position", ["shared", "per-block"])
def test_a_relative_bias_is_refused(position):
    backbone = VisionTransformer(replace(SEEING, relative_position=position))
    with pytest.raises(ConfigError, match="relative position bias") as caught:
        backbone(torch.randn(1, 3, 64, 64), keep_indices=torch.tensor([[0, 1]]))
    assert "absolute_position" in caught.value.remedy
