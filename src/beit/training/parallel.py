"""One process or many: what `torchrun` says, the device, the precision, and sums over processes."""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, and not in __all__
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from beit.config.training import Precision, TrainingConfig
from beit.errors import BeitError, ConfigError, ResourceError
from beit.hardware import find_device, multiplies_bfloat16
from beit.process import end_with_parent

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
        with warnings.catch_warnings():  # later versions of torch have another word for buffers
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(
                objective, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def average_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """What `replicate` does by itself, for gradients that were kept from it."""
        for weight in weights:
            if weight.grad is not None:
                self.mean(weight.grad)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes."""
        if self.world > 1:
            distributed.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """True where it is true in any process."""
        if self.world == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
        return bool(votes.item())

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

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            distributed.barrier()

    def close(self) -> None:
        """Leave the process group."""
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def start_processes(config: TrainingConfig) -> Processes:
    """Join the processes that `torchrun` started, or be the only one."""
    device = config.device
    if device == "cuda":
        find_device(device)
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Processes(0, 1, torch.device(kind))
    chosen = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(
        kind)  # fmt: skip
    if kind == "cuda":
        torch.cuda.set_device(chosen)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM)  # save, and leave the devices, if torchrun is killed
    timeout = timedelta(seconds=config.process_timeout)
    store, rank, world = next(rendezvous("env://", timeout=timeout))
    # torchrun keeps its store over restarts, and with it the addresses of processes that are dead.
    store = PrefixStore(f"restart {restarts()}", store)
    distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=timeout,
    )
    return Processes(rank, world, chosen)


def restarts() -> int:
    """How often `torchrun` has started these processes again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


LOST = re.compile("timed out|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
"""What gloo says of a process that no longer answers; NCCL's errors have a type of their own."""


def lost_a_process(error: Exception) -> bool:
    """True if an error says that another process hangs or is gone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return isinstance(error, distributed.DistError) or bool(LOST.search(str(error)))


def lost_process(error: Exception, timeout: float, when: str) -> ResourceError:
    """What to say where `lost_a_process`."""
    return ResourceError(
        f"another process ended, or did not answer for {timeout:g} seconds, {when}: {error}",
        remedy="see what it said last; torchrun --max-restarts 3 goes on by itself, the same "
        "command with --resume otherwise",
    )


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The autocast type: as asked, or bfloat16 where the hardware multiplies it fast."""
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "fp16 training needs a GPU", remedy="use precision bf16 or fp32 on the CPU"
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Run matrix products in `dtype`, everything that needs it in float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
