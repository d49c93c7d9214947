"""The frozen DALL-E tokenizer computes what OpenAI's code computes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from beit.config import DalleConfig
from beit.tokenizers import build_tokenizer
from beit.tokenizers.dalle import DalleTokenizer, from_logit_laplace, to_logit_laplace
from beit.weights.keymap import from_dalle
from beit.weights.read import read_contents
from miniature import spread_codes

PICKLES = Path(__file__).parent.parent / "golden"


def unpickled(part: str):
    """The tensors of a pickled module under our names."""
    return from_dalle(read_contents(PICKLES / f"dalle_{part}.pkl").tensors, part)


def test_published_files(golden):
    weights, facts = unpickled("encoder") | unpickled("decoder"), golden("dalle_expected")
    tokenizer = DalleTokenizer(
        DalleConfig(
            codes=len(weights["encoder.blocks.output.conv.bias"]),
            hidden=len(weights["encoder.blocks.input.bias"]),
            decoder_input=len(weights["decoder.blocks.input.bias"]),
            blocks_per_group=1,
        )
    )
    tokenizer.load_state_dict(weights)
    logits = tokenizer.encoder(to_logit_laplace(facts["image"]))
    torch.testing.assert_close(logits, facts["logits"], atol=1e-5, rtol=1e-5)
    tokens = tokenizer.encode(facts["image"])
    assert torch.equal(tokens, facts["ids"].flatten(1))
    torch.testing.assert_close(tokenizer.decode(tokens), facts["recon"], atol=1e-5, rtol=1e-5)


def test_published_size():
    with torch.device("meta"):
        tokenizer = build_tokenizer(DalleConfig())
    parts = [list(part.parameters()) for part in (tokenizer.encoder, tokenizer.decoder)]
    assert [len(part) for part in parts] == [74, 76]
    counts = [sum(parameter.numel() for parameter in part) for part in parts]
    assert counts == [53_786_240, 43_829_766]
    assert tokenizer.grid == (14, 14)


def test_residual_gain_counts_all_blocks():
    encoder = build_tokenizer(DalleConfig(codes=4, hidden=4, decoder_input=4)).encoder
    gains = {module.gain for module in encoder.modules() if hasattr(module, "gain")}
    assert gains == {1 / 64}


def test_frozen_from_the_start():
    tokenizer = build_tokenizer(DalleConfig(codes=4, hidden=4, decoder_input=4, blocks_per_group=1))
    assert tokenizer.frozen
    assert not tokenizer.training
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_logit_laplace_map_round_trip():
    pixels = torch.linspace(0, 1, 11)
    squeezed = to_logit_laplace(pixels)
    assert squeezed[[0, -1]].tolist() == pytest.approx([0.1, 0.9])
    torch.testing.assert_close(from_logit_laplace(squeezed.logit()), pixels, atol=1e-6, rtol=0)
    assert from_logit_laplace(torch.tensor([-9.0, 9.0])).tolist() == [0, 1]


@pytest.fixture
def narrow():
    """Two blocks per group, as published, and images of many codes."""
    torch.manual_seed(0)
    config = DalleConfig(size=(32, 32), codes=64, hidden=16, decoder_input=4)
    tokenizer, images = build_tokenizer(config), torch.rand(4, 3, 32, 32)
    spread_codes(tokenizer, tokenizer.encoder.score.bias, images)
    return tokenizer, images


def test_tokens_are_those_of_the_modules_run_one_by_one(narrow):
    tokenizer, images = narrow
    plain = copy.deepcopy(tokenizer.encoder).to(memory_format=torch.contiguous_format)
    x = plain.blocks.input(to_logit_laplace(images))
    for group in (plain.blocks.group_1, plain.blocks.group_2, plain.blocks.group_3,
                  plain.blocks.group_4):  # fmt: skip
        for block in (group.block_1, group.block_2):
            branch = x
            for number in range(1, 5):
                branch = getattr(block.res_path, f"conv_{number}")(branch.clamp(min=0))
            x = block.id_path(x) + branch / 64
        x = group.pool(x) if hasattr(group, "pool") else x
    scores = plain.blocks.output.conv(x.clamp(min=0))
    tokens = tokenizer.encode(images)
    assert len(tokens.unique()) > 8
    assert torch.equal(tokens, scores.argmax(dim=1).flatten(1))


def test_convolutions_read_frozen_weights_in_their_own_order(narrow):
    tokenizer, images = narrow
    weight = tokenizer.encoder.blocks.group_1.block_1.res_path.conv_1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    vectors = tokenizer._vectors(images)  # one place after the other, without a copy
    assert vectors.is_contiguous()
