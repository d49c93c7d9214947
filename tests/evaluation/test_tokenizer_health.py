"""The health of a tokenizer, against closed forms."""

from __future__ import annotations

import pytest
import torch

from beit.batch import ImageBatch
from beit.evaluation.tokenizer import TokenizerHealth, tokenizer_health
from beit.report.tokenizer import encode, psnr_of
from beit.tokenizers import build_tokenizer
from miniature import VAE, Told, draw_images

CPU = torch.device("cpu")


class Painter(Told):
    """Paints everything in one grey."""

    def _decode(self, tokens):
        return torch.full((len(tokens), 3, 8, 8), 0.5)


def painter(tokens, codes=8):
    return Painter(tokens, size=(8, 8), stride=4, codes=codes)


def test_psnr_is_that_of_the_error_over_all_images():
    tokens = torch.tensor([[0, 1, 2, 3]])
    images = [torch.full((1, 3, 8, 8), value, dtype=torch.uint8) for value in (0, 255)]
    batches = [ImageBatch(image, ("a",)) for image in images]
    health = tokenizer_health(painter(tokens), batches, device=CPU)
    assert health.psnr == pytest.approx(6.0206, abs=1e-3)  # -10 lg 0.25
    assert health.counts.tolist() == [2, 2, 2, 2, 0, 0, 0, 0]
    assert health.codes_in_use == 4
    assert health.perplexity == pytest.approx(4)


def test_a_perfect_painter_has_a_finite_psnr():
    grey = torch.full((2, 3, 8, 8), 0.5)
    health = tokenizer_health(
        painter(torch.zeros(2, 4, dtype=torch.int64)), [ImageBatch(grey, ())], device=CPU
    )
    assert health.psnr == pytest.approx(120)
    assert health.perplexity == pytest.approx(1)
    assert health.collapsed


@pytest.mark.parametrize(
    ("used", "codes", "collapsed"),
    [(1, 32, True), (2, 32, False), (49, 1000, True), (51, 1000, False)],
)
def test_collapse_is_less_than_one_code_in_twenty(used, codes, collapsed):
    counts = torch.zeros(codes, dtype=torch.int64)
    counts[:used] = 70
    health = TokenizerHealth(20.0, used, perplexity=float(used), counts=counts, shown=counts)
    assert health.collapsed == collapsed


def test_health_of_a_real_tokenizer():
    health = tokenizer_health(
        build_tokenizer(VAE), [ImageBatch(draw_images(size=8), ())], device=CPU
    )
    assert health.counts.sum() == 8 * 16
    assert 0 < health.psnr < 60


def test_a_page_shows_the_psnr_that_is_measured():
    """Not the mean of the decibels, which images that are decoded well would raise."""
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    images = torch.stack([torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (128, 0)])
    batch = ImageBatch(images, ("a", "b"))
    health = tokenizer_health(painter(tokens), [batch], device=CPU)
    encoded = encode(painter(tokens), batch)
    assert psnr_of(encoded) == pytest.approx(health.psnr)
    assert encoded[0].psnr > health.psnr + 30
