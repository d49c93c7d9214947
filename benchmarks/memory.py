"""Peak memory of one pre-training step, each contestant in a process of its own; and what a model
keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.child import run
from benchmarks.peers import gather
from benchmarks.pretraining import PEERS, RECOMPUTING, Scoring, Task, in_children
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
    """Bytes that the forward pass saves for one image more, each storage once: so that what does
    not grow with them, such as weights in another type, is left out."""
    task, precision = Task(setting), setting.precisions[-1]
    peers, skipped = gather({name: partial(task.logits, name) for name in PEERS})
    yield Contest(
        case=f"kept for the backward pass, per image, {precision}",
        contestants={
            name: partial(_growth, setting, precision, scores)
            for name, scores in {OURS: task.logits(OURS), **peers}.items()
        },
        skipped=skipped,
        unit="MiB",
        warm_up=False,
    )


def _growth(setting: Setting, precision: str, scores: Scoring, clock: Clock) -> None:
    few, many = setting.batch // 2, setting.batch
    grown = _saved(setting, precision, scores, many) - _saved(setting, precision, scores, few)
    clock.report(grown / (many - few) / 2**20)


def _saved(setting: Setting, precision: str, scores: Scoring, images: int) -> int:
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with setting.autocast(precision), saved_tensors_hooks(note, lambda tensor: tensor):
        kept = scores(images)  # alive: or storages would be given away under their addresses
    del kept
    return sum(sizes.values())


def _peak(setting: Setting, who: str) -> Contestant:
    quick = "quick" if setting.quick else "full"
    arguments = ["-m", "benchmarks.child", who, setting.device.type, quick, str(setting.batch)]
    return lambda clock: clock.report(float(run(arguments)))
