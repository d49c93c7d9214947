"""Patch aggregation: parity with the released code, the bottleneck, the second loss, the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.batch import MaskedBatch
from beit.config import (
    AggregationConfig,
    MaskedConfig,
    PretrainRunConfig,
    TrainingConfig,
    VQKDConfig,
    sized,
)
from beit.config.tree import from_json, override, to_json
from beit.errors import ConfigError
from beit.models.heads import MaskedImageModel
from beit.models.vit import Features
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.targets import patchify
from beit.recipes.pretrain import RECIPES
from beit.tokenizers import build_tokenizer
from beit.training.ema import average_of
from miniature import BACKBONE, VAE, Told, masked_batch
from reference import TINY, close, disturb, from_published

FOUR = replace(TINY, depth=4)
TAP = AggregationConfig(early_layer=2)


@pytest.fixture
def published(golden):
    facts = golden("v2_mim_cls_shared")
    ours = from_published(facts["model"])
    layers = "backbone.cls_pt_layers."
    names = {name: name.replace(layers, "aggregation.blocks.") for name in ours}
    model = MaskedImageModel(FOUR, 64, TAP)
    model.load_state_dict({names[name]: value for name, value in ours.items()})
    return facts, model.eval()


def small(**options) -> MaskedImageModel:
    model = MaskedImageModel(FOUR, 9, AggregationConfig(**({"early_layer": 2} | options)))
    disturb(model)
    return model


def test_published_predictions(published):
    facts, model = published
    main, aggregated = model.predictions(facts["image"], facts["mask"])
    close(main, facts["logits"], 1e-5)
    close(aggregated, facts["logits_cls"], 1e-5)
    assert torch.equal(model(facts["image"], facts["mask"]), main)
    every = model.predictions(facts["image"], facts["mask"], True)
    for rows, chosen in zip(every, (main, aggregated), strict=True):
        close(rows[facts["mask"].flatten()], chosen, 1e-6)
    assert torch.equal(model(facts["image"], facts["mask"], True), every[0])


@pytest.mark.parametrize(
    ("name", "tap", "parameters"), [("base", 9, 106_143_056), ("large", 21, 336_728_512)]
)
def test_published_size(name, tap, parameters):
    with torch.device("meta"):
        model = MaskedImageModel(sized(name), 8192, AggregationConfig(early_layer=tap))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("recipe", "parameters", "epochs", "betas", "drop_path"),
    [
        ("base-v2-in1k", 106_143_056, 1600, (0.9, 0.999), 0.1),
        ("base-v2-in1k-300", 106_143_056, 300, (0.9, 0.98), 0.0),
        ("large-v2-in1k", 336_728_512, 1600, (0.9, 0.999), 0.1),
        ("large-v2-in1k-300", 336_728_512, 300, (0.9, 0.98), 0.0),
    ],
)
def test_published_recipes_at_full_size(recipe, parameters, epochs, betas, drop_path):
    config = RECIPES[recipe]()
    with torch.device("meta"):
        model = MaskedImageModel(config.model, VQKDConfig().codes, config.aggregation)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert {"aggregation.blocks.0.attn.qkv.weight", "aggregation.blocks.1.mlp.fc2.bias"} <= set(
        model.state_dict()
    )
    assert config.masking.count(config.model.grid) == 75
    assert config.model.grid == VQKDConfig().grid
    training = config.training
    assert (training.batch, training.lr, training.clip) == (2048, 1.5e-3, 3.0)
    assert (training.steps, training.warmup_steps) == (epochs * 625, 10 * 625)
    assert (training.betas, config.model.drop_path) == (betas, drop_path)


def test_blocks_are_drawn_as_those_they_stand_beside():
    backbone = replace(BACKBONE, width=192, hidden=768, depth=6, drop_path=0.5)
    model = MaskedImageModel(backbone, 5, AggregationConfig(early_layer=3))
    for extra, beside in zip(model.aggregation.blocks, model.backbone.blocks[3:5], strict=True):
        assert extra.drop_path1.probability == beside.drop_path2.probability > 0
        for name, weight in extra.state_dict().items():
            twin = beside.state_dict()[name]
            if weight.ndim == 2:
                assert not torch.equal(weight, twin)
                assert float(weight.std()) == pytest.approx(float(twin.std()), rel=0.05), name
            else:
                assert torch.equal(weight, twin), name


def test_more_blocks_than_the_backbone_has_left():
    model = MaskedImageModel(FOUR, 5, AggregationConfig(early_layer=3, blocks=3))
    assert len(model.aggregation.blocks) == 3
    assert model.predictions(torch.randn(2, 3, 64, 64))[1].shape == (32, 5)


def test_only_early_patches_and_the_last_class_token_get_through():
    model = small()
    last, early, patches = torch.randn(2, 48), torch.randn(2, 17, 48), torch.randn(2, 16, 48)

    def aggregated(last, early, patches):
        return model.aggregation(model.backbone, Features(last, patches, (early,)), (4, 4))

    before = aggregated(last, early, patches)
    other_class = early.clone()
    other_class[:, 0] = 0
    assert torch.equal(aggregated(last, other_class, patches + 1), before)
    assert not torch.equal(aggregated(last + 1, early, patches), before)
    assert not torch.equal(aggregated(last, early + 1, patches), before)


@pytest.mark.parametrize("relative", ["shared", "per-block", "none"])
def test_relative_bias_of_the_extra_blocks(relative):
    backbone = replace(FOUR, relative_position=relative, absolute_position=relative == "none")
    model = MaskedImageModel(backbone, 9, TAP)
    disturb(model)
    features = Features(torch.randn(2, 48), torch.randn(2, 16, 48), (torch.randn(2, 17, 48),))
    model.aggregation(model.backbone, features, (4, 4)).sum().backward()
    shared = model.backbone.rel_pos_bias
    own = [block.attn.rel_pos_bias for block in model.aggregation.blocks]
    for found, wanted in ((shared, relative == "shared"), (own[0], relative == "per-block")):
        assert (found is not None) == wanted
        if found is not None:
            assert found.relative_position_bias_table.grad.any()


def test_images_of_another_size():
    main, aggregated = small().predictions(torch.randn(2, 3, 32, 80), torch.rand(2, 10) < 0.5)
    assert main.shape == aggregated.shape


def test_shared_and_own_heads():
    images = torch.randn(2, 3, 64, 64)
    shared, own = small(), small(shared_head=False)
    assert {"norm.weight", "head.weight"} <= own.aggregation.state_dict().keys()
    assert not {"norm.weight", "head.weight"} & shared.aggregation.state_dict().keys()
    for model, learns in ((shared, True), (own, False)):
        model.predictions(images)[1].square().mean().backward()
        for part in (model.norm, model.head):
            assert (part.weight.grad is not None) == learns
    for part in (own.aggregation.norm, own.aggregation.head):
        assert part.weight.grad.any()


def test_own_head_starts_as_the_main_one():
    head = MaskedImageModel(
        replace(TINY, width=192), 512, AggregationConfig(early_layer=1, shared_head=False)
    ).aggregation.head
    assert float(head.weight.detach().std()) == pytest.approx(0.0108, rel=0.05)
    assert not head.bias.any()


def test_layers_and_decay_of_the_extra_parameters():
    model = small()
    for name, parameter in model.named_parameters():
        if name.startswith("aggregation."):
            assert model.parameter_depth(name) == model.deepest
            assert (name in model.without_decay()) == (parameter.ndim == 1)


def objective_of(facts, model, **options) -> tuple[MaskedImageModeling, MaskedBatch]:
    tokens = torch.randint(64, (3, 16))
    told = Told(tokens, size=(32, 32), stride=8, codes=64)
    batch = MaskedBatch(facts["image"], torch.zeros(3, 3, 32, 32), facts["mask"], ("a", "b", "c"))
    return MaskedImageModeling(model, MaskedConfig(**options), told), batch


def test_the_cross_entropies_are_added(published):
    facts, model = published
    objective, batch = objective_of(facts, model)
    total, terms = objective(batch, 0.0)
    targets = objective.tokenizer.tokens[facts["mask"]]
    first, second = (F.cross_entropy(facts[name], targets) for name in ("logits", "logits_cls"))
    close(terms["loss"], first, 1e-5)
    close(terms["aggregation_loss"], second, 1e-5)
    close(total, first + second, 1e-5)
    assert terms["accuracy"] == (facts["logits"].argmax(dim=1) == targets).float().mean()
    assert not terms["aggregation_loss"].requires_grad


def test_all_positions_of_both_predictions(published):
    facts, model = published
    objective, batch = objective_of(facts, model, predict="all")
    every = model.predictions(facts["image"], facts["mask"], True)
    tokens = objective.tokenizer.tokens.flatten()
    close(objective(batch, 0.0).total, sum(F.cross_entropy(rows, tokens) for rows in every), 1e-5)


def test_pixels_can_be_predicted_twice():
    batch = masked_batch(0)
    model = MaskedImageModel(BACKBONE, 48, AggregationConfig(early_layer=1))
    total, terms = MaskedImageModeling(model, MaskedConfig(target="pixels"), None)(batch, 0.0)
    pixels = patchify(model.backbone.normalise(batch.images), 4)[batch.mask]
    expected = [F.mse_loss(rows, pixels) for rows in model.predictions(batch.images, batch.mask)]
    close(terms["aggregation_loss"], expected[1], 1e-6)
    close(total, sum(expected), 1e-6)


@pytest.mark.parametrize("shared_head", [True, False])
def test_every_parameter_learns(shared_head):
    model = MaskedImageModel(
        BACKBONE, VAE.codes, AggregationConfig(early_layer=1, shared_head=shared_head)
    )
    MaskedImageModeling(model, MaskedConfig(), build_tokenizer(VAE))(
        masked_batch(0), 0.0
    ).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_without_aggregation_there_is_one_prediction():
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.4
    for off in (None, AggregationConfig()):
        model = MaskedImageModel(FOUR, 9, off)
        (only,) = model.predictions(images, mask)
        assert torch.equal(only, model(images, mask))
        assert model.aggregation is None


def test_what_is_published_keeps_what_going_on_takes():
    """The model itself, or its average: head, mask token and patch aggregation with it."""
    model = small(shared_head=False)
    objective = MaskedImageModeling(
        model, MaskedConfig(), Told(torch.zeros(1), size=(32, 32), stride=8, codes=9)
    )
    averaged = average_of(model, 0.9)
    for judged in (model, averaged.module):
        assert objective.publish(judged) is judged
        names = set(judged.state_dict())
        assert {"backbone.mask_token", "head.weight", "aggregation.head.weight"} <= names


RUN = PretrainRunConfig(training=TrainingConfig(steps=9, batch=8, lr=1e-3), model=sized("base"))


def test_options_by_name():
    changed = override(RUN, {"early_layer": 9, "shared_head": False})
    assert changed.aggregation == AggregationConfig(early_layer=9, shared_head=False)
    assert from_json(to_json(changed), PretrainRunConfig) == changed


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"early_layer": 12}, "early_layer is 12, and the backbone has 12 blocks"),
        ({"early_layer": 0}, "early_layer is 0"),
        ({"blocks": 0}, "blocks is 0"),
        ({"blocks": 3}, "blocks is 3 and shared_head True, but without early_layer"),
        ({"shared_head": False}, "blocks is 2 and shared_head False, but without early_layer"),
    ],
)
def test_wrong_options(options, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        override(RUN, options)
    assert caught.value.remedy
