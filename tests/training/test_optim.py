"""Optimizer: every parameter once, with its factor and its decay; the average by its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from beit.config import TrainingConfig
from beit.training.ema import average_of
from beit.training.optim import Optimizer, parameter_groups
from miniature import classification, image_batch, labelled_batch, masked, reconstruct

CONFIG = TrainingConfig(
    steps=10, batch=8, lr=0.1, warmup_steps=2, weight_decay=0.05, layer_decay=0.5
)


def update(optimizer, objective, batch, steps=1):
    for _ in range(steps):
        optimizer.adamw.zero_grad()
        objective(batch, 0.0).total.backward()
        optimizer.adamw.step()


@pytest.mark.parametrize("make", [reconstruct, masked, classification])
def test_every_parameter_is_in_exactly_one_group(make):
    objective = make()
    groups = parameter_groups(objective, 0.5)
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(dict(objective.model.named_parameters()))
    for group in groups:
        for name, parameter in zip(group.names, group.parameters, strict=True):
            assert objective.model.get_parameter(name) is parameter


def test_frozen_parameters_are_left_out():
    objective = masked()
    objective.model.backbone.cls_token.requires_grad_(False)
    names = [name for group in parameter_groups(objective, 1.0) for name in group.names]
    assert "backbone.cls_token" not in names
    assert not any(name.startswith("tokenizer") for name in names)


def test_what_does_not_decay():
    """Vectors, the class token and absolute positions; mask token and tables do, as published."""
    groups = parameter_groups(masked(), 1.0)
    decays = {name: group.decays for group in groups for name in group.names}
    for name, decaying in decays.items():
        vector = name.endswith(("bias", "norm.weight", "norm1.weight", "norm2.weight"))
        special = name.endswith(("gamma_1", "gamma_2", "cls_token", "pos_embed"))
        assert decaying is not (vector or special), name
    assert decays["backbone.mask_token"]
    assert decays["backbone.rel_pos_bias.relative_position_bias_table"]


def test_models_without_layers_decay_their_matrices():
    groups = parameter_groups(reconstruct(), 0.5)
    assert {group.lr_factor for group in groups} == {1.0}
    for group in groups:
        assert all((parameter.ndim > 1) is group.decays for parameter in group.parameters)


def test_schedule_reaches_every_group():
    optimizer = Optimizer(classification(), CONFIG)
    assert optimizer.schedule(0) == 0.0
    assert optimizer.schedule(1) == 0.1
    for group, options in zip(optimizer.groups, optimizer.adamw.param_groups, strict=True):
        assert options["lr"] == pytest.approx(0.1 * group.lr_factor)
        assert options["weight_decay"] == (0.05 if group.decays else 0.0)
    assert {group.lr_factor for group in optimizer.groups} == {0.125, 0.25, 0.5, 1.0}


def test_state_goes_by_name():
    objective, batch = classification(), labelled_batch(0)
    optimizer = Optimizer(objective, CONFIG)
    assert optimizer.tensors() == {}
    update(optimizer, objective, batch, steps=2)
    state = {name: value.clone() for name, value in optimizer.tensors().items()}
    assert set(state) == {
        f"{name}/{entry}"
        for name, _ in objective.model.named_parameters()
        for entry in ("step", "exp_avg", "exp_avg_sq")
    }
    other = classification()
    other.model.load_state_dict(objective.model.state_dict())
    restored = Optimizer(other, CONFIG)
    restored.load(dict(sorted(state.items(), reverse=True)))
    for name, value in restored.tensors().items():
        assert torch.equal(value, state[name]), name
    update(optimizer, objective, batch)
    update(restored, other, batch)
    for name, value in other.model.state_dict().items():
        assert torch.equal(value, objective.model.state_dict()[name]), name


def test_average_is_the_formula():
    model = nn.Linear(3, 2)
    averaged = average_of(model, 0.9)
    expected = None
    for _ in range(4):
        with torch.no_grad():
            model.weight.normal_()
        averaged.update_parameters(model)
        weight = model.weight.detach().clone()
        expected = weight if expected is None else 0.9 * expected + 0.1 * weight
        torch.testing.assert_close(averaged.module.weight, expected)
    assert not averaged.module.training
    assert not averaged.module.weight.requires_grad


def test_buffers_of_the_average_are_the_latest():
    objective = reconstruct()
    averaged = average_of(objective.model, 0.9)
    for step in range(2):
        objective(image_batch(step), 0.0)
        averaged.update_parameters(objective.model)
    assert torch.equal(averaged.module.usage, objective.model.usage)
