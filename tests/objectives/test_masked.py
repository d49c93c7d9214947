"""Masked image modeling: the loss reads the masked positions, and the tokenizer learns nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.batch import MaskedBatch
from beit.config import MaskedConfig
from beit.errors import ConfigError
from beit.models.heads import MaskedImageModel
from beit.objectives.base import entropy
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.targets import patchify
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import VisualTokenizer
from miniature import BACKBONE, VAE, Told, masked, masked_batch, split
from reference import TINY, close, from_published


@pytest.fixture
def published(golden):
    """The published model's objective, with a tokenizer that gives the tokens of the facts."""
    facts = golden("mim_shared_rel")
    model = MaskedImageModel(TINY, 64)
    model.load_state_dict(from_published(facts["model"]))
    tokens = torch.zeros(3, 16, dtype=torch.int64)
    tokens[facts["mask"]] = facts["target"]
    told = Told(tokens, size=(32, 32), stride=8, codes=64)
    batch = MaskedBatch(facts["image"], torch.zeros(3, 3, 32, 32), facts["mask"], ("a", "b", "c"))
    return facts, model, told, batch


def test_published_loss_and_its_terms(published):
    facts, model, told, batch = published
    objective = MaskedImageModeling(model, MaskedConfig(), told)
    total, terms = objective(batch, 0.0)
    close(total, facts["loss"], 1e-5)
    assert terms["loss"] == total
    assert terms["accuracy"] == (facts["logits"].argmax(dim=1) == facts["target"]).float().mean()
    counts = told.tokens[facts["mask"]].bincount().float()  # what is predicted, nothing else
    close(terms["token_entropy"], entropy(counts), 1e-6)
    assert terms["codes_in_use"] == (counts > 0).sum()
    assert objective.expectations() == {"chance_loss": math.log(64)}
    assert not any(term.requires_grad for term in terms.values())


def test_loss_of_all_positions(published):
    facts, model, told, batch = published
    objective = MaskedImageModeling(model, MaskedConfig(predict="all"), told)
    total, terms = objective(batch, 0.0)
    expected = F.cross_entropy(facts["all_logits"].flatten(0, 1), told.tokens.flatten())
    close(total, expected, 1e-5)
    right = (facts["all_logits"].argmax(dim=2) == told.tokens).float()
    close(terms["accuracy"], right[facts["mask"]].mean(), 1e-6)  # still of the masked places


def test_accuracy_without_masking_is_of_all_places(published):
    facts, model, told, batch = published
    batch = batch._replace(mask=torch.zeros_like(facts["mask"]))
    with torch.no_grad():
        answers = model(facts["image"], batch.mask, True).argmax(dim=1).reshape(3, 16)
    told.tokens = torch.where(torch.arange(16) < 8, answers, (answers + 1) % 64)
    terms = MaskedImageModeling(model, MaskedConfig(predict="all"), told)(batch, 0.0).terms
    close(terms["accuracy"], torch.tensor(0.5), 1e-6)


@pytest.mark.parametrize(("predict", "reads_visible"), [("masked", False), ("all", True)])
def test_only_tokens_of_predicted_positions_count(published, predict, reads_visible):
    facts, model, told, batch = published
    objective = MaskedImageModeling(model, MaskedConfig(predict=predict), told)
    before = objective(batch, 0.0).total
    told.tokens[~facts["mask"]] = 63
    assert (objective(batch, 0.0).total != before) == reads_visible
    before = objective(batch, 0.0).total
    told.tokens[facts["mask"]] = 62
    assert objective(batch, 0.0).total != before


def test_nothing_masked():
    objective, batch = masked(predict="all"), masked_batch(0)
    batch = batch._replace(mask=torch.zeros_like(batch.mask))
    tokens = objective.tokenizer.encode(batch.token_images).flatten()
    expected = F.cross_entropy(objective.model(batch.images), tokens)
    close(objective(batch, 0.0).total, expected, 1e-6)


def test_loss_is_that_of_chance_at_the_start():
    total = masked()(masked_batch(0), 0.0).total
    assert float(total.detach()) == pytest.approx(math.log(VAE.codes), abs=0.05)


def test_halves_of_a_batch_average_to_the_whole():
    """True because every image hides the same number of patches."""
    objective, batch = masked(), masked_batch(0)
    halves = [objective(half, 0.0).total for half in split(batch, 4)]
    close(torch.stack(halves).mean(), objective(batch, 0.0).total, 1e-6)


def test_agreement_in_half_precision_is_told_once():
    exact, batch = masked(), masked_batch(0)
    objective = MaskedImageModeling(
        exact.model, exact.config, exact.tokenizer, precision=torch.bfloat16
    )
    expected = exact.tokenizer.encode(batch.token_images, batch.mask)
    equal = (objective.tokenizer.encode(batch.token_images, batch.mask) == expected).float().mean()
    told = []
    for step in range(3):
        objective(batch, 0.0)
        told.append(objective.after_step(step))
    assert told == [{"token_agreement": pytest.approx(float(equal))}, {}, {}]
    assert equal > 0.8
    assert exact.after_step(0) == {}
    assert sum(isinstance(part, VisualTokenizer) for part in objective.modules()) == 1


def test_patchify():
    images = torch.rand(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert torch.equal(patches[1, 4], images[1, :, 4:8, 4:8].flatten())  # row 1, column 1 of 2 x 3
    assert torch.equal(F.fold(patches.transpose(1, 2), (8, 12), 4, stride=4), images)


class Oracle(MaskedImageModel):
    """Sees through the mask."""

    error = 0.0

    def predictions(self, images, mask=None, every_position=False):
        pixels = patchify(self.backbone.normalise(images), 4) + self.error
        return (pixels.flatten(0, 1) if every_position else mask.select(pixels),)


@pytest.mark.parametrize("predict", ["masked", "all"])
def test_pixels_are_normalised_and_their_error_squared(predict):
    model, batch = Oracle(BACKBONE, 48), masked_batch(0)
    objective = MaskedImageModeling(model, MaskedConfig(target="pixels", predict=predict), None)
    total, terms = objective(batch, 0.0)
    assert total == 0
    assert terms["target_variance"] > 0
    assert objective.expectations() == {}
    model.error = 0.5
    close(objective(batch, 0.0).total, torch.tensor(0.25), 1e-6)
    simmim = MaskedConfig(target="pixels", predict=predict, pixel_loss="absolute")
    close(MaskedImageModeling(model, simmim, None)(batch, 0.0).total, torch.tensor(0.5), 1e-6)


def test_tokenizer_stays_frozen():
    objective = masked()
    assert objective.tokenizer is not None
    before = objective.tokenizer.digest()
    objective.train()
    assert objective.model.training
    assert not any(module.training for module in objective.tokenizer.modules())
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
    objective(masked_batch(0), 0.0).total.backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in objective.tokenizer.parameters())
    assert objective.tokenizer.digest() == before


@pytest.mark.parametrize(
    ("tokenizer", "problem"),
    [
        (
            replace(VAE, size=(16, 16)),
            r"8 x 8 tokens \(size \(16, 16\), stride 2\).* 4 x 4 patches",
        ),
        (replace(VAE, codes=13), "13 codes, the head predicts 12"),
        (replace(VAE, channels=1), "1 channels, the backbone 3"),
        (None, "needs a tokenizer"),
    ],
)
def test_tokenizers_that_do_not_fit(tokenizer, problem):
    built = tokenizer and build_tokenizer(tokenizer)
    with pytest.raises(ConfigError, match=problem) as caught:
        MaskedImageModeling(MaskedImageModel(BACKBONE, VAE.codes), MaskedConfig(), built)
    assert caught.value.remedy


def test_head_that_does_not_fit_the_pixels():
    with pytest.raises(ConfigError, match="gives 12 values, a patch has 48"):
        MaskedImageModeling(MaskedImageModel(BACKBONE, 12), MaskedConfig(target="pixels"), None)
