"""Images of any size: windows, padding, scales and mirror images, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from beit.config import LinearHeadConfig, UperNetConfig
from beit.errors import ConfigError
from beit.models.segmenter import Segmenter
from beit.models.sliding import (
    _starts,
    predict_probabilities,
    scaled_sizes,
    sliding_logits,
    whole_logits,
)
from reference import FINE, close, disturb

BACKBONE = replace(FINE, size=(32, 48), patch=8, depth=1, mean=(0.2, 0.5, 0.7), std=(0.1, 0.2, 0.3))


class Watched(Segmenter):
    """Keeps what it is given; answers with `answer(images)`."""

    def __init__(self, answer, classes=4):
        super().__init__(BACKBONE, classes, LinearHeadConfig())
        self.answer, self.seen = answer, []

    def forward(self, images):
        self.seen.append(images)
        return self.answer(images)


def per_pixel():
    weight = torch.randn(4, 3, 1, 1)
    return Watched(lambda images: F.conv2d(images, weight))


def segmenter():
    model = Segmenter(BACKBONE, 4, UperNetConfig(head_channels=12)).eval()
    disturb(model)
    return model


SIDES = st.integers(1, 70)


@given(SIDES, SIDES, st.integers(1, 32), st.integers(1, 48), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_what_depends_on_the_pixel_alone_does_not_depend_on_the_windows(
    height, width, down, across, batch
):
    model = per_pixel()
    images = torch.randn(2, 3, height, width)
    logits = sliding_logits(model, images, stride=(down, across), batch=batch)
    close(logits, model.answer(images), 1e-5)
    assert all(seen.shape[1:] == (3, 32, 48) for seen in model.seen)
    assert all(len(seen) <= batch for seen in model.seen)
    close(whole_logits(model, images), model.answer(images), 1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_constant_plane_stays(precision):
    plane = torch.tensor([0.3, -7.0, 2.0, 11.0])[:, None, None]
    model = Watched(lambda images: plane.expand(len(images), -1, *images.shape[-2:]))
    images = torch.randn(1, 3, 77, 99).to(precision)
    close(sliding_logits(model, images), plane.expand(1, 4, 77, 99), 1e-6)


@given(st.integers(1, 90), st.integers(1, 40), st.data())
def test_windows_cover_the_side_and_stay_inside(side, window, data):
    side = max(side, window)
    stride = data.draw(st.integers(1, window))
    starts = _starts(side, window, stride)
    assert starts[0] == 0
    assert starts[-1] == side - window
    assert len(starts) == 1 + -(-(side - window) // stride)  # no window too many
    assert all(0 < after - before <= stride for before, after in pairwise(starts))


def test_windows_are_moved_back_inside_and_overlaps_averaged():
    """A 40 x 48 image, windows of 32 x 48: the second starts at row 8, where the stride says 21.
    Each window answers with its own number."""
    model = Watched(
        lambda images: torch.arange(1.0, 1 + len(images))[:, None, None, None].expand(
            -1, 4, *images.shape[-2:]
        )
    )
    images = torch.randn(1, 3, 40, 48)
    logits = sliding_logits(model, images)
    assert torch.equal(torch.cat(model.seen), torch.cat([images[:, :, :32], images[:, :, 8:]]))
    expected = torch.tensor([1.0] * 8 + [1.5] * 24 + [2.0] * 8)
    assert torch.equal(logits[0, 2, :, 7], expected)


@pytest.mark.parametrize(("window", "stride"), [(512, 341), (640, 426)])
def test_published_strides(window, stride):
    """Every pixel holds its row and its column, so a window tells where it starts."""
    side = window + 500
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    images = torch.stack([rows, columns, rows]).float()[None]
    model = Watched(lambda images: images[:, :1].expand(-1, 4, -1, -1))
    logits = sliding_logits(model, images, window=(window, window))
    starts = [0, stride, 500]
    seen = torch.cat(model.seen)[:, :2, 0, 0].tolist()
    assert seen == [[top, left] for top in starts for left in starts]
    assert torch.equal(logits[:, 3], images[:, 0])


def test_overlaps_are_averaged_as_in_a_plain_loop():
    """Both ways at once, so that some pixels are seen by four windows of a real model."""
    model, images = segmenter(), torch.randn(2, 3, 50, 75)
    tops, lefts = [0, 13, 18], [0, 11, 22, 27]  # windows of 32 x 48; the last ones are moved back
    total, times = torch.zeros(2, 4, 50, 75), torch.zeros(50, 75)
    for top in tops:
        for left in lefts:
            rows, columns = slice(top, top + 32), slice(left, left + 48)
            total[:, :, rows, columns] += model(images[:, :, rows, columns])
            times[rows, columns] += 1
    assert (times.min(), times.max()) == (1, 12)
    close(sliding_logits(model, images, stride=(13, 11)), total / times, 1e-5)


def test_window_over_the_whole_image_is_the_whole_image():
    model, images = segmenter(), torch.randn(3, 3, 64, 56)
    with torch.no_grad():  # as they do: with gradients another kernel of attention is taken
        expected = model(images)
    close(whole_logits(model, images), expected, 1e-6)
    close(sliding_logits(model, images, window=(64, 56)), expected, 1e-5)
    assert not torch.isclose(sliding_logits(model, images), expected, atol=1e-3).all()


@pytest.mark.parametrize("read", [whole_logits, sliding_logits])
def test_padding_has_the_mean_colour_and_is_cut_off(read):
    model = per_pixel()
    images = torch.randint(256, (2, 3, 13, 21), dtype=torch.uint8)
    logits = read(model, images)
    (seen,) = model.seen
    assert seen.shape[-2:] == ((32, 48) if read is sliding_logits else (16, 24))
    assert not seen[:, :, 13:].any()
    assert not seen[:, :, :, 21:].any()
    pixels = model.backbone.normalise(images)
    close(seen[:, :, :13, :21], pixels, 1e-6)
    close(logits, model.answer(pixels), 1e-6)


def test_the_smallest_image():
    images = torch.randn(1, 3, 1, 1)
    assert whole_logits(segmenter(), images).shape == (1, 4, 1, 1)
    assert predict_probabilities(segmenter(), images, scales=(0.1, 1.0)).shape == (1, 4, 1, 1)


@pytest.mark.parametrize(
    ("size", "scales", "short_side", "sizes"),
    [
        ((64, 96), (1.0,), None, [(64, 96)]),
        ((50, 75), (1.0, 2.0), None, [(50, 75), (96, 152)]),
        ((64, 96), (0.5, 0.49, 1.0, 1.02, 1.5), None, [(32, 48), (64, 96), (96, 144)]),
        ((50, 75), (1.0, 1.5), 64, [(64, 96), (96, 144)]),
        ((96, 64), (1.0,), 64, [(96, 64)]),
        ((9, 200), (0.5,), None, [(16, 96)]),
    ],
)
def test_sizes(size, scales, short_side, sizes):
    found = scaled_sizes(size, scales, patch=8, short_side=short_side)
    assert found == tuple(sizes)


@given(st.integers(2, 300), st.integers(2, 300), st.lists(st.floats(0.1, 3.0), min_size=1))
def test_sizes_are_multiples_of_the_patch_and_differ(height, width, scales):
    found = scaled_sizes((height, width), scales, patch=14)
    assert len(set(found)) == len(found)
    for size in found:
        assert size == (height, width) or all(side % 14 == 0 and side >= 28 for side in size)


def test_probabilities_are_averaged_over_scales_and_mirror_images():
    """Probabilities and not logits; a size that occurs twice counts once."""
    model, images = segmenter(), torch.randn(2, 3, 40, 56)
    larger = F.interpolate(images, (64, 88), mode="bilinear", antialias=True)
    expected = []
    for pixels in (images, larger):
        for turned in (pixels, pixels.flip(-1)):
            logits = model(turned)
            logits = logits.flip(-1) if turned is not pixels else logits
            logits = F.interpolate(logits, (40, 56), mode="bilinear", align_corners=False)
            expected.append(logits.softmax(dim=1))
    found = predict_probabilities(
        model, images, read=whole_logits, scales=(1.0, 1.6, 1.01, 1.59), flip=True
    )
    close(found, torch.stack(expected).mean(dim=0), 1e-5)
    close(found.sum(dim=1), torch.ones(2, 40, 56), 1e-5)


@pytest.mark.parametrize("read", [whole_logits, partial(sliding_logits, stride=(13, 11))])
def test_mirrored_images_have_mirrored_probabilities(read):
    model, images = segmenter(), torch.randn(1, 3, 50, 75)
    predict = partial(predict_probabilities, model, read=read, scales=(0.7, 1.0))
    close(predict(images.flip(-1), flip=True), predict(images, flip=True).flip(-1), 1e-5)
    assert not torch.isclose(predict(images.flip(-1)), predict(images).flip(-1), atol=1e-3).all()


def test_one_scale_reads_the_image_as_it_is():
    model, images = segmenter(), torch.randn(1, 3, 50, 75)
    expected = sliding_logits(model, images).softmax(dim=1)
    close(predict_probabilities(model, images), expected, 1e-6)


def test_bytes_and_normalised_floats_agree():
    model, images = segmenter(), torch.randint(256, (1, 3, 50, 75), dtype=torch.uint8)
    pixels = model.backbone.normalise(images)
    for read in (whole_logits, sliding_logits, partial(predict_probabilities, short_side=60)):
        close(read(model, images), read(model, pixels), 1e-6)


def test_bf16_autocast_stays_close():
    model, images = segmenter(), torch.randn(1, 3, 50, 75)
    exact = sliding_logits(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = sliding_logits(model, images.bfloat16())
        probabilities = predict_probabilities(model, images.bfloat16(), flip=True)
    assert rounded.dtype == probabilities.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 0.03
    close(probabilities.sum(dim=1), torch.ones(1, 50, 75), 1e-5)


def test_nothing_is_kept_for_gradients():
    model, images = segmenter(), torch.randn(1, 3, 40, 56)
    for read in (whole_logits, sliding_logits, predict_probabilities):
        assert not read(model, images).requires_grad


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (partial(sliding_logits, window=(30, 48)), "window 30 is not a multiple of 8"),
        (partial(sliding_logits, stride=(33, 48)), r"stride \(33, 48\) does not fit window"),
        (partial(sliding_logits, stride=(16, 0)), r"stride \(16, 0\) does not fit window"),
        (partial(sliding_logits, batch=0), "batch is 0"),
        (partial(predict_probabilities, scales=()), r"scales is \(\)"),
        (partial(predict_probabilities, scales=(1.0, 0.0)), r"scales is \(1.0, 0.0\)"),
        (partial(predict_probabilities, short_side=0), "short_side 0"),
    ],
)
def test_options_that_cannot_be(read, problem):
    with pytest.raises(ConfigError, match=problem):
        read(segmenter(), torch.randn(1, 3, 40, 48))
