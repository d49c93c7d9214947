"""The joint view: labels follow their pixels wherever chance moves them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beit.config import JointConfig
from beit.data.augment import JointView, WholeView, distorted

FILL = (9, 8, 7)
STILL = JointConfig(resize_ratio=(1.0, 1.0), symmetry="none", distortion=False, largest_class=1)


def stack(height: int, width: int) -> np.ndarray:
    """Each pixel holds its row and its column; the label repeats the row's half."""
    rows, columns = np.mgrid[0:height, 0:width]
    label = (rows >= height // 2).astype(int)
    return np.stack([rows, columns, 0 * rows, label], axis=2).astype(np.uint8)


def view(size=(16, 16), **options) -> JointView:
    return JointView(JointConfig(**(vars(STILL) | options)), size, FILL)


def drawn(draw, decoded, seed=0):
    """The image and the labels of the view that a seed gives."""
    sample = draw(decoded, None, random.Random(seed))
    return sample.images[0], sample.labels[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(10, 60), st.integers(10, 60), st.integers(0, 999),
       st.sampled_from(["none", "horizontal", "all"]))  # fmt: skip
def test_labels_stay_with_their_pixels(height, width, seed, symmetry):
    """Where both are enlarged, a pixel far from the border of the halves has its half's label."""
    joint = view(symmetry=symmetry, resize_ratio=(0.5, 2.0))
    image, labels = drawn(joint, stack(height, width), seed)
    assert image.shape == (3, 16, 16)
    assert labels.shape == (16, 16)
    inside = labels != 255
    assert inside.any()
    rows = image[0].float()
    clear = inside & ((rows - height // 2 + 0.5).abs() > max(height / 8, 2))
    assert torch.equal(labels[clear].bool(), rows[clear] >= height // 2)
    for channel, value in enumerate(FILL):
        assert (image[channel][~inside] == value).all()


def test_the_same_chance_gives_the_same_view():
    image = np.random.default_rng(0).integers(0, 3, (30, 40, 4), dtype=np.uint8)
    draw = JointView(JointConfig(), (16, 16), FILL)
    first, second, third = (draw(image, None, random.Random(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.images, third.images)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [((32, 32), 16), ((32, 64), 16), ((16, 256), 4)],
    ids=["square", "wide", "wider than 4 to 1"],
)
def test_the_shorter_side_is_that_of_the_crop(sides, expected):
    """At ratio 1; a very wide image is limited by its longer side, and padded below."""
    _, labels = drawn(view(), stack(*sides))
    assert int((labels != 255).any(dim=1).sum()) == expected
    assert (labels[0] != 255).all()


def test_base_side_and_ratio():
    """A base of 32 at ratio 1 leaves a decoded of 32 as it is, and a ratio of 1/4 shrinks it."""
    decoded = stack(32, 32)
    image, _ = drawn(view(base_side=32), decoded)
    assert set((image[0][1:] - image[0][:-1]).flatten().tolist()) == {1}
    _, labels = drawn(view(base_side=32, resize_ratio=(0.25, 0.25)), decoded)
    assert int((labels != 255).sum()) == 8 * 8


def test_crops_with_one_class_above_the_fraction_are_drawn_again():
    image = np.zeros((64, 64, 4), np.uint8)
    image[:8, :, 3] = 1  # an eighth of it
    fractions = {}
    for largest in (1.0, 0.75):
        draw = view((8, 8), base_side=64, largest_class=largest)
        found = [draw(image, None, random.Random(seed)).labels for seed in range(60)]
        fractions[largest] = sum(0 < int(labels.sum()) < 64 for labels in found) / len(found)
    assert fractions[1.0] < 0.3
    assert fractions[0.75] > fractions[1.0] + 0.2


def _after_the_crop(seed: int) -> random.Random:
    """The generator as the crop leaves it: a ratio and a place were drawn."""
    generator = random.Random(seed)
    generator.uniform(1, 1), generator.randint(0, 0), generator.randint(0, 0)
    return generator


def test_distortion_changes_colours_only():
    decoded = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    for seed in range(60):
        image, labels = drawn(view(base_side=16, distortion=True), decoded, seed)
        assert np.array_equal(labels.numpy(), decoded[..., 3])
        colours = distorted(decoded[..., :3], _after_the_crop(seed))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), colours)
    kept = [np.array_equal(distorted(decoded[..., :3], random.Random(seed)), decoded[..., :3])
            for seed in range(60)]  # fmt: skip
    assert 0 < sum(kept) < 15  # four changes with even chance: one in sixteen


def test_one_channel_has_no_hue():
    image = np.full((4, 4, 1), 100, np.uint8)
    for seed in range(20):
        found = distorted(image, random.Random(seed))
        assert found.shape == image.shape
        assert len(np.unique(found)) == 1


def test_evaluation_sees_the_image_as_it_is():
    decoded = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image, labels = drawn(WholeView(), decoded)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), decoded[..., :3])
    assert np.array_equal(labels.numpy(), decoded[..., 3])
