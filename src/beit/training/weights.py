"""The weights of a run: the model, its average, and how they lie in the processes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from beit.config.training import TrainingConfig
from beit.errors import CheckpointError
from beit.objectives.base import AnyObjective
from beit.training.average import average_of
from beit.training.checkpoint import Tensors
from beit.training.parallel import Processes
from beit.training.sharding import check_shardable, gathered, shard, shared_out


class Weights:
    """What is trained, in one process, or as a copy or a part in each of several.

    To be made before the optimizer, which it gives its parameters, and after the objective is on
    its device. `module` is what a forward pass goes through so that gradients are averaged.
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
        self.average: AveragedModel | None = (
            average_of(self.model, config.average) if config.average else None
        )
        self.module: nn.Module = objective
        self._whole: nn.Module | None = None  # to put weights into that are spread over processes
        if processes.world > 1 and config.sharding == "blocks":
            check_shardable(objective, precision)
            self._whole = deepcopy(self.model).cpu()
            shard(objective, self.average.module if self.average else None, processes.device)
        elif processes.world > 1:
            self.module = processes.replicate(objective)

    @property
    def sharded(self) -> bool:
        """Whether they lie spread over the processes."""
        return self._whole is not None

    @property
    def wait_in_forward(self) -> bool:
        """Whether processes wait for each other within a forward pass: where weights are put
        together, or statistics of batch norm."""
        return self.sharded or any(
            isinstance(module, nn.SyncBatchNorm) for module in self.model.modules()
        )

    def update_average(self) -> None:
        """Let the average follow, if there is one."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def judged(self) -> nn.Module:
        """The model that is evaluated and published: the average, if there is one.

        All processes must ask; weights that lie spread over them are put together in a copy.
        """
        model = self.model if self.average is None else self.average.module
        if self._whole is None:
            return model
        self._whole.load_state_dict(gathered(model.state_dict(), keep=True))
        return deepcopy(self._whole).to(self._processes.device)

    def state(self, optimizer: Tensors) -> dict[str, Tensors]:
        """All tensors to go on from, by group.

        All processes must ask; tensors that lie spread over them are whole in the leader alone.
        """
        groups = {"model": self.model.state_dict(), "optimizer": optimizer}
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        leads = self._processes.leads
        return {name: gathered(group, keep=leads) for name, group in groups.items()}

    def load(self, groups: dict[str, Tensors]) -> Tensors:
        """Take over what `state` returned; the optimizer's tensors, as they lie in this process.

        Raises RuntimeError if these are the weights of another architecture, CheckpointError if
        they are of other types: to convert them would make it another run.
        """
        for name, module in (("model", self.model), ("average", self.average)):
            if module is not None:
                own = module.state_dict()
                _check_types(name, groups[name], own)
                module.load_state_dict(shared_out(groups[name], own))
        weights = dict(self.model.named_parameters())
        owners: dict[str, Tensor | None] = {
            key: weights.get(key.rsplit("/", 1)[0]) for key in groups["optimizer"]
        }
        _check_types("optimizer", groups["optimizer"], owners)
        return shared_out(groups["optimizer"], owners)


def _check_types(group: str, tensors: Tensors, owners: Mapping[str, Tensor | None]) -> None:
    """Raise CheckpointError for tensors of another type than what they are as large as."""
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
