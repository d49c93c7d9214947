"""The backbone behind timm's verbs: the same answers as timm's own model, and of use to others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm.models._features import FeatureGetterNet
from timm.models.beit import Beit
from torch import nn

from beit.config import HeadConfig, UperNetConfig
from beit.errors import ConfigError
from beit.models.features import FeatureExtractor
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from reference import FINE, close, disturb, to_timm, weights

SIZE = (48, 80)
DEPTH = 4
BACKBONE = replace(FINE, size=SIZE, depth=DEPTH)
IMAGES = torch.linspace(-2, 2, 2 * 3 * 48 * 80).sin().reshape(2, 3, 48, 80)


def pair(pooling: str, relative: str = "per-block") -> tuple[FeatureExtractor, Beit]:
    """Ours and timm's, with the same weights."""
    absolute = relative != "per-block"
    backbone = replace(BACKBONE, relative_position=relative, absolute_position=absolute)
    model = Classifier(backbone, 5, HeadConfig(pooling=pooling))
    disturb(model)
    theirs = Beit(
        img_size=SIZE,
        num_classes=5,
        global_pool="avg" if pooling == "mean" else "token",
        embed_dim=48,
        depth=DEPTH,
        num_heads=3,
        init_values=0.1,
        use_abs_pos_emb=absolute,
        use_rel_pos_bias=relative == "per-block",
        use_shared_rel_pos_bias=relative == "shared",
    ).eval()
    theirs.load_state_dict(to_timm(weights(model), pooling))
    return FeatureExtractor(model.eval()), theirs


@pytest.fixture(params=["mean", "cls"])
def both(request) -> tuple[FeatureExtractor, Beit]:
    return pair(request.param)


def same(ours, theirs) -> None:
    """Nested lists and tuples of tensors: the same nesting, types, shapes and numbers."""
    if isinstance(theirs, torch.Tensor):
        assert ours.shape == theirs.shape
        return close(ours, theirs, 1e-5)
    assert type(ours) is type(theirs)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        same(one, other)
    return None


@pytest.mark.parametrize("relative", ["shared", "per-block", "none"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_features_and_heads(relative, pooling):
    ours, theirs = pair(pooling, relative)
    tokens = ours.forward_features(IMAGES)
    same(tokens, theirs.forward_features(IMAGES))
    for only in (True, False):
        same(
            ours.forward_head(tokens, pre_logits=only), theirs.forward_head(tokens, pre_logits=only)
        )
    same(ours(IMAGES), theirs(IMAGES))


@pytest.mark.parametrize("options", [
    {},
    {"indices": 2},
    {"indices": [-1, 1]},
    {"indices": (2, 0, 2)},
    {"indices": [0, 2], "norm": True},
    {"indices": [1], "stop_early": True},
    {"indices": [0, 2], "stop_early": True, "norm": True, "intermediates_only": True},
    {"indices": 2, "output_fmt": "NLC"},
    {"return_prefix_tokens": True},
    {"indices": [1], "return_prefix_tokens": True, "output_fmt": "NLC", "norm": True},
    {"indices": [3], "intermediates_only": True},
])  # fmt: skip
def test_intermediates(both, options):
    ours, theirs = both
    same(
        ours.forward_intermediates(IMAGES, **options),
        theirs.forward_intermediates(IMAGES, **options),
    )


def test_stopping_early_computes_no_later_block(both):
    ours, _ = both
    computed = []
    for index, block in enumerate(ours.backbone.blocks):
        block.register_forward_hook(lambda *_, index=index: computed.append(index))
    ours.forward_intermediates(IMAGES, [1], stop_early=True)
    assert computed == [0, 1]
    assert len(ours.backbone.blocks) == DEPTH
    ours.forward_intermediates(IMAGES, [1])
    assert computed == [0, 1, 0, 1, 2, 3]


@pytest.mark.parametrize("pool", [None, "", "avg", "token"])
def test_resetting_the_classifier(both, pool):
    for classes in (3, 0):
        for model in both:
            model.reset_classifier(classes, pool)
        ours, theirs = both
        assert (ours.num_classes, ours.global_pool) == (theirs.num_classes, theirs.global_pool)
        assert ours(IMAGES).shape == theirs(IMAGES).shape
        assert type(ours.get_classifier()) is type(theirs.get_classifier())
    same(ours(IMAGES), theirs(IMAGES))


def test_what_a_model_says_of_itself(both):
    ours, theirs = both
    for name in ("num_features", "head_hidden_size", "embed_dim", "num_prefix_tokens"):
        assert getattr(ours, name) == getattr(theirs, name)
    for one, other in zip(ours.feature_info, theirs.feature_info, strict=True):
        assert one["module"] == f"backbone.{other['module']}"
        assert (one["num_chs"], one["reduction"]) == (other["num_chs"], other["reduction"])
        assert isinstance(ours.get_submodule(one["module"]), nn.Module)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("prune", [False, True])
def test_the_feature_net_of_timm(both, norm, prune):
    nets = [FeatureGetterNet(model, [0, -2], norm=norm, prune=prune) for model in both]
    assert nets[0].feature_info.channels() == nets[1].feature_info.channels() == [48, 48]
    assert nets[0].feature_info.reduction() == nets[1].feature_info.reduction() == [16, 16]
    same(*(net(IMAGES) for net in nets))
    assert len(both[0].backbone.blocks) == (3 if prune else DEPTH)


def test_the_transforms_of_timm():
    from timm.data import resolve_model_data_config

    model = Classifier(replace(BACKBONE, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), 5)
    config = resolve_model_data_config(FeatureExtractor(model, crop=0.8))
    assert config["input_size"] == (3, *SIZE)
    assert config["mean"] == (0.1, 0.2, 0.3)
    assert config["std"] == (0.4, 0.5, 0.6)
    assert (config["crop_pct"], config["interpolation"]) == (0.8, "bicubic")
    assert config["crop_mode"] == "center"
    stretched = FeatureExtractor(model, resize="stretch", interpolation="bilinear")
    config = resolve_model_data_config(stretched)
    assert (config["crop_mode"], config["interpolation"]) == ("squash", "bilinear")


def test_it_is_a_copy():
    model = MaskedImageModel(replace(BACKBONE, mask_token=True), 11)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    extractor = FeatureExtractor(model)
    extractor.prune_intermediate_layers([0], prune_norm=True)
    extractor(IMAGES).sum().backward()
    assert all(p.grad is not None for p in extractor.parameters())  # none lies idle
    with torch.no_grad():
        for parameter in extractor.parameters():
            parameter.zero_()
    assert model.backbone.config == replace(BACKBONE, mask_token=True)
    assert before.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_models_give_features_too():
    masked = MaskedImageModel(BACKBONE, 11).eval()
    disturb(masked)
    raw = masked.backbone(IMAGES)
    close(FeatureExtractor(masked)(IMAGES), masked.norm(raw.cls), 1e-6)
    head = UperNetConfig(out_indices=(0, 1, 2, 3), auxiliary_channels=8)
    segmenter = Segmenter(BACKBONE, 3, head).eval()
    disturb(segmenter)
    raw = segmenter.backbone(IMAGES)
    close(FeatureExtractor(segmenter)(IMAGES), raw.patches.mean(dim=1), 1e-6)


def test_images_of_another_size(both):
    ours, _ = both
    (features,) = ours.forward_intermediates(
        torch.zeros(1, 3, 32, 96, dtype=torch.uint8), 1, intermediates_only=True
    )
    assert features.shape == (1, 48, 2, 6)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"indices": [4]}, "not there: the backbone has 4"),
        ({"indices": [-5]}, "not there"),
        ({"indices": 5}, "not there"),
        ({"indices": 0}, "not there"),
        ({"indices": []}, "not there"),
    ],
)
def test_blocks_that_are_not_there(both, options, problem):
    with pytest.raises(ConfigError, match=problem):
        both[0].forward_intermediates(IMAGES, **options)
