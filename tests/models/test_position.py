"""The index of the relative bias, and tables that change their grid."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beit.models.position import (
    RelativePositionBias,
    _geometric_offsets,
    relative_position_index,
    resize_absolute_position,
    resize_relative_table,
    sine_positions,
    table_length,
)
from reference import close

GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize(("side", "length"), [(14, 732), (24, 2212), (32, 3972), (40, 6244)])
def test_table_length(side, length):
    assert table_length((side, side)) == length


def test_published_index_of_14_by_14():
    index = relative_position_index((14, 14))
    assert index.shape == (197, 197)
    assert index[0, 0] == 731
    assert (index[0, 1:] == 729).all()
    assert (index[1:, 0] == 730).all()
    golden = {(1, 1): 364, (1, 2): 363, (2, 1): 365, (1, 15): 337, (15, 1): 391}
    golden |= {(1, 196): 0, (196, 1): 728}
    assert {place: int(index[place]) for place in golden} == golden


def test_sine_positions_are_those_of_timm_in_another_order():
    from timm.layers import build_sincos2d_pos_embed

    ours = sine_positions((3, 5), 32)
    assert ours.shape == (15, 32)
    columns = [sorted(map(tuple, (values.T + 0.0).round(decimals=5).tolist()))
               for values in (ours, build_sincos2d_pos_embed([3, 5], 32))]  # fmt: skip
    assert columns[0] == columns[1]
    assert not sine_positions((3, 5), 35)[:, 32:].any()


@given(GRIDS)
@settings(max_examples=20, deadline=None)
def test_index_depends_on_the_offset_alone(grid):
    height, width = grid
    index = relative_position_index(grid)[1:, 1:].reshape(height, width, height, width)
    torch.testing.assert_close(index[1:, :, 1:], index[:-1, :, :-1])
    torch.testing.assert_close(index[:, 1:, :, 1:], index[:, :-1, :, :-1])
    assert index.unique().numel() == table_length(grid) - 3


def test_bias_reads_the_table_through_the_index():
    bias = RelativePositionBias(grid=(2, 3), heads=2)
    torch.nn.init.normal_(bias.relative_position_bias_table)
    expected = bias.relative_position_bias_table[relative_position_index((2, 3))]
    assert torch.equal(bias((2, 3)), expected.permute(2, 0, 1))


def test_models_are_described_without_loading_the_compiler():
    """As `beit.load` describes them: torch's compiler and its algebra take seconds to import."""
    program = (
        "import sys, torch\nfrom beit.config.model import VisionTransformerConfig as Config\n"
        "from beit.config.segmentation import UperNetConfig\n"
        "from beit.config.tokenizer import DalleConfig\n"
        "from beit.models.segmenter import Segmenter\n"
        "from beit.models.vit import VisionTransformer\n"
        "from beit.tokenizers import build_tokenizer\n"
        "with torch.device('meta'):\n"
        "    VisionTransformer(Config(absolute_position=True, initialisation='xavier'))\n"
        "    VisionTransformer(Config(relative_position='per-block'))\n"
        "    Segmenter(Config(relative_position='per-block'), 3, UperNetConfig())\n"
        "    build_tokenizer(DalleConfig())\n"
        "sys.exit(bool({'torch._dynamo', 'sympy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_cached_tensors_do_not_remember_who_asked_first():
    """Built on no device, first used without autograd: the next caller can still train."""
    grid, other = (3, 11), (5, 13)
    with torch.device("meta"):
        RelativePositionBias(grid=grid, heads=1)
    bias = RelativePositionBias(grid=grid, heads=1)
    with torch.inference_mode():
        bias(other)
    bias(other).sum().backward()
    gradient = bias.relative_position_bias_table.grad
    assert gradient is not None
    close(gradient.sum(), torch.tensor(float((1 + 5 * 13) ** 2)), 1e-4)


def test_equal_grid_changes_nothing():
    table, position = torch.randn(table_length((3, 4)), 2), torch.randn(1, 13, 5)
    assert torch.equal(resize_relative_table(table, (3, 4), (3, 4)), table)
    assert torch.equal(resize_absolute_position(position, (3, 4), (3, 4)), position)


@given(GRIDS, GRIDS)
@settings(max_examples=40, deadline=None)
def test_any_grid_to_any_grid(old, new):
    """Constants stay, the class rows and the zero offset stay, and the axes are treated alike."""
    table = torch.randn(table_length(old), 2, generator=torch.Generator().manual_seed(0))
    resized = resize_relative_table(table, old, new)
    assert resized.shape == (table_length(new), 2)
    assert torch.equal(resized[-3:], table[-3:])
    centre = [(table_length(grid) - 3) // 2 for grid in (old, new)]
    close(resized[centre[1]], table[centre[0]], 1e-5)
    close(resize_relative_table(torch.ones_like(table), old, new), torch.ones_like(resized), 1e-5)

    def transposed(values, grid):
        offsets = values[:-3].reshape(2 * grid[0] - 1, 2 * grid[1] - 1, -1).transpose(0, 1)
        return torch.cat([offsets.flatten(0, 1), values[-3:]])

    flipped = resize_relative_table(transposed(table, old), old[::-1], new[::-1])
    close(flipped, transposed(resized, new), 1e-4)

    position = torch.randn(1, 1 + old[0] * old[1], 3, generator=torch.Generator().manual_seed(0))
    moved = resize_absolute_position(position, old, new)
    assert moved.shape == (1, 1 + new[0] * new[1], 3)
    assert torch.equal(moved[:, 0], position[:, 0])


@pytest.mark.parametrize(("small", "large"), [((7, 7), (14, 14)), ((6, 10), (9, 24))])
def test_shrinking_undoes_growing(small, large):
    height, width = (torch.linspace(-1, 1, 2 * side - 1) for side in small)
    smooth = torch.exp(-2 * height[:, None] ** 2 - width**2) + 0.5 * height[:, None]
    table = torch.cat([smooth.reshape(-1, 1), torch.tensor([[1.0], [2.0], [3.0]])])
    there = resize_relative_table(table, small, large)
    close(resize_relative_table(there, large, small), table, 5e-3)


@pytest.mark.parametrize(
    ("side", "ratio"), [(16, 1.023493), (24, 1.090307), (32, 1.134918), (40, 1.168504)]
)
def test_published_stretching_of_14_by_14(side, ratio):
    offsets = _geometric_offsets(13, side - 1)
    assert offsets[13:16].tolist() == pytest.approx([0, 1, 1 + ratio], abs=1e-6)
    assert float(offsets[-1]) == pytest.approx(side - 1, abs=3e-4)
    close(offsets, -offsets.flip(0), 0)


@pytest.mark.parametrize("side", [6, 16, 24, 32])
def test_scipy_agrees(side):
    """The published procedure, with the routine that replaced the one SciPy removed."""
    interpolate = pytest.importorskip("scipy.interpolate")
    import numpy as np

    old, new = 27 if side > 14 else 9, 2 * side - 1
    table = torch.randn(old * old + 3, 2)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (
            (low, ratio) if sum(ratio**i for i in range(old // 2)) > new // 2 else (ratio, high)
        )
    steps = np.cumsum([ratio**i for i in range(old // 2)])
    source = np.concatenate([-steps[::-1], [0], steps])
    target = np.clip(np.arange(-(new // 2), new // 2 + 1), source[0], source[-1])
    grid = table[:-3].reshape(old, old, 2).double().numpy()
    expected = [
        interpolate.RectBivariateSpline(source, source, grid[..., head])(target, target)
        for head in range(2)
    ]
    ours = resize_relative_table(table, (old // 2 + 1,) * 2, (side, side))
    close(ours[:-3].T.reshape(2, new, new), torch.tensor(np.stack(expected)).float(), 1e-5)
