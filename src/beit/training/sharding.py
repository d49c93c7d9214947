"""FSDP2: every process holds a part of each weight, of its gradient and of the optimizer's state.

A block's weights are put together where it is computed, and let go after it. Whoever saves, judges
or publishes a model gets it whole, so that nothing outside of a step knows of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, distributed, nn

from beit.errors import ConfigError
from beit.objectives.base import AnyObjective

if TYPE_CHECKING:  # the functions import it: it takes seconds, and most runs never need it
    from torch.distributed.tensor import DTensor


def check_shardable(objective: AnyObjective, precision: torch.dtype) -> None:
    """Raise ConfigError unless the model has blocks to share out, and gradients of full range."""
    if not _block_names(objective):
        raise ConfigError(
            f"{type(objective.model).__name__} has no transformer blocks that processes could "
            "share out",
            remedy="leave --sharding off: each process has room for such a model",
        )
    if precision == torch.float16:
        raise ConfigError(
            "fp16 training keeps all weights in each process",
            remedy="use --precision bf16 or fp32, or leave --sharding off",
        )


def shard(objective: AnyObjective, average: nn.Module | None, device: torch.device) -> None:
    """Share the weights of the model out in place, and those of its average alike.

    What an objective only looks at, such as a tokenizer, stays whole. The optimizer is made after
    this, as the parameters are others.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    names = _block_names(objective)
    trained = {*objective.model.parameters()}
    others = {weight for weight in objective.parameters() if weight not in trained}
    for name in names:
        fully_shard(objective.model.get_submodule(name), mesh=mesh)
    fully_shard(objective, mesh=mesh, ignored_params=others)
    if average is not None:
        for name in names:
            fully_shard(average.get_submodule(name), mesh=mesh)
        fully_shard(average, mesh=mesh)


def _block_names(objective: AnyObjective) -> list[str]:
    blocks = {*objective.blocks()}
    return [name for name, module in objective.model.named_modules() if module in blocks]


def _is_spread(tensor: Tensor | None) -> TypeGuard[DTensor]:
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that lies spread over the processes; each of them must ask."""
    return tensor.full_tensor() if _is_spread(tensor) else tensor


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors, one after the other; in the host's memory if they were spread, and nothing
    for a process that does not keep them. All processes must ask."""
    result = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            result[name] = full.cpu() if _is_spread(tensor) else full
    return result


def shared_out(
    tensors: Mapping[str, Tensor], owners: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """This process's parts of tensors that each process has whole, spread as their owners are."""
    return {name: _like(tensor, owners.get(name)) for name, tensor in tensors.items()}


def _like(tensor: Tensor, owner: Tensor | None) -> Tensor:
    if not _is_spread(owner) or tensor.shape != owner.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        tensor.to(owner.device), owner.device_mesh, owner.placements, src_data_rank=None
    )
