"""Random tokens: the formula restated, the same from the same seed, kept in the artifact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from beit.config import RandomProjectionConfig
from beit.errors import ConfigError
from beit.tokenizers import build_tokenizer
from beit.weights.store import Details, load_artifact, save_artifact
from miniature import draw_images

CONFIG = RandomProjectionConfig(size=(16, 16), patch=4, codes=20, codebook_width=5)


def test_the_nearest_code_by_angle():
    tokenizer = build_tokenizer(CONFIG)
    images = draw_images() / 255
    tokens = tokenizer.encode(images)
    patch = 2 * images[3, :, 4:8, 8:12] - 1  # second row, third column
    vector = tokenizer.projection.weight @ patch.flatten()
    cosines = [float(vector @ code / vector.norm()) for code in tokenizer.codebook]
    assert int(tokens[3, 4 + 2]) == max(range(20), key=cosines.__getitem__)
    torch.testing.assert_close(tokenizer.codebook.norm(dim=1), torch.ones(20))
    limit = (6 / (5 + 48)) ** 0.5  # Xavier's
    assert 0.9 * limit < float(tokenizer.projection.weight.abs().max()) <= limit


def test_the_seed_decides_and_nothing_else():
    first, again, other = (
        build_tokenizer(replace(CONFIG, seed=seed)).digest() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_statistics_of_the_images():
    images = torch.full((1, 3, 16, 16), 0.25)
    grey = build_tokenizer(replace(CONFIG, mean=(0.25, 0.25, 0.25), std=(0.1, 0.2, 0.3)))
    assert not grey._vectors(images).any()


def test_it_is_kept_and_paints_nothing(tmp_path):
    tokenizer = build_tokenizer(CONFIG)
    kept = load_artifact(save_artifact(tmp_path / "random", tokenizer, Details())).model
    images = draw_images()
    assert torch.equal(kept.encode(images), tokenizer.encode(images))
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
    with pytest.raises(ConfigError, match="cannot be painted"):
        kept.decode(kept.encode(images))


def test_statistics_must_suit_the_channels():
    with pytest.raises(ConfigError, match="do not suit"):
        RandomProjectionConfig(channels=1)
    with pytest.raises(ConfigError, match=r"std is \(0.0, 1.0, 1.0\): entry 0 is 0.0"):
        RandomProjectionConfig(std=(0.0, 1.0, 1.0))
