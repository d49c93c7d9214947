"""The trainable tokenizer, and with it the contract of every visual tokenizer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from beit.config import DiscreteVAEConfig
from beit.errors import ConfigError
from beit.rng import SampleRNG
from beit.tokenizers import build_tokenizer
from beit.tokenizers.dvae import DiscreteVAE, prime_factors

CHANCE = SampleRNG(0, 0, 0)


def small(**options) -> DiscreteVAE:
    values = {"size": (16, 16), "codes": 12, "width": 16, "narrowest": 8, "codebook_width": 6}
    return build_tokenizer(DiscreteVAEConfig(**(values | options)))


def draw_images(number=2, channels=3, height=16, width=16):
    return torch.randint(256, (number, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("stride", "size"),
    [
        (4, (8, 20)),
        (8, (16, 24)),
        (12, (12, 36)),
        (14, (28, 28)),
        (16, (48, 32)),
        (7, (21, 7)),
        (32, (32, 64)),
    ],
)
@pytest.mark.parametrize("likelihood", ["l2", "logit-laplace"])
def test_grid_codes_and_images(stride, size, likelihood):
    tokenizer = small(stride=stride, size=size, channels=2, likelihood=likelihood)
    height, width = size[0] // stride, size[1] // stride
    assert tokenizer.grid == (height, width)
    tokens = tokenizer.encode(draw_images(3, 2, *size))
    assert tokens.shape == (3, height * width)
    assert tokens.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < tokenizer.codes
    painted = tokenizer.decode(tokens)
    assert painted.shape == (3, 2, *size)
    assert 0 <= painted.min() <= painted.max() <= 1
    logits, output = tokenizer(tokenizer.pixels(draw_images(3, 2, *size)), 1.0, CHANCE)
    assert logits.shape == (3, 12, height, width)
    assert output.shape == (3, 4 if likelihood == "logit-laplace" else 2, *size)


def test_strides_are_prime_factors_largest_first():
    assert [prime_factors(stride) for stride in (2, 8, 12, 14, 7)] == [
        [2],
        [2, 2, 2],
        [3, 2, 2],
        [7, 2],
        [7],
    ]


def test_encode_is_deterministic_and_has_no_gradient():
    tokenizer, images = small(), draw_images()
    tokens = tokenizer.encode(images)
    assert torch.equal(tokenizer.encode(images), tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tokenizer.encode(images), tokens)
        assert tokenizer.decode(tokens).dtype == torch.float32
    assert not tokenizer.decode(tokens).requires_grad


def test_bytes_and_floats_agree():
    tokenizer, images = small(), draw_images()
    assert torch.equal(tokenizer.encode(images), tokenizer.encode(images / 255))


def test_tokens_are_in_row_major_order():
    tokenizer = small(size=(16, 32))
    images = draw_images(1, width=32)
    scores = tokenizer.to_codes(tokenizer.encoder(2 * images / 255 - 1))
    assert torch.equal(tokenizer.encode(images)[0], scores[0].argmax(dim=0).reshape(-1))


def test_another_size_needs_its_grid():
    tokenizer = small()
    tokens = tokenizer.encode(draw_images(height=8, width=24))
    assert tokenizer.decode(tokens, grid=(1, 3)).shape == (2, 3, 8, 24)
    with pytest.raises(ConfigError, match="3 tokens do not fill a grid of 2 x 2"):
        tokenizer.decode(tokens)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((1, 4, 16, 16), "4 channels, the tokenizer reads 3"),
        ((1, 3, 16, 20), "16 x 20 .* stride 8"),
    ],
)
def test_unfitting_images(shape, problem):
    with pytest.raises(ConfigError, match=problem):
        small().encode(torch.zeros(shape))


def test_freezing_survives_the_parent():
    tokenizer = small().freeze()
    parent = nn.Sequential(tokenizer, nn.Linear(2, 2)).train()
    assert parent[1].training
    assert not any(module.training for module in tokenizer.modules())
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_not_frozen_follows_the_parent():
    tokenizer = small()
    parent = nn.Sequential(tokenizer).eval()
    assert not tokenizer.training
    parent.train()
    assert tokenizer.encoder.training


def test_digest_identifies_the_weights():
    first, second = small(), small()
    assert first.digest() != second.digest()
    second.load_state_dict(first.state_dict())
    assert first.digest() == second.digest()
    with torch.no_grad():
        second.decoder[0].bias[0] += 1e-3
    assert first.digest() != second.digest()


def test_usage_follows_the_codes():
    tokenizer = small(codes=4)
    assert tokenizer.usage.tolist() == [0.25] * 4
    logits = F.one_hot(torch.tensor([[[0, 0], [0, 2]]]), 4).permute(0, 3, 1, 2).float()
    tokenizer.observe(logits)
    tokenizer.update_usage(decay=0.5)
    assert tokenizer.usage.tolist() == pytest.approx([0.5, 0.125, 0.25, 0.125])


def test_revived_codes_come_into_use():
    tokenizer, images = small(), draw_images(16)

    def scores():
        return tokenizer.to_codes(tokenizer.encoder(tokenizer.target(images / 255)))

    with torch.no_grad():
        tokenizer.to_codes.bias -= scores().mean(dim=(0, 2, 3))
        tokenizer.to_codes.bias[5:] = -100

    def used():
        tokenizer.observe(scores())
        tokenizer.update_usage(decay=0.0)
        return set(tokenizer.encode(images).unique().tolist())

    before = used()
    assert 1 < len(before) <= 5
    revived = tokenizer.revive(torch.Generator().manual_seed(0))
    assert revived == len(before)  # not more than there are living ones to copy
    assert float(tokenizer.usage.sum()) == pytest.approx(1, abs=0.01)
    assert len(used()) > len(before)


def test_revival_halves_the_share_of_the_busiest():
    tokenizer = small(codes=4)
    tokenizer.usage.copy_(torch.tensor([0.3, 0.0, 0.6, 0.1]))
    weight = tokenizer.to_codes.weight.clone()
    assert tokenizer.revive(torch.Generator().manual_seed(0)) == 1
    assert tokenizer.usage.tolist() == pytest.approx([0.3, 0.3, 0.3, 0.1])
    moved = (tokenizer.to_codes.weight != weight).flatten(1).any(dim=1)
    assert moved.tolist() == [False, True, False, False]
    near = F.cosine_similarity(tokenizer.codebook[1], tokenizer.codebook[2], dim=0)
    assert near > 0.9


def test_nothing_to_revive():
    tokenizer = small()
    weights = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    assert tokenizer.revive(torch.Generator()) == 0
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, weights[name])


def test_every_parameter_learns():
    tokenizer = small()
    tokenizer(torch.rand(4, 3, 16, 16), 1.0, CHANCE).output.square().sum().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_training_reduces_the_loss():
    tokenizer = small(width=32, codes=16)
    colours = torch.rand(8, 3, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=5e-3)
    losses = []
    for step in range(60):
        loss = F.mse_loss(
            tokenizer(colours, 0.5, SampleRNG(0, step, 0)).output, tokenizer.target(colours)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert len(tokenizer.encode(colours).unique()) > 1
