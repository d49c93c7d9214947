"""What every tokenizer promises: tokens at masked places only, and precision on request."""

from __future__ import annotations

import pytest
import torch

import beit.tokenizers.base
from beit.config import (
    DalleConfig,
    DiscreteVAEConfig,
    PatchCodebookConfig,
    RandomProjectionConfig,
    VQConfig,
    VQKDConfig,
)
from beit.errors import ConfigError
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import encoding_precision
from miniature import spread_codes

CONFIGS = {
    "dalle": DalleConfig(size=(32, 32), codes=64, hidden=16, decoder_input=4),
    "dvae": DiscreteVAEConfig(size=(32, 32), codes=64, width=32, codebook_width=6),
    "vqkd": VQKDConfig(
        size=(32, 32), patch=8, width=24, depth=2, decoder_depth=1, heads=2, hidden=48, codes=64,
        codebook_width=6, teacher_width=10,
    ),
    "vq": VQConfig(
        size=(32, 32), patch=8, width=24, depth=2, decoder_depth=1, heads=2, hidden=48, codes=64,
        codebook_width=6,
    ),
    "random": RandomProjectionConfig(size=(32, 32), patch=8, codes=64),
    "kmeans": PatchCodebookConfig(size=(32, 32), patch=8, codes=64),
}  # fmt: skip


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=CONFIGS)
def tokenizer(request, images):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(CONFIGS[request.param]).freeze()
    if request.param == "dalle":
        spread_codes(tokenizer, tokenizer.encoder.score.bias, images)
    elif request.param == "dvae":
        spread_codes(tokenizer, tokenizer.to_codes.bias, images)
    return tokenizer


def test_masked_places_only(tokenizer, images, monkeypatch):
    tokens = tokenizer.encode(images)
    assert len(tokens.unique()) > 4
    mask = torch.rand(6, 16) < 0.4
    mask[2] = False  # images may hide different numbers of patches
    rows, best = [], tokenizer._best
    monkeypatch.setattr(tokenizer, "_best", lambda v: (rows.append(len(v)), best(v))[1])
    assert torch.equal(tokenizer.encode(images, mask), tokens[mask])
    assert rows == [int(mask.sum())]
    assert tokenizer.encode(images, torch.zeros_like(mask)).shape == (0,)


@pytest.mark.parametrize("name", CONFIGS)
def test_freezing_changes_no_weight(name):
    tokenizer = build_tokenizer(CONFIGS[name])
    digest = tokenizer.digest()
    assert tokenizer.freeze().digest() == digest


def test_half_precision_is_a_copy_that_nearly_agrees(tokenizer, images):
    digest, tokens = tokenizer.digest(), tokenizer.encode(images)
    half = tokenizer.in_precision(torch.bfloat16)
    assert half.frozen
    assert not any(parameter.requires_grad for parameter in half.parameters())
    made = {value.dtype for module in half._trunk() for value in module.parameters()}
    learned = bool(list(half._trunk()))  # k-means compares what nothing has learned
    assert made == ({torch.bfloat16} if learned else set())
    others = half.encode(images)
    scores = half._scores(half._vectors(images).flatten(0, 1).float())
    assert scores.dtype == torch.float32
    assert torch.equal(others, scores.argmax(dim=1).reshape(others.shape))
    assert others.dtype == torch.int64
    assert (others == tokens).float().mean() > 0.8
    assert (half._vectors(images).float() != tokenizer._vectors(images)).any() == learned
    assert tokenizer.digest() == digest
    assert torch.equal(tokenizer.encode(images), tokens)


def test_float32_as_a_precision_changes_nothing(tokenizer, images):
    same = tokenizer.in_precision(torch.float32)
    assert same.digest() == tokenizer.digest()
    assert torch.equal(same.encode(images), tokenizer.encode(images))


@pytest.mark.parametrize(
    ("asked", "device", "fast", "given"),
    [
        ("auto", "cuda", True, torch.float16),
        ("auto", "cpu", True, torch.bfloat16),
        ("auto", "cpu", False, torch.float32),
        ("bf16", "cpu", False, torch.bfloat16),
        ("fp32", "cuda", True, torch.float32),
        ("fp16", "cuda", True, torch.float16),
    ],
)
def test_precision_by_hardware(monkeypatch, asked, device, fast, given):
    monkeypatch.setattr(beit.tokenizers.base, "multiplies_bfloat16", lambda device: fast)
    assert encoding_precision(asked, torch.device(device)) == given


def test_fp16_needs_a_gpu():
    with pytest.raises(ConfigError, match="fp16 only on a GPU"):
        encoding_precision("fp16", torch.device("cpu"))
