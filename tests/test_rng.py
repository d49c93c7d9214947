"""Random numbers that belong to an image, not to a process or a micro-batch."""

from __future__ import annotations

import pytest
import torch

from beit.rng import SampleRNG

IMAGES = 6


def drawn(chance, images):
    like = torch.zeros(images, 5, 2)
    return chance.uniform("layers", images, 7), chance.gumbel("codes", like)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_of_a_batch_draw_what_the_batch_draws(size):
    whole = drawn(SampleRNG(3, 14, 0), IMAGES)
    parts = [drawn(SampleRNG(3, 14, first), size) for first in range(0, IMAGES, size)]
    for number, numbers in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts]), numbers)


def test_every_number_counts():
    """Seed, step, place and purpose."""
    chance = SampleRNG(3, 14, 5)
    once = chance.uniform("layers", 1, 20)
    for other in (SampleRNG(4, 14, 5), SampleRNG(3, 15, 5), SampleRNG(3, 14, 6)):
        assert not (other.uniform("layers", 1, 20) == once).any()
    assert not (chance.uniform("codes", 1, 20) == once).any()


def test_gumbel_noise_is_that_of_the_formula():
    """Its mean is Euler's constant, its variance pi squared over 6; of 40,000 numbers the mean has
    standard deviation 0.0064."""
    noise = SampleRNG(0, 0, 0).gumbel("codes", torch.zeros(40, 1000))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.03)
    assert float(noise.var()) == pytest.approx(1.6449, abs=0.1)


def test_the_state_of_global_generators_does_not_matter():
    before = drawn(SampleRNG(0, 0, 0), 2)
    torch.manual_seed(99)
    assert all(map(torch.equal, before, drawn(SampleRNG(0, 0, 0), 2)))
