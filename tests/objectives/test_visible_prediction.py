"""Visible-only prediction: the targets of masked image modeling, another way to them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.config import MaskedConfig, VisibleConfig
from beit.config.model import VisionTransformerConfig
from beit.errors import ConfigError
from beit.models.heads import PretrainedBackbone
from beit.objectives.targets import patchify
from beit.objectives.visible import VisibleOnlyModel, VisibleOnlyPrediction
from beit.tokenizers import build_tokenizer
from miniature import BACKBONE, VAE, masked_batch, split
from reference import close

SEEING: VisionTransformerConfig = replace(BACKBONE, relative_position="none", mask_token=False)
LIGHT = VisibleConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)


def visible(config: VisibleConfig = LIGHT) -> VisibleOnlyPrediction:
    tokens = config.target == "tokens"
    model = VisibleOnlyModel(SEEING, VAE.codes if tokens else 48, config)
    return VisibleOnlyPrediction(model, config, build_tokenizer(VAE) if tokens else None)


def test_the_loss_is_of_the_tokens_of_hidden_patches():
    objective, batch = visible(), masked_batch(0)
    total, terms = objective(batch, 0.0)
    tokens = objective.tokenizer.encode(batch.token_images)[batch.mask]
    logits = objective.model(batch.images, batch.mask)
    close(total, F.cross_entropy(logits, tokens), 1e-6)
    close(terms["accuracy"], (logits.argmax(dim=1) == tokens).float().mean(), 1e-6)
    assert float(total.detach()) == pytest.approx(math.log(VAE.codes), abs=0.05)
    assert objective.expectations() == {"chance_loss": math.log(VAE.codes)}


def test_the_loss_is_of_the_pixels_of_hidden_patches():
    objective, batch = visible(replace(LIGHT, target="pixels")), masked_batch(0)
    pixels = patchify(objective.model.backbone.normalise(batch.images), 4)[batch.mask]
    expected = F.mse_loss(objective.model(batch.images, batch.mask), pixels)
    close(objective(batch, 0.0).total, expected, 1e-6)


def test_pixels_may_be_normalised_patch_by_patch():
    objective = visible(replace(LIGHT, target="pixels", normalise_patches=True))
    batch = masked_batch(0)
    pixels = objective.pixels(batch)
    close(pixels.mean(dim=2), torch.zeros(pixels.shape[:2]), 1e-4)
    close(pixels.var(dim=2), torch.ones(pixels.shape[:2]), 1e-3)
    expected = F.mse_loss(objective.model(batch.images, batch.mask), pixels[batch.mask])
    close(objective(batch, 0.0).total, expected, 1e-6)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(MaskedConfig, {"pixel_loss": "absolute"}), (VisibleConfig, {"normalise_patches": True})],
)
def test_options_of_pixels_need_pixels(kind, options):
    with pytest.raises(ConfigError, match="--target pixels"):
        kind(**options)
    kind(target="pixels", **options)


def test_halves_of_a_batch_average_to_the_whole():
    objective, batch = visible(), masked_batch(0)
    halves = [objective(half, 0.0).total for half in split(batch, 4)]
    close(torch.stack(halves).mean(), objective(batch, 0.0).total, 1e-6)


def test_the_decoder_is_not_published():
    objective = visible()
    published = objective.publish(objective.model)
    assert type(published) is PretrainedBackbone
    assert not any("decoder" in name for name, _ in published.named_parameters())


def test_it_learns(unchecked):
    """Which token is frequent, and more: the loss falls below the entropy of the tokens."""
    objective = visible(replace(LIGHT, decoder_width=32))
    optimizer = torch.optim.AdamW(objective.model.parameters(), lr=3e-3)
    batch = masked_batch(0)
    for _ in range(100):
        loss = objective(batch, 0.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.terms["loss"] < 0.5 * loss.terms["token_entropy"]
