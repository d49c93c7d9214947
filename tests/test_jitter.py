"""Colour jitter is that of torchvision, wherever it is applied."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from beit.jitter import Change, changed, changed_batch, changes_tensor, draw_jitter


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def scene(height: int, width: int) -> np.ndarray:
    """A few hundred blots of colour: smooth and rough places, as in a photo."""
    generator = np.random.default_rng(1)
    coarse = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Ordered(random.Random):
    """Shuffles into an order that is given."""

    def __init__(self, seed: int, order: tuple[int, ...]) -> None:
        super().__init__(seed)
        self.order = order

    def shuffle(self, x: object) -> None:
        assert isinstance(x, list)
        x[:] = [x[place] for place in self.order]


ADJUSTMENTS = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("order", ORDERS)
def test_jitter_is_that_of_torchvision(order: tuple[int, ...]) -> None:
    # All pixels of the small image are sampled, so only the last rounding may differ.
    for image, most in ((noise(30, 40), 1), (scene(320, 400), 2)):
        for seed in range(5):
            factors = random.Random(seed)
            theirs = Image.fromarray(image)
            for change in order:
                theirs = ADJUSTMENTS[change](theirs, factors.uniform(0.6, 1.4))
            ours = changed(image, draw_jitter(image, 0.4, Ordered(seed, order)))
            difference = np.abs(ours.astype(int) - np.asarray(theirs).astype(int))
            assert difference.max() <= most


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_batch_is_given_what_each_image_is_given(channels: int) -> None:
    images = [noise(24, 32, channels), noise(24, 32, channels) // 3 + 90] * 6
    generator = random.Random(0)
    drawn = [draw_jitter(image, 0.4, generator) for image in images]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    changes = torch.stack([changes_tensor(one) for one in drawn])
    together = changed_batch(batch, changes).permute(0, 2, 3, 1).numpy()
    for ours, image, one in zip(together, images, drawn, strict=True):
        alone = changed(image, one)
        assert (alone != image).any()
        np.testing.assert_array_equal(ours, alone)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_jitter_keeps_the_image_it_was_given(channels: int) -> None:
    image = noise(8, 8, channels)
    kept = image.copy()
    changes = draw_jitter(image, 0.4, random.Random(0))
    assert len(changes) == (3 if channels == 3 else 2)
    jittered = changed(image, changes)
    assert jittered.shape == image.shape
    assert (jittered != kept).any()
    np.testing.assert_array_equal(image, kept)
    assert changed(image, draw_jitter(image, 0.0, random.Random(0))) is image


def test_mirrored_images_are_changed_where_they_are() -> None:
    image, changes = noise(9, 7), [Change(0.5), Change(1.2, own_grey=1), Change(1.3, level=70)]
    np.testing.assert_array_equal(
        changed(image[:, ::-1], changes), changed(image, changes)[:, ::-1]
    )


def test_mean_is_of_the_whole_image() -> None:
    # Stripes of every direction, with periods that a regular grid of pixels would fall in with.
    y, x = np.mgrid[:360, :500]
    for period, stripes in itertools.product((2, 4, 5, 8, 10, 36), (x, y, x + y)):
        grey = np.where(stripes % period < period / 2, 40, 200).astype(np.uint8)
        image = np.repeat(grey[:, :, None], 3, axis=2)
        (contrast, *_) = draw_jitter(image, 0.4, Ordered(0, (1, 0, 2)))
        assert contrast.level == pytest.approx(grey.mean(), abs=4)
