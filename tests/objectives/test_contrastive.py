"""A contrast of class tokens beside masked tokens: what it compares, and what learns from it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from beit.config import ContrastiveConfig, TrainingConfig
from beit.config.model import VisionTransformerConfig
from beit.models.heads import MaskedImageModel
from beit.objectives.contrastive import (
    ContrastiveMaskedModeling,
    ContrastiveModel,
    centred,
    contrast,
)
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.second_view import NUMBERS, second_view
from beit.rng import SampleRNG
from beit.tokenizers import build_tokenizer
from beit.training.distributed import start_processes
from miniature import BACKBONE, VAE, draw_images, masked_batch, split
from ranks import together
from reference import close

PLAIN: VisionTransformerConfig = replace(BACKBONE, relative_position="none", layer_scale=None)
CONTRAST = ContrastiveConfig(projection=16)


def contrastive(config: ContrastiveConfig = CONTRAST) -> ContrastiveMaskedModeling:
    torch.manual_seed(0)
    model = ContrastiveModel(PLAIN, VAE.codes, projection=config.projection)
    return ContrastiveMaskedModeling(model, config, build_tokenizer(VAE))


def vectors(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(number)
    first, second = torch.randn(2, number, 5, generator=chance, dtype=torch.float64)
    return first.requires_grad_(), second.requires_grad_()


def written_out(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Eq. 1 of SimCLR, term by term."""
    z = [F.normalize(one, dim=0) for one in (*first, *second)]
    number, losses = len(first), []
    for row, own in enumerate(z):
        others = [(own @ z[k] / temperature).exp() for k in range(len(z)) if k != row]
        partner = (own @ z[(row + number) % len(z)] / temperature).exp()
        losses.append(-(partner / torch.stack(others).sum()).log())
    return torch.stack(losses).mean()


def test_the_contrast_is_that_of_simclr():
    first, second = vectors(6)
    loss, _ = contrast(first, second, temperature=0.3)
    close(loss, written_out(first, second, 0.3), 1e-9)


def test_what_all_have_in_common_is_left_out():
    first, second = vectors(4)
    every = torch.cat([first, second])
    close(centred(every + 7.0), centred(every), 1e-9)
    close(centred(every).mean(dim=0), torch.zeros(5, dtype=torch.float64), 1e-9)


def test_right_pairs_are_counted():
    first, _ = vectors(4)
    assert float(contrast(first, first * 2, temperature=0.2)[1]) == 1
    assert float(contrast(first, first.flip(0), temperature=0.2)[1]) == 0


def in_parts(rank: int) -> tuple[float, list[Any]]:
    """The loss of a process, and the gradients that its vectors get: one has 2 pairs, one 4."""
    processes = start_processes(TrainingConfig(steps=1, batch=2, lr=1e-3, device="cpu"))
    first, second = vectors(6)
    own = slice(0, 2) if rank == 0 else slice(2, 6)
    both = centred(torch.cat([first[own], second[own]]))
    loss, _ = contrast(*both.chunk(2), temperature=0.3)
    loss.backward()
    processes.close()
    assert first.grad is not None
    assert second.grad is not None
    return float(loss.detach()), [first.grad[own].tolist(), second.grad[own].tolist()]


def test_two_processes_contrast_with_the_images_of_both():
    """Also where they have different numbers of images: each gives the loss of its own."""
    first, second = vectors(6)
    (one, gradients), (two, others) = together(in_parts)
    every = torch.cat([first, second])
    every = every - every.mean(dim=0)
    loss, _ = contrast(*every.chunk(2), temperature=0.3)
    assert (2 * one + 4 * two) / 6 == pytest.approx(float(loss.detach()))
    rows = torch.arange(12)
    likeness = F.normalize(every, dim=1) @ F.normalize(every, dim=1).t() / 0.3
    likeness = likeness.fill_diagonal_(-math.inf)
    each = F.cross_entropy(likeness, (rows + 6) % 12, reduction="none")
    here = (rows % 6) < 2
    expected = torch.autograd.grad(each[here].mean() + each[~here].mean(), [first, second])
    for whole, part, other in zip(expected, gradients, others, strict=True):
        close(whole, torch.tensor([*part, *other], dtype=torch.float64), 1e-9)


def test_the_loss_is_that_of_the_tokens_and_of_the_contrast():
    objective, batch = contrastive(), masked_batch(0)
    total, terms = objective(batch, 0.0)
    tokens = MaskedImageModeling(objective.model, CONTRAST, objective.tokenizer)(batch, 0.0)
    close(terms["loss"], tokens.total, 1e-6)
    close(total, terms["loss"] + terms["contrast_loss"], 1e-6)
    twice = contrastive(replace(CONTRAST, contrast_weight=2.0))(batch, 0.0)
    close(twice.total, terms["loss"] + 2 * terms["contrast_loss"], 1e-6)


def test_gradients_reach_everything():
    objective = contrastive()
    objective(masked_batch(0), 0.0).total.backward()
    idle = [n for n, p in objective.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_second_view_is_that_of_the_image_wherever_it_stands():
    """Of the seed, the step and the place in the batch; not of who else is there."""
    objective, batch = contrastive(), masked_batch(0)
    objective.eval()
    objective.draw(SampleRNG(3, 1, 0), 8, torch.device("cpu"))
    whole = objective._second(batch)
    halves = []
    for first, half in zip((0, 4), split(batch, 4), strict=True):
        objective.draw(SampleRNG(3, 1, first), 4, torch.device("cpu"))
        halves.append(objective._second(half))
    close(torch.cat(halves), whole, 1e-5)
    objective.draw(SampleRNG(3, 2, 0), 8, torch.device("cpu"))
    assert not torch.allclose(objective._second(batch), whole, atol=1e-3)


@pytest.mark.parametrize(("kept", "seen"), [(0.25, 4), (0.01, 1), (1.0, 16)])
def test_so_many_patches_of_the_second_view_are_seen(kept, seen, monkeypatch):
    objective = contrastive(replace(CONTRAST, kept=kept))
    numbers = []

    def embed(images, keep_indices=None):
        numbers.append(16 if keep_indices is None else keep_indices.shape[1])
        return torch.zeros(len(images), 24)

    monkeypatch.setattr(objective.model, "embed", embed)
    objective(masked_batch(0), 0.0)
    assert numbers == [seen]


def test_the_projection_is_not_published():
    objective = contrastive()
    published = objective.publish(objective.model)
    assert type(published) is MaskedImageModel
    assert not any("projection" in name for name in published.state_dict())
    batch = masked_batch(0)
    close(published(batch.images, batch.mask), objective.model(batch.images, batch.mask), 0)


def test_it_learns(unchecked):
    """Both: which token is frequent, and more; and which image is which."""
    objective, batch = contrastive(), masked_batch(0)
    optimizer = torch.optim.AdamW(objective.model.parameters(), lr=3e-3)
    for step in range(100):
        objective.draw(SampleRNG(0, step, 0), 8, torch.device("cpu"))
        loss = objective(batch, 0.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.terms["loss"] < 0.7 * loss.terms["token_entropy"]
    assert loss.terms["contrast_loss"] < 0.6 * math.log(15)


# -- the second view -------------------------------------------------------------------------------


def numbers_of(number: int) -> torch.Tensor:
    return torch.rand(number, NUMBERS, generator=torch.Generator().manual_seed(0))


def test_without_a_crop_and_jitter_a_view_is_the_image_or_its_mirror_image():
    images, numbers = draw_images(number=8), numbers_of(8)
    numbers[:, 1] = 0.5  # width over height
    numbers[:, 6] = 0.9  # never grey
    views = second_view(images, numbers, crop=(1.0, 1.0), jitter=0.0)
    expected = images.float() / 255
    mirrored = (numbers[:, 2] < 0.5)[:, None, None, None]
    close(views, torch.where(mirrored, expected.flip(3), expected), 2e-3)
    assert mirrored.any()
    assert not mirrored.all()


def test_a_crop_stays_within_the_image():
    """The values of a ramp say which part is seen."""
    ramp = torch.linspace(0, 255, 32).to(torch.uint8).expand(64, 3, 32, 32)
    numbers = numbers_of(64)
    numbers[:, 6] = 0.9
    views = second_view(ramp, numbers, crop=(0.25, 0.25), jitter=0.0)
    seen = (views.amax(dim=(1, 2, 3)) - views.amin(dim=(1, 2, 3))) * 255
    assert float(seen.max()) < 0.6 * 255  # a width of at most sqrt(0.25 * 4/3) of the whole
    assert float(seen.min()) > 0.35 * 255
    assert float(views.amin()) < 0.1
    assert float(views.amax()) > 0.9


def test_grey_views_have_no_colour_and_other_images_may_have_any_number_of_channels():
    images, numbers = draw_images(number=8), numbers_of(8)
    numbers[:, 6] = 0.1
    views = second_view(images, numbers, crop=(0.3, 1.0), jitter=0.4)
    assert float((views.amax(dim=1) - views.amin(dim=1)).max()) < 0.02
    single = second_view(images[:, :1], numbers, crop=(0.3, 1.0), jitter=0.4)
    assert single.shape == images[:, :1].shape
    assert single.min() >= 0
    assert single.max() <= 1


def test_hue_turns_and_brightness_stays():
    images, numbers = draw_images(number=4), numbers_of(4)
    numbers[:, 5:] = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.5, 1.0])  # hue alone
    plain = second_view(images, numbers, crop=(0.5, 1.0), jitter=0.0)
    turned = second_view(images, numbers, crop=(0.5, 1.0), jitter=0.4)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    close((plain * weights).sum(dim=1), (turned * weights).sum(dim=1), 0.03)
    assert float((plain - turned).abs().mean()) > 0.01
