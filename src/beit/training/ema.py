"""The weights of a run: the model, its moving average, and how they lie in the processes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from beit.config.training import TrainingConfig
from beit.errors import CheckpointError
from beit.objectives.base import AnyObjective
from beit.training.checkpoint import Tensors
from beit.training.distributed import (
    Processes,
    check_shardable,
    gather_tensors,
    shard,
    spread_like,
)


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that follows it: average = decay * average + (1 - decay) * weights.

    Buffers are copied, not averaged. The first update copies the weights.
    """
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    averaged.requires_grad_(False)
    averaged.eval()
    return averaged


class Weights:
    """The weights that are trained: in one process, or replicated or sharded over several.

    Create it after the objective is on its device, and before the optimizer, which takes its
    parameters. A forward pass goes through `module`, so that gradients are averaged over the
    processes.
    """

    def __init__(
        self,
        objective: AnyObjective,
        config: TrainingConfig,
        processes: Processes,
        precision: torch.dtype,
    ) -> None:
        self._processes = processes
        self.model = objective.model
        self.average = average_of(self.model, config.average) if config.average else None
        self.module: nn.Module = objective
        self._whole: nn.Module | None = None  # receives weights that are sharded over processes
        if processes.world > 1 and config.sharding == "blocks":
            check_shardable(objective, precision)
            self._whole = deepcopy(self.model).cpu()
            shard(objective, self.average.module if self.average else None, processes.device)
        elif processes.world > 1:
            self.module = processes.replicate(objective)

    @property
    def sharded(self) -> bool:
        """Whether they are sharded over the processes."""
        return self._whole is not None

    @property
    def syncs_in_forward(self) -> bool:
        """Whether processes wait for each other within a forward pass: to gather weights, or for
        the statistics of batch norm."""
        return self.sharded or any(
            isinstance(module, nn.SyncBatchNorm) for module in self.model.modules()
        )

    def update_average(self) -> None:
        if self.average is not None:
            self.average.update_parameters(self.model)

    def eval_model(self) -> nn.Module:
        """The model that is evaluated and published: the average, if there is one.

        All processes must call this; sharded weights are gathered in a copy.
        """
        model = self.model if self.average is None else self.average.module
        if self._whole is None:
            return model
        self._whole.load_state_dict(gather_tensors(model.state_dict(), keep=True))
        return deepcopy(self._whole).to(self._processes.device)

    def state(self, optimizer: Tensors) -> dict[str, Tensors]:
        """All tensors to continue from, by group.

        All processes must call this; sharded tensors are whole in the leader alone.
        """
        groups = {"model": self.model.state_dict(), "optimizer": optimizer}
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        leads = self._processes.leads
        return {name: gather_tensors(group, keep=leads) for name, group in groups.items()}

    def load(self, groups: dict[str, Tensors]) -> Tensors:
        """Restore what `state` returned. Returns this process's part of the optimizer's tensors.

        Raises:
            RuntimeError: The weights are of another architecture.
            CheckpointError: They are of other types: converting them would make it another run.
        """
        for name, module in (("model", self.model), ("average", self.average)):
            if module is not None:
                own = module.state_dict()
                _check_types(name, groups[name], own)
                module.load_state_dict(spread_like(groups[name], own))
        weights = dict(self.model.named_parameters())
        owners: dict[str, Tensor | None] = {
            key: weights.get(key.rsplit("/", 1)[0]) for key in groups["optimizer"]
        }
        _check_types("optimizer", groups["optimizer"], owners)
        return spread_like(groups["optimizer"], owners)


def _check_types(group: str, tensors: Tensors, owners: Mapping[str, Tensor | None]) -> None:
    other = [
        f"{name} {tensors[name].dtype} instead of {owner.dtype}"
        for name, owner in owners.items()
        if owner is not None
        and name in tensors
        and tensors[name].shape == owner.shape
        and tensors[name].dtype != owner.dtype
    ]
    if other:
        raise CheckpointError(
            f"the checkpoint holds tensors of another type ({group}): {', '.join(other[:3])}",
            remedy="nothing is narrowed or widened on the way: go on with the version that wrote "
            "it, or start a new run from the weights with --init",
        )
