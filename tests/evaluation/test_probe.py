"""Probes trained at once equal probes trained alone; the sweeps equal plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from beit.config.evaluate import ProbeConfig
from beit.evaluation.features import PatchTable, extract_features, extract_patches
from beit.evaluation.metrics import average_precision
from beit.evaluation.neighbours import neighbour_votes
from beit.evaluation.probe import attentive_accuracies, train_attentive, train_heads
from beit.models.vit import VisionTransformer
from miniature import BACKBONE, labelled_batch

CONFIG = ProbeConfig(epochs=3, batch=16, learning_rates=(1e-3, 1e-2), attentive_epochs=30)
CLASSES = 3


@pytest.fixture
def table():
    """Features of two blocks: noise, then the class."""
    targets = torch.randint(CLASSES, (50,))
    noise = torch.randn(50, 2, 6)
    noise[:, 1, :CLASSES] += 5 * torch.eye(CLASSES)[targets]
    return noise, targets


def plain_adamw(features, targets, rate, start, chance):
    """One head alone: AdamW from its equations (arXiv:1711.05101, algorithm 2)."""
    weight, bias = start.clone().requires_grad_(), torch.zeros(CLASSES, requires_grad=True)
    moments = [[torch.zeros_like(each), torch.zeros_like(each)] for each in (weight, bias)]
    step = 0
    for epoch in range(CONFIG.epochs):
        lr = rate * (1 + torch.cos(torch.tensor(torch.pi * epoch / CONFIG.epochs))) / 2
        for rows in torch.randperm(len(targets), generator=chance).split(CONFIG.batch):
            step += 1
            logits = features[rows] @ weight + bias
            if targets.ndim == 1:
                loss = -logits.log_softmax(dim=1)[range(len(rows)), targets[rows]].mean()
            else:
                each = torch.where(targets[rows], logits.sigmoid(), 1 - logits.sigmoid())
                loss = -each.log().sum() / len(rows)
            slopes = torch.autograd.grad(loss, (weight, bias))
            with torch.no_grad():
                for each, slope, (first, second) in zip(
                    (weight, bias), slopes, moments, strict=True
                ):
                    first.mul_(0.9).add_(0.1 * slope)
                    second.mul_(0.999).add_(0.001 * slope**2)
                    size = (second / (1 - 0.999**step)).sqrt() + 1e-8
                    each.mul_(1 - lr * CONFIG.weight_decay)
                    each.sub_(lr * first / (1 - 0.9**step) / size)
    return weight.detach(), bias.detach()


def test_heads_trained_at_once_equal_each_alone(table):
    features, targets = table
    heads = train_heads(features, targets, classes=CLASSES, config=CONFIG)
    for block in range(2):
        for place, rate in enumerate(CONFIG.learning_rates):
            chance = torch.Generator().manual_seed(CONFIG.seed)
            start = 0.01 * torch.randn(2, 6, CLASSES, generator=chance)[block]
            weight, bias = plain_adamw(features[:, block], targets, rate, start, chance)
            expected = features[:, block] @ weight + bias
            found = heads.logits(features)[:, :, block, place]
            assert torch.allclose(found, expected, atol=1e-4)
            accuracy = (expected.argmax(dim=1) == targets).float().mean()
            assert heads.accuracy(features, targets)[block, place] == pytest.approx(float(accuracy))


def test_heads_of_several_labels_equal_each_alone(table):
    features, classes = table
    targets = torch.stack([classes == 0, classes > 0, torch.rand(50) < 0.2], dim=1)
    heads = train_heads(features, targets, classes=CLASSES, config=CONFIG)
    for block in range(2):
        for place, rate in enumerate(CONFIG.learning_rates):
            chance = torch.Generator().manual_seed(CONFIG.seed)
            start = 0.01 * torch.randn(2, 6, CLASSES, generator=chance)[block]
            weight, bias = plain_adamw(features[:, block], targets, rate, start, chance)
            expected = features[:, block] @ weight + bias
            assert torch.allclose(heads.logits(features)[:, :, block, place], expected, atol=1e-4)
            mean = average_precision(heads.logits(features)[:, :, block, place], targets).mean()
            found = heads.score(features, targets)[block, place]
            assert found == pytest.approx(float(mean), abs=1e-6)


def test_the_informative_block_is_found(table):
    config = replace(CONFIG, epochs=40)
    scores = train_heads(*table, classes=CLASSES, config=config).accuracy(*table)
    assert scores[1].min() > 0.9
    assert scores[0].max() < scores[1].min()


def test_neighbours_equal_a_plain_vote(table):
    features, targets = table[0][:, 1], table[1]
    known, queries = features[:35], features[35:]
    numbers, temperatures = (1, 3, 99), (0.05, 1.0)
    won = neighbour_votes(
        known, targets[:35], queries, neighbours=numbers, temperatures=temperatures
    )
    found = (won == targets[35:]).float().mean(dim=2)
    mean, deviation = known.mean(dim=0), known.std(dim=0, correction=0)
    for row, number in enumerate(numbers):
        for column, temperature in enumerate(temperatures):
            right = 0
            for image, target in zip(queries, targets[35:], strict=True):
                cosines = torch.cosine_similarity(
                    (known - mean) / deviation, ((image - mean) / deviation)[None]
                )
                votes = [0.0] * CLASSES
                for index in cosines.argsort(descending=True)[:number]:
                    votes[targets[index]] += float((cosines[index] / temperature).exp())
                right += votes.index(max(votes)) == target
            assert found[row, column] == pytest.approx(right / 15)


def test_attention_finds_the_patch_that_matters():
    targets = torch.randint(CLASSES, (64,))
    patches = torch.randn(64, 9, 12)
    patches[range(64), torch.randint(9, (64,)), targets] += 8
    table = PatchTable(patches.half(), targets)
    config = replace(CONFIG, learning_rates=(1e-6, 1e-1))
    probes = train_attentive(table, heads=3, classes=CLASSES, config=config)
    slow, fast = attentive_accuracies(probes, table)
    assert slow < 0.9 < fast
    shuffled = PatchTable(table.patches, targets[torch.randperm(64)])
    assert attentive_accuracies(probes, shuffled)[1] < 0.7


def test_an_attentive_probe_starts_as_the_mean():
    table = PatchTable(torch.randn(4, 9, 12).half(), torch.tensor([0, 1, 2, 0]))
    config = replace(CONFIG, attentive_epochs=1, learning_rates=(1e-12,))
    (probe,) = train_attentive(table, heads=3, classes=CLASSES, config=config)
    patches = table.patches.float()
    expected = probe.head(probe.norm(patches).mean(dim=1))
    assert torch.allclose(probe(patches), expected, atol=1e-5)


def test_class_tokens_and_patches_are_kept():
    backbone, batch = VisionTransformer(BACKBONE).eval(), labelled_batch(0)
    cpu = torch.device("cpu")
    table = extract_features(backbone, [batch], out_indices=(0, 1), device=cpu)
    patches = extract_patches(backbone, [batch, batch], block=1, device=cpu)
    outputs = backbone(batch.images, out_indices=(1,))
    assert torch.allclose(table.cls[:, 1], outputs.cls)
    assert patches.patches.dtype == torch.float16
    assert torch.allclose(patches.patches[8:].float(), outputs.patches, atol=1e-3)
    assert torch.equal(patches.targets, batch.targets.repeat(2))
