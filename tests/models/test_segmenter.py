"""What segmenters promise: sizes, shapes, which blocks are read, what learns and what decays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.config import (
    LinearHeadConfig,
    SETRConfig,
    UperNetConfig,
    sized,
)
from beit.errors import ConfigError
from beit.models.segmenter import Segmenter
from reference import FINE, close, disturb, gradients, thin

HEADS = [UperNetConfig(head_channels=12, auxiliary_channels=6), SETRConfig(head_channels=8),
         LinearHeadConfig()]  # fmt: skip
NAMES = ["upernet", "setr", "linear"]
every_head = pytest.mark.parametrize("head", HEADS, ids=NAMES)


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("base", 512, 163_080_812),
        ("base", 640, 163_407_980),
        ("large", 512, 440_398_636),
        ("large", 640, 441_271_084),
    ],
)
def test_published_numbers_of_parameters(name, size, parameters):
    backbone = replace(sized(name, size=size), relative_position="per-block", mask_token=False)
    with torch.device("meta"):  # nothing is allocated or drawn
        model = Segmenter(backbone, 150, UperNetConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [
        (12, (3, 5, 7, 11)),
        (24, (7, 11, 15, 23)),
        (3, (0, 0, 1, 2)),
        (2, (0, 0, 0, 1)),
        (1, (0, 0, 0, 0)),
    ],
)
def test_blocks_that_upernet_reads(depth, blocks):
    assert UperNetConfig().blocks(depth) == blocks
    assert SETRConfig().blocks(depth) == (depth - 1,)
    assert LinearHeadConfig(out_index=0).blocks(depth) == (0,)


@every_head
@pytest.mark.parametrize(
    ("size", "patch", "channels", "height", "width"),
    [((32, 32), 4, 3, 24, 40), ((28, 28), 14, 1, 28, 56), ((64, 64), 32, 4, 64, 64)],
)
def test_any_size_patch_and_channels(head, size, patch, channels, height, width):
    backbone = thin(size, patch, channels, depth=3, relative_position="per-block", mask_token=False)
    model = Segmenter(backbone, 5, head).eval()
    images = torch.randint(256, (2, channels, height, width), dtype=torch.uint8)
    logits = model(images)
    assert logits.shape == (2, 5, height, width)
    main = model.logits(images).main
    expected = F.interpolate(main, (height, width), mode="bilinear", align_corners=False)
    close(logits, expected, 1e-6)
    close(logits, model(model.backbone.normalise(images)), 1e-6)


def test_linear_head_maps_each_patch_of_its_block():
    model = Segmenter(replace(FINE, size=(48, 80)), 5, LinearHeadConfig(out_index=1)).eval()
    disturb(model)
    images = torch.randn(2, 3, 48, 80)
    (tokens,) = model.backbone(images, out_indices=(1,)).intermediates
    rows = F.layer_norm(tokens[:, 1:], (48,), *model.neck.norm.parameters(), 1e-6)
    weight, bias = model.decode_head.conv_seg.parameters()
    expected = F.linear(rows, weight[:, :, 0, 0], bias).reshape(2, 3, 5, 5)
    close(model.logits(images).main, expected.permute(0, 3, 1, 2), 1e-5)
    assert model.logits(images).auxiliary is None


@pytest.mark.parametrize(("patch", "doublings"), [(16, 4), (8, 3), (14, 3), (2, 1)])
def test_setr_doubles_until_a_patch_is_a_pixel(patch, doublings):
    """As SETR describes it: every convolution is followed by a doubling, classes come last."""
    size = (2 * patch, 3 * patch)
    model = Segmenter(replace(FINE, size=size, patch=patch), 5, SETRConfig(head_channels=8)).eval()
    disturb(model)
    images = torch.randn(2, 3, *size)
    cells = model.backbone(images).patches.reshape(2, 2, 3, 48)
    x = F.layer_norm(cells, (48,), *model.neck.norm.parameters(), 1e-6).permute(0, 3, 1, 2)
    head = model.decode_head
    assert len(head.convs) == doublings
    assert head.convs[0].conv.weight.shape == (8, 48, 3, 3)
    for layer in head.convs:
        x = F.conv2d(x, layer.conv.weight, padding=1)
        x = F.batch_norm(x, torch.zeros(8), torch.ones(8), layer.bn.weight, layer.bn.bias)
        x = F.interpolate(x.relu(), scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.conv2d(x, head.conv_seg.weight, head.conv_seg.bias)
    assert expected.shape[-2:] == (2 * 2**doublings, 3 * 2**doublings)
    if size == tuple(expected.shape[-2:]):  # else the last step is not a doubling
        close(model(images), expected, 1e-5)
    half = F.interpolate(model.logits(images).main, scale_factor=2, mode="bilinear")
    close(half, expected, 1e-5)


def test_only_training_pays_for_the_auxiliary_head():
    model = Segmenter(FINE, 3, UperNetConfig()).eval()
    images = torch.randn(2, 3, 64, 64)
    before = model(images)
    model.auxiliary_head.forward = None
    assert torch.equal(model(images), before)


@every_head
def test_every_parameter_learns(head):
    backbone = replace(FINE, size=(48, 80), absolute_position=True, drop_path=0.1)
    model = Segmenter(backbone, 5, head)
    main, auxiliary = model.logits(torch.randn(4, 3, 48, 80))
    loss = main.square().sum() + (0 if auxiliary is None else auxiliary.square().sum())
    loss.backward()
    shifts = {"neck.fpn1.0.bias", "neck.fpn1.3.bias", "neck.fpn2.0.bias"}  # batch norm undoes them
    for name, gradient in gradients(model).items():
        assert name in shifts or gradient.abs().max() > 1e-7, name


@pytest.mark.parametrize("head", [*HEADS, UperNetConfig(pools=(2, 3)), UperNetConfig(pools=(4,))])
@pytest.mark.parametrize("grid", [(2, 2), (3, 5), (4, 6)])
def test_the_smallest_map_that_is_normed(head, grid):
    model = Segmenter(thin((4 * grid[0], 4 * grid[1]), 4, 3, depth=1), 2, head)
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, 0].numel()))
    model.logits(torch.randn(2, 3, *model.backbone.config.size))
    assert head.normed_cells(grid) == min(seen, default=None)


@every_head
def test_depth_and_decay(head):
    """The neck and the heads are the deepest layer; vectors and the class token do not decay."""
    model = Segmenter(FINE, 5, head)
    depths = {name: model.parameter_depth(name) for name, _ in model.named_parameters()}
    trunk = {name: depth for name, depth in depths.items() if name.startswith("backbone.")}
    assert {depth for name, depth in depths.items() if name not in trunk} == {4}
    assert set(trunk.values()) == {0, 1, 2, 3}
    spared = model.without_decay()
    for name, parameter in model.named_parameters():
        assert (name in spared) == (parameter.ndim == 1 or name == "backbone.cls_token"), name


@every_head
def test_bf16_autocast_stays_close(head):
    model = Segmenter(FINE, 5, head).eval()
    disturb(model)
    images = torch.randn(2, 3, 64, 64)
    exact = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(images)
        model.train().logits(images).main.float().square().sum().backward()
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 0.03
    names = [name for name in gradients(model.decode_head) if name.endswith("conv_seg.weight")]
    assert names == ["conv_seg.weight"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: UperNetConfig(out_indices=(1, 2, 3)), r"out_indices \(1, 2, 3\) are not 4 blocks"),
        (
            lambda: UperNetConfig(out_indices=(0, 1, 2, 3)).blocks(3),
            "blocks .* of a backbone with 3",
        ),
        (lambda: LinearHeadConfig(out_index=-1), "out_index is -1"),
        (lambda: UperNetConfig(head_channels=0), "head_channels is 0"),
        (lambda: UperNetConfig(pools=()), "pools is"),
        (lambda: UperNetConfig(pools=(1, 0)), "pools is"),
        (lambda: UperNetConfig(dropout=1.5), "dropout is 1.5"),
        (lambda: UperNetConfig(auxiliary_level=4), "auxiliary_level is 4"),
        (lambda: UperNetConfig(auxiliary_channels=0), "auxiliary_channels is 0"),
        (lambda: SETRConfig(head_channels=-1), "head_channels is -1"),
        (lambda: SETRConfig(dropout=-0.1), "dropout is -0.1"),
        (lambda: Segmenter(FINE, 2, SETRConfig(out_index=3)), "blocks .* of a backbone with 3"),
        (lambda: UperNetConfig().normed_cells((1, 9)), "1 x 9 patches has no pyramid"),
    ],
)
def test_options_that_cannot_be(make, problem):
    with pytest.raises(ConfigError, match=problem + r"[^\n]*\n  remedy: "):
        make()
