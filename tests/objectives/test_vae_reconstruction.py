"""Training a discrete VAE: its loss, its schedules, and its way out of collapse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from beit.batch import ImageBatch
from beit.config import ReconstructConfig
from beit.objectives.tokenizer import VAEReconstruction, logit_laplace_loss
from beit.tokenizers import build_tokenizer
from miniature import VAE, draw_images, image_batch
from reference import close


def objective(likelihood="l2", **options) -> VAEReconstruction:
    return VAEReconstruction(
        build_tokenizer(replace(VAE, likelihood=likelihood)), ReconstructConfig(**options), seed=0
    )


def kl(task, images):
    return float(task(ImageBatch(images, ()), 0.5).terms["kl"])


def test_kl_is_a_mean_over_images_and_positions():
    task, image = objective(), draw_images(number=1, size=8)
    task.model.to_codes.weight.data *= 20
    expected = kl(task, image)
    assert expected > 0.01
    assert kl(task, image.expand(5, -1, -1, -1)) == pytest.approx(expected, rel=1e-5)
    assert kl(task, image.repeat(1, 1, 2, 3)) == pytest.approx(expected, rel=0.5)


@pytest.mark.parametrize(("score", "expected"), [(0.0, 0.0), (100.0, math.log(VAE.codes))])
def test_kl_of_uniform_and_of_certain_codes(score, expected):
    task = objective()
    torch.nn.init.zeros_(task.model.to_codes.weight)
    torch.nn.init.zeros_(task.model.to_codes.bias)
    task.model.to_codes.bias.data[3] = score
    assert kl(task, draw_images(size=8)) == pytest.approx(expected, abs=1e-5)


def test_total_weighs_its_parts():
    task = objective(kl_weight=0.5, kl_warmup=0.0)
    total, terms = task(image_batch(0), 0.0)
    close(total, terms["reconstruction"] + 0.5 * terms["kl"], 1e-6)
    torch.nn.init.zeros_(task.model.to_codes.weight)
    task.model.to_codes.bias.data = torch.tensor([100.0, 100.0] + [0.0] * 10)
    torch.manual_seed(0)
    balanced = objective(balance_weight=2.0)
    balanced.model = task.model
    plain = objective(balance_weight=0.0)
    plain.model = task.model
    totals = []
    for one in (balanced, plain):
        totals.append(one(image_batch(0), 0.0).total)
    close(totals[0] - totals[1], torch.tensor(2 * math.log(6)), 1e-4)  # 2 of 12 codes in use


def test_schedules():
    task = objective(annealing=0.5, kl_weight=0.2, kl_warmup=0.1)
    falling = [task.temperature(done) for done in (0.0, 0.25, 0.5, 0.99)]
    assert falling == pytest.approx([1.0, (1 + 1 / 16) / 2, 1 / 16, 1 / 16])
    assert [task.kl_weight(done) for done in (0.0, 0.05, 0.1, 1.0)] == pytest.approx(
        [0, 0.1, 0.2, 0.2]
    )
    at_once = objective(annealing=0.0, kl_weight=0.2, kl_warmup=0.0)
    assert (at_once.temperature(0.0), at_once.kl_weight(0.0)) == (1 / 16, 0.2)


def test_logit_laplace_is_the_density_of_a_squashed_laplace():
    location, log_scale = torch.randn(2, 2, 3, 4, 4)
    target = torch.rand(2, 3, 4, 4) * 0.8 + 0.1
    density = TransformedDistribution(Laplace(location, log_scale.exp()), [SigmoidTransform()])
    loss = logit_laplace_loss(torch.cat([location, log_scale], dim=1), target)
    close(loss, -density.log_prob(target).mean(), 1e-5)


def test_a_vanishing_scale_does_not_make_the_loss_infinite():
    output = torch.cat([torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), -1e4)], dim=1)
    assert logit_laplace_loss(output, torch.full((1, 3, 2, 2), 0.3)).isfinite()


def test_logit_laplace_is_what_a_tokenizer_of_that_likelihood_learns_by():
    task = objective("logit-laplace")
    total = task(image_batch(0), 0.0).total
    pixels = task.model.pixels(image_batch(0).images)
    output = task.model(pixels, 1.0, task.rng).output
    close(total, logit_laplace_loss(output, task.model.target(pixels)), 1e-6)


def test_usage_is_observed_in_training_only():
    task = objective()
    before = task.model.usage.clone()
    task.eval()(image_batch(0), 0.0)
    task.after_step(0)
    assert torch.equal(task.model.usage, before)
    task.train()(image_batch(0), 0.0)
    task.after_step(0)
    assert not torch.equal(task.model.usage, before)


def test_codes_are_revived_every_so_many_steps():
    task = objective(revive_every=3)
    task.model.usage.copy_(torch.tensor([0.5, 0.5] + [0.0] * 10))
    assert [task.after_step(step) for step in range(4)] == [{}, {}, {"codes_revived": 2.0}, {}]
    assert objective(revive_every=0).after_step(0) == {}


def collapsed_training(**options) -> int:
    """Codes in use after a short training that starts with one code winning everywhere."""
    task = objective(usage_decay=0.5, annealing=0.0, final_temperature=0.5, **options)
    task.model.to_codes.bias.data[0] = 30.0
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        task(image_batch(step), step / 60).total.backward()
        optimizer.step()
        task.after_step(step)
    return len(task.model.encode(draw_images(99, 64, 8)).unique())


def test_revival_leads_out_of_collapse_and_nothing_else_does(unchecked):
    assert collapsed_training(revive_every=0) == 1
    assert collapsed_training(revive_every=5) > 3
