"""Saving beside training: the state is copied on its step, and a thread writes the copy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from beit.errors import ResourceError
from beit.training.checkpoint import Checkpoint, Tensors, make_room, save_checkpoint

WAITS = (1.0, 5.0, 20.0)
"""Seconds before each further try of a save that failed: somebody may make room."""


class Saver:
    """Writes the checkpoints of a run, one at a time.

    The state lies copied in host memory until it is published, so that training goes on meanwhile,
    and a save that fails is tried again with the very same state.
    """

    def __init__(self, folder: Path, *, keep: int, waits: Sequence[float] = WAITS) -> None:
        self._folder, self._keep, self._waits = folder, keep, waits
        self._copies: dict[str, Tensors] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[int] | None = None
        self._published: int | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy the state and have it written, once the save before this one is done.

        Raises ResourceError if that one failed.
        """
        self.finish()
        copied = checkpoint._replace(tensors=self._copied(checkpoint.tensors))
        self._writing = self._writer.submit(self._write, copied)

    def _copied(self, groups: dict[str, Tensors]) -> dict[str, Tensors]:
        """The tensors in memory of the host, each in the place of its former copy."""
        copies = {
            group: {
                name: _place_for(tensor, self._copies.get(group, {}).get(name))
                for name, tensor in tensors.items()
            }
            for group, tensors in groups.items()
        }
        on_device = False
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                on_device |= tensor.is_cuda
                copies[group][name].copy_(tensor.detach(), non_blocking=True)
        if on_device:
            torch.cuda.synchronize()
        self._copies = copies
        return copies

    def _write(self, checkpoint: Checkpoint) -> int:
        for wait in self._waits:
            try:
                save_checkpoint(self._folder, checkpoint, keep=self._keep)
            except ResourceError:
                time.sleep(wait)
            else:
                return checkpoint.step
        make_room(self._folder)
        save_checkpoint(self._folder, checkpoint, keep=self._keep, foresee=False)
        return checkpoint.step

    @property
    def has_failed(self) -> bool:
        """True once a save was given up."""
        writing = self._writing
        return writing is not None and writing.done() and writing.exception() is not None

    @property
    def published(self) -> int | None:
        """The step of the newest checkpoint that is whole and durable."""
        writing = self._writing
        if writing is not None and writing.done() and writing.exception() is None:
            self._published = writing.result()
        return self._published

    def finish(self) -> None:
        """Wait until what was to be saved is published.

        Raises ResourceError, once, if it could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            self._published = writing.result()

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.shutdown()


def _place_for(tensor: Tensor, former: Tensor | None) -> Tensor:
    if former is not None and former.shape == tensor.shape and former.dtype == tensor.dtype:
        return former
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


class SaveCost(NamedTuple):
    """Seconds that a save keeps training waiting, and seconds until it is published."""

    in_step: float
    published: float


def cost_of_saving(checkpoint: Checkpoint, folder: Path, *, repeats: int) -> list[SaveCost]:
    """Save a state several times, each after the one before is published."""
    saver = Saver(folder, keep=1)
    costs = []
    try:
        for _ in range(repeats):
            began = time.monotonic()
            saver.save(checkpoint)
            in_step = time.monotonic() - began
            saver.finish()
            costs.append(SaveCost(in_step, time.monotonic() - began))
    finally:
        saver.close()
    return costs
