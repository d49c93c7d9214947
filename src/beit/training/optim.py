"""AdamW in groups: one per layer and kind of decay."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from beit.config.training import TrainingConfig
from beit.objectives.base import AnyObjective
from beit.training.schedule import learning_rate, weight_decay


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
    """AdamW with the schedule applied; its state is told by parameter name, not by position."""

    def __init__(self, objective: AnyObjective, config: TrainingConfig) -> None:
        self.config = config
        self.groups = parameter_groups(objective, config.layer_decay)
        self.adamw = torch.optim.AdamW(
            [{"params": group.parameters} for group in self.groups],
            lr=config.lr,
            betas=config.betas,
            eps=config.epsilon,
            fused=True,
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group.parameters]

    def never_reached(self) -> list[str]:
        """Names of parameters for which no gradient has come yet: there is no state of them."""
        return [
            name
            for group in self.groups
            for name, parameter in zip(group.names, group.parameters, strict=True)
            if not self.adamw.state.get(parameter)
        ]

    def schedule(self, step: int) -> float:
        """Set every group's learning rate and weight decay for this step; returns the base rate."""
        rate, decay = learning_rate(step, self.config), weight_decay(step, self.config)
        for group, options in zip(self.groups, self.adamw.param_groups, strict=True):
            options["lr"] = rate * group.lr_factor
            options["weight_decay"] = decay if group.decays else 0.0
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """The state as `parameter/entry`, e.g. `head.weight/exp_avg`."""
        return {
            f"{name}/{entry}": value
            for group in self.groups
            for name, parameter in zip(group.names, group.parameters, strict=True)
            for entry, value in self.adamw.state[parameter].items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        entries: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, entry = key.rsplit("/", 1)
            entries.setdefault(name, {})[entry] = value
        names = [name for group in self.groups for name in group.names]
        state = self.adamw.state_dict()
        state["state"] = {i: entries[name] for i, name in enumerate(names) if name in entries}
        self.adamw.load_state_dict(state)
