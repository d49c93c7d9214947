"""One update of the weights: gradients under accumulation, clip, schedule, step, average.

A step is done once, on its own images. If fp16 overflows, it is repeated with half the scale; if
memory runs out, with at most half the micro-batch. Neither loses an image, and neither affects the
schedule or the average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from beit.batch import Batch, divide, to_device
from beit.config.training import TrainingConfig
from beit.errors import BeitError, CheckpointError, ResourceError
from beit.hardware import is_out_of_memory, raise_if_exhausted
from beit.objectives.base import AnyObjective
from beit.rng import SampleRNG
from beit.training.checkpoint import Checkpoint, Tensors
from beit.training.device import (
    autocast,
    compile_blocks,
    free_cached,
    resolve_precision,
    smaller_micro_batch,
)
from beit.training.distributed import Processes, whole
from beit.training.ema import Weights
from beit.training.optim import Optimizer, SpikeDetector

SKIPPED_BY_KERNEL = ("cpu", "cuda")
"""Devices whose fused kernel of AdamW skips the update where `found_inf` is 1."""
MOST_OVERFLOWS = 20
"""Overflows of fp16 in a row, from the scale 65536 down to 1/16, after which a run gives up."""


class OverflowedError(Exception):
    """The gradients of a step overflow in fp16 at every scale."""


class StepResult(NamedTuple):
    """Means of the loss's terms, counts of events, the learning rate."""

    terms: dict[str, Tensor]
    events: dict[str, float]
    rate: float


class Updater:
    """Everything that an update changes, and how it is carried out."""

    def __init__(
        self,
        objective: AnyObjective,
        config: TrainingConfig,
        processes: Processes,
        log: Callable[[str], None],
    ) -> None:
        self.config, self.processes, self._log = config, processes, log
        self.device = processes.device
        objective.set_recompute(config.recompute)
        self.compiled = compile_blocks(objective, config.compile, self.device)
        self.objective = objective.to(self.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.weights = Weights(objective, config, processes, self.precision)
        self.optimizer = Optimizer(objective, config)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        self.spikes = SpikeDetector(config.skip_spikes, self.device) if config.skip_spikes else None
        self._share = config.batch // processes.world  # images of an update in this process
        self._delivered = config.micro_batch or self._share
        self.micro_batch = self._delivered
        # Without a scaler: 1 once a step was not finite, and the number of steps before that one.
        self._broken = torch.zeros((), device=self.device)
        self._sound = torch.zeros((), device=self.device)
        self._first: int | None = None

    @property
    def accumulation(self) -> int:
        """Micro-batches per update in this process."""
        return self._share // self.micro_batch

    def update(self, step: int, batches: Iterator[Batch]) -> StepResult:
        """Update the weights from the next micro-batches.

        Raises:
            OverflowedError: The gradients overflow in fp16 at every scale.
            ResourceError: Memory runs out, and no smaller micro-batch is permitted or fits.
        """
        self._first = step if self._first is None else self._first
        self.objective.train()
        arrived: list[Batch | None] = []
        before = {name: value.clone() for name, value in self._buffers().items()}
        for overflows in range(MOST_OVERFLOWS):  # noqa: B007  # counted into the events
            try:
                terms = self._gradients(step, arrived, batches, before)
            except (BeitError, OSError):
                self._put_back(before)  # the state is that of the step before, and can be saved
                raise
            rate = self.optimizer.schedule(step)
            norm, left_out, applied = self._apply()
            self.optimizer.adamw.zero_grad(set_to_none=True)
            if applied:
                break
            self._put_back(before)
        else:
            raise OverflowedError
        events = self.objective.after_step(step)
        self.weights.update_average()
        if overflows:
            events = {**events, "overflows": float(overflows)}
        if left_out is not None:
            terms["left_out"] = left_out
        return StepResult({**terms, "grad_norm": norm}, events, rate)

    def _gradients(
        self,
        step: int,
        arrived: list[Batch | None],
        batches: Iterator[Batch],
        before: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Gradients of the whole batch, in micro-batches that fit into memory.

        With several processes, a step that does not fit ends the run, since the others wait for the
        part of this one.
        """
        requested, found = self.micro_batch, ""
        while True:
            terms = None
            try:
                terms = self._accumulate(step, arrived, batches)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, in which the error still holds the tensors of its frames.
            if terms is not None or self.processes.world > 1:
                break
            self.optimizer.adamw.zero_grad(set_to_none=True)
            self._put_back(before)
            free_cached(self.device)
            self.micro_batch = smaller_micro_batch(self.micro_batch, self._delivered)
            found = f"; {self.micro_batch} fit"
        if terms is None or (found and self.config.micro_batch is not None):
            smaller = self.micro_batch if found else max(requested // 2, 1)
            raise ResourceError(
                f"memory ran out at step {step} with a micro-batch of {requested}{found}",
                remedy=f"use --micro-batch {smaller} and start again with another --out: the batch "
                "of an update stays what it is, the rest is accumulated",
            )
        if found:
            self._log(
                f"memory ran out with {requested} images at a time: going on with "
                f"{self.micro_batch} (x{self.accumulation} accumulation)"
            )
        return terms

    def _accumulate(
        self, step: int, arrived: list[Batch | None], batches: Iterator[Batch]
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        last = self.accumulation - 1
        for number, (first, batch) in enumerate(self.micro_batches(arrived, batches)):
            self.objective.draw(
                SampleRNG(self.config.seed, step, first), len(batch.keys), self.device
            )
            # Processes average their accumulated gradients with the last micro-batch of each.
            module = self.weights.module if number == last else self.objective
            with autocast(self.precision, self.device):
                loss = module(to_device(batch, self.device), step / self.config.steps)
            # A loss that is not finite may have a finite gradient. This makes the gradient NaN, so
            # that every process sees that the step is broken: processes share only gradients.
            sound = loss.total.detach() * 0 + 1  # or NaN
            self.scaler.scale(loss.total * sound / self.accumulation).backward()
            for name, value in loss.terms.items():
                part = value / self.accumulation
                terms[name] = terms[name] + part if name in terms else part
        return terms

    def micro_batches(
        self, arrived: list[Batch | None], batches: Iterator[Batch]
    ) -> Iterator[tuple[int, Batch]]:
        """The micro-batches of a step, each with the position of its first image in the update's
        batch.

        What arrives from the loader is kept in `arrived` if the step may be repeated. Otherwise it
        is released after use: it may lie in memory that is shared with the loader's processes, of
        which there is little.
        """
        repeats = self.scaler.is_enabled() or self.config.micro_batch is None
        for number in range(self._share // self._delivered):
            if number == len(arrived):
                arrived.append(next(batches))
            batch = arrived[number]
            if batch is not None:
                first = self.processes.rank * self._share + number * self._delivered
                for part in divide(batch, self.micro_batch):
                    yield first, part
                    first += len(part.keys)
            if not repeats:
                arrived[number] = None

    def _apply(self) -> tuple[Tensor, Tensor | None, bool]:
        """Clip the gradients and step. Returns the gradient norm; 1 if the step is skipped as a
        spike, else 0, or None where spikes are not looked for; and whether the step is done, not to
        be repeated."""
        adamw, clip = self.optimizer.adamw, self.config.clip
        self.scaler.unscale_(adamw)
        norm = whole(
            nn.utils.clip_grad_norm_(self.optimizer.parameters, clip or float("inf"), foreach=True)
        )
        left_out = self.spikes.stands_out(norm) if self.spikes else None
        if self.scaler.is_enabled():
            scale = self.scaler.get_scale()
            if left_out is None or not bool(left_out):
                self.scaler.step(adamw)
            self.scaler.update()
            return norm, left_out, self.scaler.get_scale() >= scale
        self._broken = torch.maximum(self._broken, 1.0 - norm.isfinite().float())
        self._sound = self._sound + (1 - self._broken)
        # The fused kernel leaves everything as it is where this is 1: so nothing waits for a GPU,
        # and the weights are still those from before the broken step when it is noticed.
        skipped = self._broken if left_out is None else torch.maximum(self._broken, left_out)
        if self.device.type in SKIPPED_BY_KERNEL:
            adamw.found_inf = skipped  # type: ignore[attr-defined]
            adamw.step()
        elif not bool(skipped):
            adamw.step()
        return norm, left_out, True

    def broken_step(self) -> int | None:
        """The first step whose loss or gradient was not finite; from then on nothing was learned.

        Waits for a GPU.
        """
        if self._first is None or not bool(self._broken):
            return None
        return self._first + int(self._sound)

    def state(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """What the next update depends on, besides step and images: tensors, and plain values.

        All processes must call this.
        """
        tensors = self.weights.state(self.optimizer.tensors())
        if self.spikes is not None:
            tensors["spikes"] = self.spikes.state()
        return tensors, {"scaler": self.scaler.state_dict(), "micro_batch": self.micro_batch}

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore what `state` returned.

        Raises:
            CheckpointError: It is the state of another architecture.
        """
        step, tensors, values = checkpoint
        try:
            optimizer = self.weights.load(tensors)
        except RuntimeError as error:
            raise_if_exhausted(error)
            raise CheckpointError(
                f"the checkpoint of step {step} belongs to another architecture: {error}",
                remedy="use the settings of the run's config.json",
            ) from error
        self.optimizer.load(optimizer)
        if self.spikes is not None:
            self.spikes.load(tensors["spikes"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(values["scaler"])
        micro_batch = values.get("micro_batch", self._delivered)
        if self.config.micro_batch is None and self._delivered % micro_batch == 0:
            self.micro_batch = micro_batch

    def _buffers(self) -> dict[str, Tensor]:
        """What a forward pass may change besides gradients: statistics that are part of a model."""
        return dict(self.objective.model.named_buffers())

    def _put_back(self, before: dict[str, Tensor]) -> None:
        for name, value in self._buffers().items():
            value.copy_(before[name])
