"""Geometry, jitter and the two renderings of one crop."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from beit.batch import to_device
from beit.config.data import AugmentConfig, ViewConfig
from beit.config.masking import BlockMasking
from beit.data.augment import EvaluationView, TrainView
from beit.data.transforms import (
    Box,
    MaskedViews,
    SingleView,
    crop_box,
    mirrored,
    resize_crop,
)
from beit.errors import ConfigError, DataError
from beit.jitter import changed, draw_jitter
from beit.masking import build_sampler

PLAIN = ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), symmetry="none", jitter=0.0)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    bands = [x * 255 / width, y * 255 / height, (x + y) * 255 / (height + width)]
    return np.stack(bands, axis=-1).astype(np.uint8)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair))),
    ratio=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(lambda pair: tuple(sorted(pair))),
    seed=st.integers(0, 1000),
)
def test_crop_lies_inside(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], seed: int
) -> None:
    box = crop_box(height, width, scale, ratio, random.Random(seed))
    assert 0 <= box.top <= box.top + box.height <= height
    assert 0 <= box.left <= box.left + box.width <= width
    assert box.height > 0
    assert box.width > 0


@pytest.mark.parametrize(("height", "width"), [(100, 150), (60, 60), (20, 400)])
def test_crop_has_the_distribution_of_torchvision(height: int, width: int) -> None:
    scale, ratio, generator = (0.08, 1.0), (3 / 4, 4 / 3), random.Random(0)
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(3000)]
    )
    ours = np.array([crop_box(height, width, scale, ratio, generator) for _ in range(3000)])
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), rtol=0.08, atol=0.5)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.08, atol=0.5)
    ratios = [np.log(boxes[:, 3] / boxes[:, 2]) for boxes in (ours, theirs)]
    assert abs(ratios[0].mean() - ratios[1].mean()) < 0.02


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_resize_agrees_with_pillow(interpolation: str, channels: int) -> None:
    # No extremes: Pillow and torch clip overshoots between the two passes differently.
    image, box = noise(50, 70, channels) // 2 + 64, Box(3, 5, 40, 30)
    ours = resize_crop(image, box, (16, 24), interpolation)
    assert ours.shape == (channels, 16, 24)
    assert ours.dtype == torch.uint8
    for band in range(channels):
        region = Image.fromarray(np.ascontiguousarray(image[3:43, 5:35, band]))
        theirs = region.resize((24, 16), getattr(Image.Resampling, interpolation.upper()))
        difference = ours[band].numpy().astype(int) - np.asarray(theirs).astype(int)
        assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_lanczos_without_that_of_torch_is_that_of_pillow(
    monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    image, box = noise(50, 70, channels), Box(3, 5, 40, 30)
    monkeypatch.setattr("beit.data.transforms.LANCZOS_SINCE", "1000")
    ours = resize_crop(image[:, ::-1], box, (16, 24), "lanczos")
    region = np.ascontiguousarray(image[:, ::-1][3:43, 5:35])
    for band in range(channels):
        theirs = Image.fromarray(region[:, :, band]).resize((24, 16), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(ours[band].numpy(), np.asarray(theirs))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (20, 30)])
def test_turned_views_are_resized_like_copies(
    size: tuple[int, int], flip: bool, turns: int, interpolation: str
) -> None:
    image, box = np.rot90(noise(31, 40) // 2 + 64, turns), Box(1, 2, 20, 24)
    image = image[:, ::-1] if flip else image
    view = resize_crop(image, box, size, interpolation).int()
    copy = resize_crop(image.copy(), box, size, interpolation).int()
    assert view.shape == (3, *size)
    # Sums from the other end, and rows before columns, round differently.
    assert (view - copy).abs().max() <= 2


def test_right_size_is_untouched() -> None:
    image = noise(32, 32)
    view = SingleView(config=PLAIN, size=(32, 32), interpolation="lanczos")
    sample = view(image, None, random.Random(0))
    np.testing.assert_array_equal(sample.images[0].permute(1, 2, 0).numpy(), image)
    evaluation = EvaluationView((32, 32), crop=1.0)(image, 3, random.Random(0))
    np.testing.assert_array_equal(evaluation.images[0].permute(1, 2, 0).numpy(), image)
    assert evaluation.targets.tolist() == [3]


@pytest.mark.parametrize("sides", [(1, 1), (1, 500), (500, 1), (3, 7), (17, 16)])
def test_tiny_and_thin_images(sides: tuple[int, int]) -> None:
    image, generator = noise(*sides), random.Random(0)
    view = SingleView(config=ViewConfig(symmetry="all"), size=(16, 32))
    for _ in range(8):
        assert view(image, None, generator).images.shape == (1, 3, 16, 32)
    assert EvaluationView((16, 32))(image, 0, generator).images.shape == (1, 3, 16, 32)


def test_both_views_show_the_same_crop() -> None:
    sampler = build_sampler(BlockMasking(), (8, 8))
    views = MaskedViews(
        config=ViewConfig(symmetry="all"),
        size=(64, 64),
        token_size=(32, 32),
        token_interpolation="lanczos",  # noqa: S106
        sampler=sampler,
    )
    for seed in range(20):
        sample = views(smooth(150, 120), None, random.Random(seed))
        smaller = F.interpolate(sample.images.float(), (32, 32), mode="area")
        assert (smaller - sample.token_images.float()).abs().mean() < 3
        assert sample.mask.dtype == torch.bool
        assert int(sample.mask.sum()) == sampler.count


def test_all_symmetries_occur_and_are_symmetries() -> None:
    image, generator = noise(2, 3, 1), random.Random(0)
    seen = {mirrored(image, "all", generator).tobytes() for _ in range(200)}
    expected = {
        np.rot90(side, turns).tobytes() for side in (image, image[:, ::-1]) for turns in range(4)
    }
    assert seen == expected
    seen = {mirrored(image, "horizontal", generator).tobytes() for _ in range(50)}
    assert seen == {image.tobytes(), image[:, ::-1].tobytes()}
    assert mirrored(image, "none", generator) is image


@pytest.mark.parametrize("pipeline", ["parity", "fast"])
def test_both_views_are_given_the_same_jitter(pipeline: str) -> None:
    """Of flat images, the jitter is the same before and after the crop."""
    config = ViewConfig(pipeline=pipeline)
    sampler = build_sampler(BlockMasking(), (4, 4))
    views = MaskedViews(config=config, size=(16, 16), token_size=(8, 8), sampler=sampler)
    single = SingleView(config=config, size=(16, 16))
    image = np.full((30, 40, 3), (90, 120, 150), np.uint8)
    outcomes = set()
    for seed in range(8):
        masked = views(image, None, random.Random(seed))
        alone = single(image, None, random.Random(seed))
        assert (masked.jitter is None) == (pipeline == "parity")
        batches = [to_device(one, torch.device("cpu")) for one in (masked, alone)]
        assert all(batch.jitter is None for batch in batches)
        (expected,) = changed(image[:1, :1], draw_jitter(image, 0.4, random.Random(seed)))[0]
        for images in (batches[0].images, batches[0].token_images, batches[1].images):
            assert images.flatten(2).unique(dim=2).flatten().tolist() == expected.tolist()
        outcomes.add(tuple(expected.tolist()))
    assert len(outcomes) == 8


def test_fast_views_are_nearly_those_of_parity() -> None:
    image, sampler = smooth(150, 120), build_sampler(BlockMasking(), (4, 4))
    for seed in range(5):
        batches = []
        for pipeline in ("parity", "fast"):
            config = ViewConfig(pipeline=pipeline, symmetry="all")
            views = MaskedViews(config=config, size=(64, 64), token_size=None, sampler=sampler)
            sample = views(image, None, random.Random(seed))
            batches.append(to_device(sample, torch.device("cpu")))
            assert batches[-1].token_images is batches[-1].images
        assert torch.equal(batches[0].mask, batches[1].mask)
        difference = batches[0].images.int() - batches[1].images.int()
        assert difference.abs().float().mean() < 1


def test_rand_augment_leaves_global_randomness_alone() -> None:
    view = TrainView(AugmentConfig(), (32, 32))
    image = smooth(48, 48)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(())
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    first = [view(image, 1, random.Random(seed)).images for seed in range(5)]
    assert (random.random(), np.random.random(), torch.rand(())) == expected
    again = [view(image, 1, random.Random(seed)).images for seed in range(5)]
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_every_operation_of_rand_augment_works_at_every_strength() -> None:
    image = smooth(24, 24)
    for policy in ("rand-m9-mstd0.5-inc1", "rand-m10-n8", "rand-m9-mstd101-inc1-n8-p1.0"):
        view = TrainView(AugmentConfig(rand_augment=policy), (16, 16))
        for seed in range(60):
            assert view(image, 0, random.Random(seed)).images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_training_view_without_rand_augment(channels: int) -> None:
    view = TrainView(AugmentConfig(rand_augment="", jitter=0.3), (16, 24), channels)
    sample = view(noise(40, 40, channels), 2, random.Random(0))
    assert sample.images.shape == (1, channels, 16, 24)
    assert sample.targets.tolist() == [2]


def test_views_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ConfigError, match="needs 3 channels"):
        TrainView(AugmentConfig(), (16, 16), channels=1)
    with pytest.raises(ConfigError, match="not a policy"):
        TrainView(AugmentConfig(rand_augment="rnd-m9"), (16, 16))
    with pytest.raises(ConfigError, match="crop is"):
        EvaluationView((16, 16), crop=0.0)
    with pytest.raises(DataError, match="without a label"):
        EvaluationView((16, 16))(noise(20, 20), None, random.Random(0))


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (64, 64), (30, 33)])
def test_evaluation_view_is_resize_then_centre(height: int, width: int) -> None:
    image = smooth(height, width)
    ours = EvaluationView((28, 28))(image, 0, random.Random(0)).images[0]
    resized = TF.resize(Image.fromarray(image), 32, TF.InterpolationMode.BICUBIC)
    theirs = np.asarray(TF.center_crop(resized, [28, 28]))
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs.astype(int)).max() <= 2


def test_evaluation_view_of_another_shape_covers_it() -> None:
    decoded = np.full((40, 40, 3), 200, np.uint8)
    for size in ((16, 64), (64, 16)):
        image = EvaluationView(size)(decoded, 0, random.Random(0)).images[0]
        assert image.shape == (3, *size)
        assert int(image.min()) == 200
