"""What the backbone and its heads promise: shapes, initial values, masks, depths, errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from beit.config import HeadConfig
from beit.errors import ConfigError
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.layers import DropPath
from beit.models.position import sine_positions
from beit.models.vit import VisionTransformer
from reference import FINE, TINY, close, disturb, thin

BOTH = replace(TINY, absolute_position=True)


@pytest.mark.parametrize(
    ("size", "patch", "channels"),
    [((32, 32), 4, 3), ((24, 40), 8, 1), ((28, 14), 14, 4), ((32, 96), 32, 13), ((16, 16), 16, 2)],
)
@pytest.mark.parametrize("position", ["none", "shared", "per-block"])
def test_any_size_patch_and_channels(size, patch, channels, position):
    config = thin(
        size, patch, channels, depth=2, absolute_position=True, relative_position=position
    )
    patches = size[0] * size[1] // patch**2
    assert config.patches == patches
    images = torch.randint(256, (2, channels, *size), dtype=torch.uint8)
    features = VisionTransformer(config)(images, out_indices=(1, 0))
    assert features.cls.shape == (2, 16)
    assert features.patches.shape == (2, patches, 16)
    assert [tap.shape for tap in features.intermediates] == [(2, 1 + patches, 16)] * 2
    assert torch.equal(features.intermediates[0][:, 1:], features.patches)
    assert torch.equal(features.intermediates[0][:, 0], features.cls)


@pytest.mark.parametrize("position", ["shared", "per-block"])
def test_another_size_than_built_for_equals_resized_tables(position):
    from beit.models.position import resize_absolute_position, resize_relative_table

    config = replace(BOTH, relative_position=position)
    built = VisionTransformer(config).eval()
    disturb(built)
    larger = VisionTransformer(replace(config, size=(96, 48))).eval()
    weights = built.state_dict()
    for name, tensor in weights.items():
        if name.endswith("relative_position_bias_table"):
            weights[name] = resize_relative_table(tensor, (4, 4), (6, 3))
    weights["pos_embed"] = resize_absolute_position(weights["pos_embed"], (4, 4), (6, 3))
    larger.load_state_dict(weights)
    images = torch.randn(2, 3, 96, 48)
    close(built(images).patches, larger(images).patches, 1e-5)


def test_without_positions_patches_have_no_order():
    model = VisionTransformer(replace(TINY, relative_position="none"))
    disturb(model)
    images = torch.randn(1, 3, 64, 64)
    rolled = images.roll((16, 32), dims=(2, 3))
    expected = model(images).patches.reshape(4, 4, -1).roll((1, 2), dims=(0, 1)).flatten(0, 1)
    close(model(rolled).patches[0], expected, 1e-5)


def test_bytes_and_normalised_floats_agree():
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    model = VisionTransformer(replace(TINY, mean=mean, std=std))
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    shape = (1, 3, 1, 1)
    floats = (images / 255 - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
    close(model(images).patches, model(floats).patches, 1e-6)


@pytest.mark.parametrize(("kind", "std"), [("pretrain", 0.0108), ("finetune", 0.0200)])
def test_initial_values(kind, std):
    config = replace(BOTH, width=192, hidden=768, initialisation=kind, layer_scale=0.03)
    model = VisionTransformer(config)

    def measured(weight):
        return pytest.approx(float(weight.detach().std()), rel=0.05)

    for layer, block in enumerate(model.blocks, start=1):
        assert std == measured(block.attn.qkv.weight)
        assert std == measured(block.mlp.fc1.weight)
        assert std == measured(block.attn.proj.weight * math.sqrt(2 * layer))
        assert std == measured(block.mlp.fc2.weight * math.sqrt(2 * layer))
        for gain in (block.gamma_1, block.gamma_2):
            assert (gain == 0.03).all()
        for norm in (block.norm1, block.norm2):
            assert norm.eps == 1e-6
            assert (norm.weight == 1).all()
        for zero in (block.attn.q_bias, block.attn.v_bias, block.mlp.fc1.bias, block.norm1.bias):
            assert not zero.any()
    assert std == measured(model.pos_embed)
    for token in (model.cls_token, model.mask_token):
        assert std == pytest.approx(float(token.detach().std()), rel=0.25)
    assert not model.rel_pos_bias.relative_position_bias_table.any()
    patch, uniform = model.patch_embed.proj, 1 / math.sqrt(768)
    if kind == "pretrain":
        assert patch.weight.abs().max() <= 0.02
        assert model.pos_embed.abs().max() <= 0.02
        assert std == measured(patch.weight)
        assert not patch.bias.any()
    else:
        assert model.pos_embed.abs().max() > 0.05
        assert patch.weight.abs().max() <= uniform
        assert uniform / math.sqrt(3) == measured(patch.weight)
        assert patch.bias.any()


def test_initial_values_by_width():
    """Xavier's uniform draw, of variance 2 / (inputs + outputs), for every layer by itself."""
    config = replace(BOTH, width=192, hidden=768, initialisation="xavier")
    model = VisionTransformer(config)
    for block in model.blocks:
        parts = block.attn.qkv.weight.chunk(3)
        layers = [*((part, 384) for part in parts), (block.attn.proj.weight, 384),
                  (block.mlp.fc1.weight, 960), (block.mlp.fc2.weight, 960)]  # fmt: skip
        for weight, sides in layers:
            assert float(weight.detach().std()) == pytest.approx((2 / sides) ** 0.5, rel=0.05)
            assert float(weight.detach().abs().max()) <= (6 / sides) ** 0.5
        assert not block.attn.proj.bias.any()
    patch = model.patch_embed.proj
    assert float(patch.weight.detach().std()) == pytest.approx((2 / (768 + 192)) ** 0.5, rel=0.05)
    assert not patch.bias.any()
    assert not model.pos_embed[0, 0].any()
    assert torch.equal(model.pos_embed[0, 1:], sine_positions(config.grid, 192))
    assert not model.rel_pos_bias.relative_position_bias_table.any()


def test_initial_heads():
    head = MaskedImageModel(replace(TINY, width=192), 512).head
    assert float(head.weight.detach().std()) == pytest.approx(0.0108, rel=0.03)
    assert not head.bias.any()
    head = Classifier(replace(FINE, width=192), 500, HeadConfig(head_scale=0.001)).head
    assert float(head.weight.detach().std()) == pytest.approx(2e-5, rel=0.03)
    assert not head.bias.any()


def test_layer_scale_can_be_left_out():
    names = [
        name for name, _ in VisionTransformer(replace(TINY, layer_scale=None)).named_parameters()
    ]
    assert not [name for name in names if "gamma" in name]


def test_hidden_pixels_cannot_be_seen():
    model = MaskedImageModel(BOTH, 9).eval()
    disturb(model)
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.5
    hidden = mask.reshape(2, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    logits = model(images, mask)
    assert logits.shape == (int(mask.sum()), 9)
    assert torch.equal(model(torch.where(hidden, torch.randn_like(images), images), mask), logits)
    seen = model(torch.where(hidden, images, torch.randn_like(images)), mask)
    assert not torch.isclose(seen, logits).any(dim=1).all()


def test_masked_rows_come_in_row_major_order():
    model = MaskedImageModel(TINY, 9).eval()
    disturb(model)
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.5
    every = model(images, mask, every_position=True)
    close(model(images, mask), every[mask.flatten()], 1e-6)
    assert model(images).shape == (32, 9)
    assert not torch.isclose(model(images), every).all()


def test_mean_pooling_leaves_the_class_token_out():
    model = Classifier(FINE, 5)
    features = model.backbone(images := torch.randn(2, 3, 64, 64))
    close(model.embed(images), model.norm(features.patches.mean(dim=1)), 1e-6)
    model = Classifier(FINE, 5, HeadConfig(pooling="cls"))
    close(model.embed(images), model.norm(model.backbone(images).cls), 1e-6)


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    layer, x = DropPath(0.25), torch.ones(8000, 2, 3)
    dropped = layer(x)
    per_image = dropped.flatten(1)
    assert (per_image == per_image[:, :1]).all()
    assert per_image.unique().tolist() == pytest.approx([0, 4 / 3])
    # The mean has standard deviation sqrt(0.25 / 0.75 / 8000) = 0.0065.
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(x), x)


def test_drop_path_grows_linearly():
    model = VisionTransformer(replace(TINY, depth=5, drop_path=0.2))
    probabilities = [block.drop_path1.probability for block in model.blocks]
    assert probabilities == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert [
        block.drop_path2.probability for block in VisionTransformer(replace(TINY, depth=1)).blocks
    ] == [0]
    images = torch.randn(4, 3, 64, 64)
    assert not torch.equal(model(images).cls, model(images).cls)
    assert torch.equal(model.eval()(images).cls, model(images).cls)


def test_drop_path_acts_on_both_branches():
    model = VisionTransformer(replace(TINY, depth=2, drop_path=0.999999))
    images = torch.randn(2, 3, 64, 64)
    (after_first,) = model(images, out_indices=(0,)).intermediates
    torch.manual_seed(1)
    assert torch.equal(model(images).patches, after_first[:, 1:])


@pytest.mark.parametrize(
    ("images", "problem", "remedy"),
    [
        ((1, 3, 40, 64), "40 x 64 pixels cannot be cut into patches of 16", "32 or 48 .* 64"),
        ((1, 4, 64, 64), "4 channels, the backbone reads 3", "channels"),
    ],
)
def test_unfitting_images(images, problem, remedy):
    with pytest.raises(ConfigError, match=f"{problem}\n  remedy: .*{remedy}"):
        VisionTransformer(TINY)(torch.zeros(images))


def test_mask_without_a_mask_token():
    with pytest.raises(ConfigError, match="without a mask token"):
        VisionTransformer(FINE)(torch.zeros(1, 3, 64, 64), torch.ones(1, 16, dtype=torch.bool))


def test_depth_of_each_parameter():
    """As published, a shared table counts as the head's layer."""
    depths = {}
    for model in (MaskedImageModel(BOTH, 4), Classifier(FINE, 4)):
        for name, _ in model.named_parameters():
            depths.setdefault(model.parameter_depth(name), set()).add(
                name.removeprefix("backbone.").split(".")[0]
                if ".blocks." not in name
                else name.split(".")[2]
            )
    assert depths == {
        0: {"cls_token", "mask_token", "pos_embed", "patch_embed"},
        1: {"0"},
        2: {"1"},
        3: {"2"},
        4: {"rel_pos_bias", "norm", "head"},
    }
    assert model.deepest == 4


def test_parameters_that_decay():
    """As published: matrices, the mask token and the relative tables."""
    in_block = {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
    trunk = {"patch_embed.proj.weight"}
    trunk |= {f"blocks.{block}.{name}" for block in range(3) for name in in_block}
    table = "rel_pos_bias.relative_position_bias_table"
    expected = [
        (MaskedImageModel(BOTH, 4), trunk | {"mask_token", table}),
        (Classifier(FINE, 4), trunk | {f"blocks.{block}.attn.{table}" for block in range(3)}),
    ]
    for model, names in expected:
        decaying = {name for name, _ in model.named_parameters()} - model.without_decay()
        assert decaying == {f"backbone.{name}" for name in names} | {"head.weight"}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_every_parameter_of_the_classifier_learns(pooling):
    model = Classifier(replace(FINE, absolute_position=True), 5, HeadConfig(pooling=pooling))
    assert_all_learn(model, model(torch.randn(2, 3, 64, 64)))


def test_every_parameter_of_the_pretraining_model_learns():
    model = MaskedImageModel(BOTH, 9)
    assert_all_learn(model, model(torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.5))


def assert_all_learn(model, output):
    output.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("config", [TINY, FINE], ids=["shared", "per-block"])
def test_bf16_autocast_stays_close(config):
    model = VisionTransformer(config)
    disturb(model)
    images = torch.randn(2, 3, 64, 64)
    exact = model(images).patches
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(images).patches
    assert (rounded - exact).norm() / exact.norm() < 0.02
