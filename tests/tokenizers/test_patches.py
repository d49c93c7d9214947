"""k-means of patches: what its codes compare, that training finds and paints them."""

from __future__ import annotations

import math

import torch

from beit.batch import ImageBatch
from beit.config import PatchCodebookConfig, QuantiseConfig
from beit.objectives.tokenizer import VQReconstruction
from beit.tokenizers import build_tokenizer
from beit.tokenizers.patches import PatchCodebook, oriented_gradients, strokes

CONFIG = PatchCodebookConfig(size=(32, 32), patch=8, codes=8, compared="pixels")


def stripes(angle: float, period: float = 6.0) -> torch.Tensor:
    """Waves along a direction, [3, 32, 32]."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    phase = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period
    return (0.5 + 0.4 * torch.sin(phase)).expand(3, 32, 32)


def test_gradients_by_orientation_whatever_the_colours():
    images = torch.stack([stripes(0.0), stripes(math.pi / 2 + 1e-3)])
    inner = oriented_gradients(images, 8).reshape(2, 4, 4, 9, 4)[:, 1:3, 1:3]  # (bin, quarter)
    strongest = inner.sum(dim=-1).argmax(dim=-1)
    assert strongest[0].unique().tolist() == [0]  # across
    assert strongest[1].unique().tolist() == [4]  # down, in the middle of nine
    turned = 1 - images.flip(1) * torch.tensor([1.0, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(oriented_gradients(turned, 8), oriented_gradients(images, 8))
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert not oriented_gradients(flat, 8).any()


def test_training_finds_what_there_is_and_paints_it():
    """Patches of four kinds share no code, and each is painted as it is."""
    kinds = [stripes(0.0), stripes(math.pi / 2), stripes(math.pi / 4), torch.full((3, 32, 32), 0.8)]
    tiles = torch.stack([kind[:, 8:16, 8:16] for kind in kinds])
    order = torch.stack([torch.randperm(16) % 4 for _ in range(8)])
    images = tiles[order].reshape(8, 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(8, 3, 32, 32)
    tokenizer = build_tokenizer(CONFIG)
    assert isinstance(tokenizer, PatchCodebook)
    objective = VQReconstruction(tokenizer, QuantiseConfig(revive_every=5), seed=0).train()
    optimiser = torch.optim.Adam(tokenizer.parameters(), lr=0.1)
    batch = ImageBatch((images * 255).round().to(torch.uint8), tuple("abcdefgh"))
    for step in range(120):
        optimiser.zero_grad()
        objective(batch, 0.0).total.backward()
        optimiser.step()
        if step < 60:  # what is painted follows once the codes are found
            objective.after_step(step)
    rebuilt = tokenizer.eval()(tokenizer.pixels(batch.images))
    codes = [set(rebuilt.tokens[order == kind].tolist()) for kind in range(4)]
    assert sum(map(len, codes)) == len(set().union(*codes))
    painted = tokenizer.freeze().decode(rebuilt.tokens)
    torch.testing.assert_close(painted, images, atol=0.05, rtol=0)


def test_strokes_lie_along_edges():
    """An edge from top to bottom is drawn from top to bottom, whatever its contrast; no edge is
    white."""
    image = torch.full((1, 3, 32, 32), 0.2)
    image[..., 12:] = 0.8  # through the middle of the second patch
    drawn = strokes(oriented_gradients(image, 8)[0], 8).reshape(16, 8, 8)
    edge = drawn[1::4].mean(dim=0)
    assert edge.mean(dim=0).std() > 3 * edge.mean(dim=1).std()
    assert edge.min() < 0
    assert (drawn[0] > 0.99).all()
    assert (drawn[3] > 0.99).all()


def test_codes_of_gradients_are_drawn_as_they_are():
    config = PatchCodebookConfig(size=(32, 32), patch=8, codes=4)
    tokenizer = build_tokenizer(config)
    assert isinstance(tokenizer, PatchCodebook)
    image = stripes(0.0)[None]
    vectors = tokenizer._vectors(image)[0, [5, 6, 9, 10]]
    tokenizer.quantize.embedding.weight.copy_(vectors / vectors.norm(dim=1, keepdim=True))
    tokens = torch.arange(4).repeat(1, 4)
    drawn = tokenizer.freeze().draw(tokens)
    expected = (strokes(vectors[:, :-1], 8).reshape(4, 8, 8) + 1) / 2
    row = expected.transpose(0, 1).reshape(8, 32)
    torch.testing.assert_close(drawn, row.repeat(4, 1).expand(1, 3, 32, 32))
    assert not torch.equal(tokenizer.decode(tokens), drawn)  # which PSNR is measured on
