"""The codebook against the published rule, written down independently: numpy, float64, one-hots.

The rule is that of BEiT v2's released quantiser: counts and sums per code by a product with one-hot
rows, decay 0.99 for both moving averages, means brought to length 1 before they are averaged and
codes after, and codes that stand for nothing kept as they are.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beit.tokenizers.codebook import KMEANS_ITERATIONS, CosineCodebook

CODES, WIDTH, ROWS, DECAY = 96, 16, 160, 0.99


def of_length_1(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


class Rule:
    """Codes and counts; `see` is one forward pass with its update."""

    def __init__(self, codes: np.ndarray, counts: np.ndarray) -> None:
        self.codes, self.counts = codes.astype(np.float64), counts.astype(np.float64)

    def see(self, vectors: np.ndarray, decay: float = DECAY) -> np.ndarray:
        """Tokens of the vectors, from the codes of before."""
        unit = of_length_1(vectors.astype(np.float64))
        distances = ((unit[:, None] - self.codes[None]) ** 2).sum(axis=2)
        tokens = distances.argmin(axis=1)
        ones = np.zeros((len(unit), len(self.codes)))
        ones[np.arange(len(unit)), tokens] = 1
        members = ones.sum(axis=0)
        self.counts = decay * self.counts + (1 - decay) * members
        used = members > 0
        means = of_length_1((ones.T @ unit)[used] / members[used, None])
        self.codes[used] = of_length_1(decay * self.codes[used] + (1 - decay) * means)
        return tokens


def batches(number: int) -> torch.Tensor:
    """Vectors of any length that crowd around a third of the codes, so that some stay unused."""
    generator = torch.Generator().manual_seed(2)
    centres = torch.randn(CODES // 3, WIDTH, generator=generator)
    chosen = torch.randint(len(centres), (number, ROWS), generator=generator)
    noise = torch.randn(number, ROWS, WIDTH, generator=generator)
    return 4 * centres[chosen] + noise


def begun() -> CosineCodebook:
    """In the midst of training: codes and counts are there."""
    codebook = CosineCodebook(codes=CODES, width=WIDTH, decay=DECAY)
    codebook.embedding.initted.fill_(1)
    codebook.cluster_size.copy_(torch.rand(CODES) * 5)
    return codebook


def test_updates_are_those_of_the_rule():
    codebook = begun()
    before = codebook.embedding.weight.clone()
    rule = Rule(before.numpy(), codebook.cluster_size.numpy())
    touched = np.zeros(CODES, bool)
    for vectors in batches(8):
        tokens = rule.see(vectors.numpy())
        assert codebook(vectors).tokens.tolist() == tokens.tolist()
        codebook.update()
        touched[tokens] = True
        codes, counts = codebook.embedding.weight.numpy(), codebook.cluster_size.numpy()
        np.testing.assert_allclose(codes, rule.codes, rtol=0, atol=1e-6)
        np.testing.assert_allclose(counts, rule.counts, rtol=1e-5, atol=1e-6)
    assert 5 < touched.sum() < CODES - 5  # of both there are some
    moved = (codebook.embedding.weight != before).any(dim=1).numpy()
    assert (moved == touched).all()  # the others are the same bits


def test_the_start_is_the_rule_without_memory():
    """Ten rounds from vectors of the batch; of the counts the last round's remain."""
    codebook, (vectors,) = CosineCodebook(codes=8, width=WIDTH, decay=DECAY), batches(1)
    codebook(vectors)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))[:8]
    rule = Rule(of_length_1(vectors[order].numpy()), np.zeros(8))
    for _ in range(KMEANS_ITERATIONS):
        rule.see(vectors.numpy(), decay=0.0)
    weight, counts = codebook.embedding.weight.numpy(), codebook.cluster_size.numpy()
    np.testing.assert_allclose(weight, rule.codes, rtol=0, atol=1e-6)
    assert counts.tolist() == rule.counts.tolist()


@pytest.mark.parametrize("threshold", [0.02, 0.3])
def test_dead_are_those_whose_moving_count_is_small(threshold):
    """Ours, not of the released code: they start again on vectors of the batch, the others stay."""
    codebook = begun()
    rule = Rule(codebook.embedding.weight.numpy(), codebook.cluster_size.numpy())
    seen = batches(300)
    for vectors in seen:
        rule.see(vectors.numpy())
        codebook(vectors)
        codebook.update()
    dead = rule.counts < threshold * rule.counts.mean()
    assert 0 < dead.sum() < CODES
    assert codebook.revive(torch.Generator().manual_seed(1), threshold) == dead.sum()
    weight = codebook.embedding.weight.numpy()
    np.testing.assert_allclose(weight[~dead], rule.codes[~dead], rtol=0, atol=1e-5)
    unit = of_length_1(seen[-1].numpy().astype(np.float64))
    gaps = np.abs(weight[dead][:, None] - unit[None]).max(axis=2)
    assert gaps.min(axis=1).max() < 1e-6
    assert len(set(gaps.argmin(axis=1).tolist())) == dead.sum()  # each on a vector of its own
