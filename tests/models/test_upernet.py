"""UperNet is wired and named as published."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.config import UperNetConfig
from beit.errors import ConfigError
from beit.models.segmenter import Segmenter
from beit.models.upernet import (
    MANY_CHANNELS,
    ConvNorm,
    Fusion,
    PixelClassifier,
    PyramidNeck,
    UperNetHead,
    resize,
)
from reference import (
    FINE,
    assert_same,
    close,
    disturb,
    gradients,
    to_transformers,
    transformers_config,
)

BACKBONE = replace(FINE, size=(80, 80), depth=5)  # 5 x 5 patches: the levels are 20, 10, 5 and 2
TAPS = (0, 1, 2, 3)
HEADS = {
    "neck.fpn1.0.": "fpn.fpn1.conv_transpose1.",
    "neck.fpn1.1.": "fpn.fpn1.normalization.",
    "neck.fpn1.3.": "fpn.fpn1.conv_transpose2.",
    "neck.fpn2.0.": "fpn.fpn2.",
    "decode_head.bottleneck.": "decode_head.psp_bottleneck.",
    ".conv.": ".convolution.",
    ".bn.": ".normalization.",
    ".conv_seg.": ".classifier.",
}


def renamed(tensors):
    """transformers' names for ours."""
    heads, trunk = {}, {}
    for name, tensor in tensors.items():
        if name.startswith("backbone."):
            trunk[name] = tensor
            continue
        for ours, theirs in HEADS.items():
            name = name.replace(ours, theirs)
        heads[re.sub(r"psp_modules\.(\d)\.1\.", r"psp_modules.blocks.\1.conv.", name)] = tensor
    return heads | to_transformers(trunk, "", "")


def disturbed(model):
    """Nothing at its initial value, the running statistics included."""
    disturb(model)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.add_(0.3 * torch.rand_like(buffer))
    return model


def used(model, last):
    """The gradients, without those of the last block, whose output is not read."""
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (last in name), name
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [False, True], ids=["evaluated", "trained"])
def test_transformers(training):
    """Logits of both heads and all gradients, with running and with batch statistics.

    Two differences outside the wiring: transformers reads the output of block i - 2 where
    `out_indices` says i, counted from 0, and has no dropout in its heads.
    """
    from transformers import BeitForSemanticSegmentation

    ours = disturbed(Segmenter(BACKBONE, 7, UperNetConfig(out_indices=TAPS, dropout=0.0)))
    theirs = BeitForSemanticSegmentation(
        transformers_config(
            BACKBONE,
            use_relative_position_bias=True,
            num_labels=7,
            out_indices=[tap + 2 for tap in TAPS],
        )
    )
    theirs.load_state_dict(renamed(ours.state_dict()))
    ours.train(training)
    theirs.train(training)
    expected = []  # their auxiliary logits are not among their outputs
    for head in (theirs.decode_head, theirs.auxiliary_head):
        head.register_forward_hook(lambda module, inputs, output: expected.append(output))
    images = torch.randn(3, 3, 80, 80)
    predictions = ours.logits(images)
    theirs(images)
    assert [logits.shape for logits in predictions] == [(3, 7, 20, 20), (3, 7, 5, 5)]
    for logits, other in zip(predictions, expected, strict=True):
        close(logits, other, 1e-5)
        for one in (logits, other):
            one.norm().backward(retain_graph=True)
    assert_same(renamed(used(ours, ".blocks.4.")), used(theirs, ".layers.4."), 1e-5)


def test_published_names():
    """Those of the published files, but for the neck's, which stands in the backbone there."""
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    conv_norm = ["conv.weight", *(f"bn.{name}" for name in norm)]
    modules = [f"psp_modules.{pool}.1" for pool in range(4)] + ["bottleneck", "fpn_bottleneck"]
    modules += [f"{kind}_convs.{level}" for kind in ("lateral", "fpn") for level in range(3)]
    expected = {f"decode_head.{module}.{name}" for module in modules for name in conv_norm}
    expected |= {f"auxiliary_head.convs.0.{name}" for name in conv_norm}
    expected |= {f"neck.fpn1.1.{name}" for name in norm}
    ends = ["neck.fpn1.0", "neck.fpn1.3", "neck.fpn2.0"]
    ends += ["decode_head.conv_seg", "auxiliary_head.conv_seg"]
    expected |= {f"{module}.{name}" for module in ends for name in ("weight", "bias")}
    names = Segmenter(FINE, 4, UperNetConfig()).state_dict()
    assert {name for name in names if not name.startswith("backbone.")} == expected


@pytest.mark.parametrize(("level", "side"), [(0, 16), (1, 8), (2, 4), (3, 2)])
def test_auxiliary_head_reads_its_level(level, side):
    model = Segmenter(FINE, 3, UperNetConfig(auxiliary_level=level, auxiliary_channels=5))
    assert model.auxiliary_head.convs[0].conv.out_channels == 5
    main, auxiliary = model.logits(torch.randn(2, 3, 64, 64))
    assert main.shape == (2, 3, 16, 16)
    assert auxiliary.shape == (2, 3, side, side)


def test_options_shape_the_head():
    model = Segmenter(FINE, 3, UperNetConfig(head_channels=12, pools=(1, 4), auxiliary=False))
    head = model.decode_head
    assert head.bottleneck.conv.weight.shape == (12, 48 + 2 * 12, 3, 3)
    assert [module[0].output_size for module in head.psp_modules] == [1, 4]
    main, auxiliary = model.logits(torch.randn(2, 3, 64, 64))
    assert main.shape == (2, 3, 16, 16)
    assert auxiliary is None


def test_initial_values():
    layer = ConvNorm(inputs=64, outputs=96, kernel=3)
    deviation = (2 / (96 * 9)) ** 0.5
    assert float(layer.conv.weight.detach().std()) == pytest.approx(deviation, rel=0.02)
    end = PixelClassifier(channels=400, classes=50, dropout=0.0)
    assert float(end.conv_seg.weight.detach().std()) == pytest.approx(0.01, rel=0.03)
    assert not end.conv_seg.bias.any()


def test_dropout_drops_whole_channels_in_training():
    end = PixelClassifier(channels=64, classes=64, dropout=0.25)
    with torch.no_grad():
        end.conv_seg.weight.copy_(torch.eye(64)[..., None, None])
    x = torch.ones(32, 64, 2, 3)
    dropped = end.classify(x)
    assert (dropped == dropped[..., :1, :1]).all()
    assert dropped.detach().unique().tolist() == pytest.approx([0, 4 / 3])
    # 2048 channels: the share that stays has standard deviation 0.0096.
    assert float((dropped > 0).float().mean()) == pytest.approx(0.75, abs=0.05)
    assert torch.equal(end.eval().classify(x), x)
    heads = Segmenter(FINE, 3, UperNetConfig(dropout=0.3))
    assert [head.dropout.probability for head in (heads.decode_head, heads.auxiliary_head)] == [
        0.3,
        0.3,
    ]


def test_level_sizes_of_a_rectangle():
    maps = [torch.randn(2, 8, 5, 3)] * 4
    levels = PyramidNeck(width=8)(maps)
    assert [tuple(level.shape[-2:]) for level in levels] == [(20, 12), (10, 6), (5, 3), (2, 1)]
    assert torch.equal(levels[2], maps[2])
    assert torch.equal(levels[3], F.max_pool2d(maps[3], 2))


def test_one_row_of_patches_has_no_pyramid():
    with pytest.raises(ConfigError, match=r"1 x 4 patches .*\n.*at least two"):
        Segmenter(FINE, 3, UperNetConfig()).eval()(torch.randn(1, 3, 16, 64))


def test_one_image_can_be_evaluated_but_not_trained_on():
    model, image = Segmenter(FINE, 3, UperNetConfig()), torch.randn(1, 3, 64, 64)
    with pytest.raises(ConfigError, match=r"one image at a time.*\n.*at least 2"):
        model(image)
    assert model.eval()(image).isfinite().all()
    without = Segmenter(FINE, 3, UperNetConfig(pools=(2, 3)))
    without(image).sum().backward()
    assert gradients(without.decode_head)
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(UperNetHead(
        width=8, channels=8, classes=2, dropout=0.0, pools=(1,)))  # fmt: skip
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        synchronised([torch.randn(1, 8, 4, 4)] * 4)  # it counts the images of all processes


@pytest.mark.parametrize("sides", [((12, 8), (6, 4), (3, 2), (1, 1)), ((7, 9), (5, 3), (2, 9))])
@pytest.mark.parametrize("biased", [False, True])
def test_enlarging_after_the_fusion_changes_no_number(sides, biased):
    """Any sizes, also those that do not divide each other, borders included."""
    channels = MANY_CHANNELS
    fusion = Fusion(inputs=len(sides) * channels, outputs=channels, kernel=3).double().eval()
    if biased:  # as after folding the batch norm into it
        fusion.conv.bias = torch.nn.Parameter(torch.randn(channels, dtype=torch.float64))
    maps = [torch.randn(2, channels, *side, dtype=torch.float64) for side in sides]
    enlarged = torch.cat([resize(each, sides[0]) for each in maps], dim=1)
    expected = F.relu(fusion.bn(fusion.conv(enlarged)))
    found = fusion.merge(maps)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)  # it came the other way
