"""One process or many: who is in the group, what they share, and weights sharded over them.

Data parallel: every process has all weights, and DDP averages their gradients. Sharded (FSDP2):
each holds a part of every weight, of its gradient and of the optimizer's state; a block's weights
are gathered where it computes. Whoever saves, evaluates or publishes a model gets it whole, so that
nothing outside of a step knows of this.
"""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, and not in __all__
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from beit.config.training import TrainingConfig
from beit.config.validation import require
from beit.errors import BeitError, ConfigError, ResourceError
from beit.hardware import find_device
from beit.objectives.base import AnyObjective
from beit.process import end_with_parent

if TYPE_CHECKING:  # the functions import it: it takes seconds, and most runs never need it
    from torch.distributed.tensor import DTensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among all; `rank` 0 writes files."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def replicate(self, objective: nn.Module) -> nn.Module:
        """The module whose gradients are averaged over processes."""
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():  # later versions of torch have another name for it
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(
                objective, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
        return bool(flags.item())

    def gather(self, value: Value) -> list[Value]:
        """The value of each process, in rank order."""
        if self.world == 1:
            return [value]
        values = [value] * self.world
        distributed.all_gather_object(values, value)
        return values

    def on_leader(self, action: Callable[[], None]) -> None:
        """Do something in rank 0 only; its error, if any, is raised in every process."""
        error: BeitError | None = None
        if self.leads:
            try:
                action()
            except BeitError as raised:
                error = raised
        error = self.gather(error)[0]
        if error is not None:
            raise error

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the process group."""
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def start_processes(config: TrainingConfig) -> Processes:
    """Join the processes of a run; raises what `join_processes` raises."""
    return join_processes(config.device, config.process_timeout)


def join_processes(name: str, process_timeout: float = 1800.0) -> Processes:
    """Join the processes that `torchrun` started, or be the only one, on the device of that name.

    Args:
        name: Name of the device, or "auto".
        process_timeout: Seconds after which a process that does not answer counts as lost.

    Raises:
        ConfigError: The device is not there.
    """
    device, alone = find_device(name), int(os.environ.get("WORLD_SIZE", "1")) == 1
    if device.type == "mps" and not alone:
        require(
            name == "auto",
            "several processes were to compute on one Apple GPU",
            "use one process, or --device cpu",
        )
        device = torch.device("cpu")
    if alone:
        return Processes(0, 1, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM)  # save, and leave the devices, if torchrun is killed
    timeout = timedelta(seconds=process_timeout)
    store, rank, world = next(rendezvous("env://", timeout=timeout))
    # torchrun keeps its store over restarts, and with it the addresses of processes that are dead.
    store = PrefixStore(f"restart {restarts()}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=timeout
    )
    return Processes(rank, world, device)


def restarts() -> int:
    """How often `torchrun` has started these processes again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


LOST = re.compile("timed out|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
"""What gloo reports of a process that no longer answers; NCCL's errors have a type of their own."""


def lost_process(error: Exception, timeout: float, when: str) -> ResourceError | None:
    """The error to raise instead, if an error means that another process hangs or has ended.

    Args:
        error: What was raised here.
        timeout: Seconds that processes wait for each other, for the message.
        when: When it happened, e.g. "after step 5".

    Returns:
        None if the error has another reason.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    if not (isinstance(error, distributed.DistError) or LOST.search(str(error))):
        return None
    return ResourceError(
        f"another process ended, or did not answer for {timeout:g} seconds, {when}: {error}",
        remedy="see what it printed last; torchrun --max-restarts 3 continues by itself, the same "
        "command with --resume otherwise",
    )


# -- weights sharded over processes --------------------------------------------------------------


def check_shardable(objective: AnyObjective, precision: torch.dtype) -> None:
    """Raise ConfigError unless the model has blocks to shard, and gradients of full range."""
    if not _block_names(objective):
        raise ConfigError(
            f"{type(objective.model).__name__} has no transformer blocks to shard over processes",
            remedy="leave --sharding off: each process has room for such a model",
        )
    if precision == torch.float16:
        raise ConfigError(
            "fp16 training keeps all weights in each process",
            remedy="use --precision bf16 or fp32, or leave --sharding off",
        )


def shard(objective: AnyObjective, average: nn.Module | None, device: torch.device) -> None:
    """Shard the weights of the model, and those of its average, over the processes, in place.

    A frozen sibling of the model, such as a tokenizer, stays whole. The parameters are replaced, so
    create the optimizer after this.

    Args:
        objective: Its model is sharded block by block.
        average: A copy of the model, or None without an average.
        device: The device of this process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    frozen = {*objective.parameters()} - {*objective.model.parameters()}
    names = _block_names(objective)
    for name in names:
        fully_shard(objective.model.get_submodule(name), mesh=mesh)
    fully_shard(objective, mesh=mesh, ignored_params=frozen)
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
    """All of a tensor that may be sharded over the processes; each of them must call this."""
    return tensor.full_tensor() if _is_spread(tensor) else tensor


def gather_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Gather whole tensors, one after the other: in the host's memory if they were sharded, and
    none for a process that does not `keep` them. All processes must call this."""
    result = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            result[name] = full.cpu() if _is_spread(tensor) else full
    return result


def spread_like(
    tensors: Mapping[str, Tensor], owners: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """This process's parts of tensors that each process has whole, sharded as their owners are."""
    result = {}
    for name, tensor in tensors.items():
        owner = owners.get(name)
        if _is_spread(owner) and tensor.shape == owner.shape:
            from torch.distributed.tensor import distribute_tensor

            tensor = distribute_tensor(
                tensor.to(owner.device), owner.device_mesh, owner.placements, src_data_rank=None
            )
        result[name] = tensor
    return result
