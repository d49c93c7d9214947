"""AdamW in groups, one per layer and kind of decay; its schedule; gradients that stand out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from beit.config.training import TrainingConfig
from beit.objectives.base import AnyObjective
from beit.training.checkpoint import Tensors

WINDOW = 64
"""Gradient norms that a new one is compared with."""


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear from 0 to the peak over the warm-up, both ends included, then a cosine to `min_lr`.

    The first warm-up step has learning rate 0, as published. The linear schedule is mmcv's `poly`
    of power 1 (published segmentation): it falls from the first step on, and is multiplied by the
    warm-up, whose first factor is 0 here and 1e-6 there.
    """
    warmup = config.warmup_steps
    if config.schedule == "linear":
        rate = config.min_lr + (config.lr - config.min_lr) * (1 - step / config.steps)
        return rate * (min(step / warmup, 1) if warmup else 1)
    if step < warmup:
        return config.lr * step / max(warmup - 1, 1)
    return _cosine(step - warmup, config.steps - warmup, config.lr, config.min_lr)


def weight_decay(step: int, config: TrainingConfig) -> float:
    """Constant, or a cosine to `final_weight_decay`."""
    if config.final_weight_decay is None:
        return config.weight_decay
    return _cosine(step, config.steps, config.weight_decay, config.final_weight_decay)


def _cosine(step: int, steps: int, first: float, last: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * step / steps))


def longer_schedule(planned: int | None, step: int, config: TrainingConfig) -> list[str]:
    """Notes for the log of a run that is resumed with more steps than were planned.

    Args:
        planned: Steps when the checkpoint was written; None if it does not say.
        step: Updates done.
        config: The config with the new number of steps.
    """
    if planned is None or planned == config.steps:
        return []
    before = learning_rate(step - 1, replace(config, steps=planned)) if step else 0.0
    return [
        f"{config.steps} steps instead of {planned}: from here on the learning rate is that of a "
        f"run of {config.steps} steps, {learning_rate(step, config):.2e} in the next one after "
        f"{before:.2e} in the last"
    ]


class Group(NamedTuple):
    """Parameters that share a learning-rate factor and whether they decay."""

    lr_factor: float
    decays: bool
    names: list[str]
    parameters: list[nn.Parameter]


def parameter_groups(objective: AnyObjective, layer_decay: float) -> list[Group]:
    """Every trainable parameter of the model, in exactly one group (table 13, layer-wise decay).

    The factor of a layer is layer_decay to the power of its distance from the head, so that the
    head has 1, the last block layer_decay.
    """
    groups: dict[tuple[int, bool], Group] = {}
    undecayed = objective.without_decay()
    for name, parameter in objective.model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth, decays = objective.parameter_depth(name), name not in undecayed
        factor = layer_decay ** (objective.deepest - depth)
        group = groups.setdefault((depth, decays), Group(factor, decays, [], []))
        group.names.append(name)
        group.parameters.append(parameter)
    return [groups[key] for key in sorted(groups)]


class Optimizer:
    """AdamW with the schedule applied; its state is kept by parameter name, not by position."""

    def __init__(self, objective: AnyObjective, config: TrainingConfig) -> None:
        self.config = config
        self.groups = parameter_groups(objective, config.layer_decay)
        self._named = [
            pair
            for group in self.groups
            for pair in zip(group.names, group.parameters, strict=True)
        ]
        self.adamw = torch.optim.AdamW(
            [{"params": group.parameters} for group in self.groups],
            lr=config.lr,
            betas=config.betas,
            eps=config.epsilon,
            fused=True,
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self._named]

    def without_gradient(self) -> list[str]:
        """Names of parameters that no gradient has reached yet, so that they have no state."""
        return [name for name, parameter in self._named if not self.adamw.state.get(parameter)]

    def schedule(self, step: int) -> float:
        """Set every group's learning rate and weight decay for this step; returns the base rate."""
        rate, decay = learning_rate(step, self.config), weight_decay(step, self.config)
        for group, options in zip(self.groups, self.adamw.param_groups, strict=True):
            options["lr"] = rate * group.lr_factor
            options["weight_decay"] = decay if group.decays else 0.0
        return rate

    def tensors(self) -> Tensors:
        """The state as `parameter/entry`, e.g. `head.weight/exp_avg`."""
        return {
            f"{name}/{entry}": value
            for name, parameter in self._named
            for entry, value in self.adamw.state[parameter].items()
        }

    def load(self, tensors: Tensors) -> None:
        """Restore what `tensors` returned."""
        entries: dict[str, Tensors] = {}
        for key, value in tensors.items():
            name, entry = key.rsplit("/", 1)
            entries.setdefault(name, {})[entry] = value
        state = self.adamw.state_dict()
        names = [name for name, _ in self._named]
        state["state"] = {i: entries[name] for i, name in enumerate(names) if name in entries}
        self.adamw.load_state_dict(state)


class SpikeDetector:
    """Finds gradients far larger than usual, as a few broken or wrongly labelled images cause them:
    such a step can be skipped before it undoes what many others have learned.

    Norms that stand out are remembered too. So gradients that have become larger for good count as
    usual once they fill half of the window, and no run is left without updates.
    """

    def __init__(self, factor: float, device: torch.device) -> None:
        self._factor = factor
        self._norms = torch.full((WINDOW,), torch.nan, device=device)

    def stands_out(self, norm: Tensor) -> Tensor:
        """1 for a norm of more than `factor` times the median of those before it, else 0; always 0
        until the window is full. It does not wait for the device, and is the same in all
        processes."""
        usual = self._norms.median()  # NaN while one of them is NaN, and no norm exceeds NaN
        later = torch.cat([self._norms[1:], norm.detach().float().reshape(1)])
        self._norms = torch.where(norm.isfinite(), later, self._norms)
        return (norm > self._factor * usual).float()

    def state(self) -> Tensors:
        """What the next answer depends on."""
        return {"norms": self._norms}

    def load(self, tensors: Tensors) -> None:
        """Restore what `state` returned."""
        self._norms.copy_(tensors["norms"])
