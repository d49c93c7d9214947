"""Peak memory of one pre-training step, each contestant in a process of its own; and what a model
keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.child import run
from benchmarks.peers import gather
from benchmarks.pretraining import PEERS, RECOMPUTING, Task, Tensors, in_children
from benchmarks.race import OURS, Clock, Contest, Contestant
from benchmarks.setting import Setting


def contests(setting: Setting) -> Iterator[Contest]:
    """On a CPU all of the process, libraries and weights included; on a GPU what torch took."""
    peers, skipped = in_children()
    yield Contest(
        case="pre-training step fp32",
        contestants={name: _peak(setting, name) for name in (OURS, *RECOMPUTING, *peers)},
        skipped=skipped,
        unit="MiB",
        warm_up=False,
    )

    yield from _kept(setting)


def _kept(setting: Setting) -> Iterator[Contest]:
    """Bytes per picture that the forward pass saves, each storage once, weights left out."""
    task, precision = Task(setting), setting.precisions[-1]
    peers, skipped = gather({name: partial(task.logits, name) for name in PEERS})
    losses = {OURS: lambda: task.model(task.images, task.mask), **peers}
    yield Contest(
        case=f"kept for the backward pass, per picture, {precision}",
        contestants={
            name: partial(_saved, setting, precision, loss) for name, loss in losses.items()
        },
        skipped=skipped,
        unit="MiB",
        warm_up=False,
    )


def _saved(setting: Setting, precision: str, logits: Tensors, clock: Clock) -> None:
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with setting.autocast(precision), saved_tensors_hooks(note, lambda tensor: tensor):
        kept = logits()  # alive, so that no storage is given away and counted under its address
    clock.report(sum(sizes.values()) / setting.batch / 2**20)
    del kept


def _peak(setting: Setting, who: str) -> Contestant:
    quick = "quick" if setting.quick else "full"
    arguments = ["-m", "benchmarks.child", who, setting.device.type, quick, str(setting.batch)]
    return lambda clock: clock.report(float(run(arguments)))
