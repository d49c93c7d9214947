"""Features that any backbone must beat."""

from __future__ import annotations

import pytest
import torch

from beit.batch import LabelledBatch
from beit.evaluation.baselines import (
    HISTOGRAM,
    PIXELS,
    STATISTICS,
    UNTRAINED,
    Baselines,
    baseline_accuracies,
    colour_histogram,
    compare,
    statistics,
    thumbnail,
    untrained_like,
)
from beit.evaluation.features import extract_features
from beit.models.vit import VisionTransformer
from miniature import BACKBONE

CPU = torch.device("cpu")


def test_a_histogram_by_hand():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[0, 0, 0, 0] = 255  # one red pixel of sixteen
    counts = colour_histogram(images)
    assert counts.shape == (2, 216)
    assert counts[0, 0] == 15 / 16
    assert counts[0, 5 * 36] == 1 / 16
    assert counts[1, 0] == 1
    assert torch.equal(counts.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_have_a_histogram_each(channels):
    images = torch.randint(256, (3, channels, 5, 5), dtype=torch.uint8)
    counts = colour_histogram(images)
    assert counts.shape == (3, 36 * channels)
    assert torch.allclose(counts.sum(dim=1), torch.full((3,), float(channels)))


def test_a_histogram_knows_no_places_and_a_thumbnail_does():
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    turned = images.flip(3)
    assert torch.equal(colour_histogram(images), colour_histogram(turned))
    small = thumbnail(images)
    assert small.shape == (2, 3 * 16 * 16)
    assert torch.allclose(thumbnail(turned), small.unflatten(1, (3, 16, 16)).flip(3).flatten(1))
    assert torch.allclose(small[0, 0], images[0, 0, :2, :2].float().mean() / 255)


def test_they_are_collected_while_batches_pass():
    torch.manual_seed(0)
    trained, untrained = VisionTransformer(BACKBONE).eval(), VisionTransformer(BACKBONE).eval()
    images = torch.randint(256, (5, 3, *BACKBONE.size), dtype=torch.uint8)
    batches = [
        LabelledBatch(images[part], torch.arange(5)[part], tuple("abcde"[part]))
        for part in (slice(0, 3), slice(3, 5))
    ]
    blocks = tuple(range(BACKBONE.depth))
    baselines = Baselines(untrained, CPU)
    table = extract_features(trained, baselines.passing(batches), out_indices=blocks, device=CPU)
    tables = baselines.tables(table)
    assert list(tables) == [HISTOGRAM, STATISTICS, PIXELS, UNTRAINED]
    alone = extract_features(untrained, batches, out_indices=blocks, device=CPU)
    assert torch.equal(tables[UNTRAINED].features, alone.features)
    assert torch.equal(tables[HISTOGRAM].features[:, 0], colour_histogram(images))
    for found in tables.values():
        assert found.keys == table.keys
        assert torch.equal(found.targets, table.targets)


def test_statistics_know_colours_and_the_orientation_of_edges():
    stripes = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    stripes[0, :, ::4], stripes[1, :, :, ::4] = 255, 255  # across, down
    both = statistics(stripes)
    assert torch.allclose(both[0, :9], both[1, :9])  # as much white
    assert both[0, 9:17].argmax() != both[1, 9:17].argmax()
    assert torch.equal(statistics(stripes[:1].repeat(2, 1, 1, 1))[1], both[0])
    gray = statistics(torch.full((1, 1, 16, 16), 51, dtype=torch.uint8))
    assert gray.tolist()[0] == pytest.approx([0.2, *([0.0] * 26)], abs=1e-4)


def test_what_a_linear_classifier_of_each_answers():
    """Two colours are told apart by a histogram; noise is not by anything."""
    untrained = untrained_like(BACKBONE, 0)
    assert torch.equal(
        untrained.state_dict()["cls_token"], untrained_like(BACKBONE, 0).state_dict()["cls_token"]
    )
    images = torch.full((8, 3, *BACKBONE.size), 40, dtype=torch.uint8)
    images[::2, 0] = 220
    targets = torch.tensor([0, 1] * 4)
    parts = [LabelledBatch(images[part], targets[part]) for part in (slice(0, 4), slice(4, 8))]
    found = baseline_accuracies(untrained, [parts[0]], [parts[1]], CPU)
    assert list(found) == [HISTOGRAM, STATISTICS, PIXELS, UNTRAINED]
    assert found[HISTOGRAM] == 1.0


def test_a_difference_within_the_doubt_is_no_gain():
    assert compare(("probe", 0.9), ("pixels", 0.5), 0.2, 200).beyond
    close = compare(("probe", 0.55), ("pixels", 0.5), 0.2, 200)
    assert not close.beyond
    assert "a gain of 5.0 ± 9.8 points (95 %)" in close.text
    assert "a loss of 5.0 ± 9.8 points" in compare(("probe", 0.5), ("pixels", 0.55), 0.2, 200).text


def test_the_most_frequent_class_is_a_baseline_too():
    found = compare(("probe", 0.6), ("pixels", 0.3), 0.6, 200)
    assert not found.beyond
    assert found.text.endswith("60.0%: a gain of 0.0 ± 9.6 points (95 %), compared with that class")
