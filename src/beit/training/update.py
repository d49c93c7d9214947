"""One update of the weights: gradients under accumulation, clip, schedule, step, average.

A step is done once, on its own images. Where fp16 overflows it is done again with half the scale,
and where memory runs out with half the micro-batch; neither loses an image, and neither the
schedule nor the average notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from beit.batch import Batch, divide, to_device
from beit.config.training import TrainingConfig
from beit.errors import BeitError, CheckpointError
from beit.objectives.base import AnyObjective
from beit.rng import SampleRNG
from beit.training.checkpoint import Checkpoint, Tensors
from beit.training.compilation import compile_blocks, set_up_blocks
from beit.training.memory import ran_out_of_memory, smaller_micro_batch, too_large
from beit.training.nan_report import StepContext
from beit.training.optim import Optimizer
from beit.training.parallel import Processes, autocast, resolve_precision
from beit.training.sharding import whole
from beit.training.spikes import Spikes
from beit.training.weights import Weights

MOST_OVERFLOWS = 20
"""Overflows of fp16 in a row, from the scale 65536 down to 1/16, after which a run gives up."""
PROVEN = 3
"""Steps of a run after which its micro-batch is taken to fit; the first makes the optimizer's
state."""


class OverflowedError(Exception):
    """The gradients of a step overflow in fp16 at every scale."""


class Updated(NamedTuple):
    """What an update tells: means of the loss's terms, counts of events, the learning rate."""

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
        say: Callable[[str], None],
    ) -> None:
        self.config, self.processes, self._say = config, processes, say
        self.device = processes.device
        set_up_blocks(objective, config, self.device)
        self.compiled = compile_blocks(objective, config.compile, self.device)
        self.objective = objective.to(self.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.weights = Weights(objective, config, processes, self.precision)
        self.optimizer = Optimizer(objective, config)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        self.spikes = Spikes(config.skip_spikes, self.device) if config.skip_spikes else None
        self._delivered = config.micro_batch or config.batch // processes.world
        self.micro_batch = self._delivered
        # Without a scaler: 1 from the first step on that was not finite, and the steps before it.
        self._broken = torch.zeros((), device=self.device)
        self._sound = torch.zeros((), device=self.device)
        self._first: int | None = None

    @property
    def accumulation(self) -> int:
        """Micro-batches per update in this process."""
        return self.config.batch // (self.micro_batch * self.processes.world)

    def update(self, step: int, batches: Iterator[Batch]) -> Updated:
        """Update the weights from the next micro-batches.

        Raises OverflowedError, and ResourceError if memory runs out and no remedy is permitted.
        """
        self._first = step if self._first is None else self._first
        self.objective.train()
        arrived: list[Batch | None] = []
        before = {name: value.clone() for name, value in self._buffers().items()}
        overflows = 0
        while True:
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
            overflows += 1
            if overflows == MOST_OVERFLOWS:
                raise OverflowedError
        events = self.objective.after_step(step)
        self.weights.update_average()
        if overflows:
            events = {**events, "overflows": float(overflows)}
        if left_out is not None:
            terms["left_out"] = left_out
        return Updated({**terms, "grad_norm": norm}, events, rate)

    def _gradients(
        self,
        step: int,
        arrived: list[Batch | None],
        batches: Iterator[Batch],
        before: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Gradients of the whole batch, in micro-batches that fit into memory."""
        asked, agreed = self.micro_batch, self._agrees_on_memory(step)
        while True:
            result = None
            try:
                result = self._accumulated(step, arrived, batches, reduced=not agreed)
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
            # Out of the handler: while it lasts, the error holds the tensors of its frames.
            fits = result is not None
            if agreed:
                fits = not self.processes.any(not fits)
            if fits and result is not None:
                break
            self.optimizer.adamw.zero_grad(set_to_none=True)
            self._put_back(before)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if not agreed and self.processes.world > 1:
                raise too_large(self.micro_batch, None, step)
            self.micro_batch = smaller_micro_batch(self.micro_batch, self._delivered)
        if self.micro_batch != asked:
            if self.config.micro_batch is not None:
                raise too_large(asked, self.micro_batch, step)
            self._say(
                f"memory ran out with {asked} images at a time: going on with {self.micro_batch} "
                f"(x{self.accumulation} accumulation)"
            )
        if agreed:
            self.processes.average_gradients(self.optimizer.parameters)
        return result

    def _agrees_on_memory(self, step: int) -> bool:
        """Whether processes ask each other if memory was enough before they share gradients.

        Only at the beginning, for it takes time; and always for the same steps, as gradients are
        added up in another order. Where they wait for each other within the forward pass they
        cannot: who has no memory left would not be there.
        """
        return self.processes.world > 1 and step < PROVEN and not self.weights.wait_in_forward

    def _accumulated(
        self, step: int, arrived: list[Batch | None], batches: Iterator[Batch], *, reduced: bool
    ) -> dict[str, Tensor]:
        """Gradients of this process's images, averaged over the processes if `reduced`."""
        terms: dict[str, Tensor] = {}
        last = self.accumulation - 1
        for number, (first, batch) in enumerate(self.micro_batches(arrived, batches)):
            chance = SampleRNG(self.config.seed, step, first)
            self.objective.draw(chance, len(batch.keys), self.device)
            # Processes share what has added up, with the last micro-batch of each.
            module = self.weights.module if reduced and number == last else self.objective
            with autocast(self.precision, self.device):
                loss = module(to_device(batch, self.device), step / self.config.steps)
            # A loss that is not finite may have a gradient that is. It is made to have none, so
            # that every process sees that the step is broken: it is gradients that they share.
            sound = loss.total.detach() * 0 + 1  # or not a number
            self.scaler.scale(loss.total * sound / self.accumulation).backward()
            for name, value in loss.terms.items():
                share = value / self.accumulation
                terms[name] = terms[name] + share if name in terms else share
        return terms

    def micro_batches(
        self, arrived: list[Batch | None], batches: Iterator[Batch]
    ) -> Iterator[tuple[int, Batch]]:
        """The images of a step, with the place of the first in the batch of the update; what
        arrives is kept where the step may be done again.

        Where it will not, what is done with is let go: it may lie in memory that is shared with the
        loader's processes, of which there is little.
        """
        repeats = self.scaler.is_enabled() or self.config.micro_batch is None
        share = self.config.batch // self.processes.world
        for number in range(share // self._delivered):
            if number == len(arrived):
                arrived.append(next(batches))
            batch = arrived[number]
            if batch is not None:
                first = self.processes.rank * share + number * self._delivered
                for part in divide(batch, self.micro_batch):
                    yield first, part
                    first += len(part.keys)
            if not repeats:
                arrived[number] = None

    def circumstances(self, step: int, first: int) -> StepContext:
        """What decides the numbers of a micro-batch, beside weights and images."""
        return StepContext(
            seed=self.config.seed,
            step=step,
            rank=self.processes.rank,
            first=first,
            accumulation=self.accumulation,
            progress=step / self.config.steps,
            scale=self.scaler.get_scale() if self.scaler.is_enabled() else 1.0,
        )

    def _apply(self) -> tuple[Tensor, Tensor | None, bool]:
        """Clip and step. The norm of the gradient; 1 if it is left out as a spike, where those are
        looked for; and whether the step is done, not to be tried again."""
        adamw, clip = self.optimizer.adamw, self.config.clip
        self.scaler.unscale_(adamw)
        norm = whole(
            nn.utils.clip_grad_norm_(
                self.optimizer.parameters, clip if clip else float("inf"), foreach=True
            )
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
        # The fused kernel leaves everything as it is where this is 1: so a GPU need not be waited
        # for, and the weights are still those of before the broken step when it is noticed.
        skipped = self._broken if left_out is None else torch.maximum(self._broken, left_out)
        adamw.found_inf = skipped  # type: ignore[attr-defined]
        adamw.step()
        return norm, left_out, True

    def broken_step(self) -> int | None:
        """The first step whose loss or gradient was not finite; from then on nothing was learned.

        A GPU is waited for.
        """
        if self._first is None or not bool(self._broken):
            return None
        return self._first + int(self._sound)

    def state(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """What the next update depends on, beside step and images: tensors, and plain values.

        All processes must ask.
        """
        tensors = self.weights.state(self.optimizer.tensors())
        if self.spikes is not None:
            tensors["spikes"] = self.spikes.state()
        return tensors, {"scaler": self.scaler.state_dict(), "micro_batch": self.micro_batch}

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over what `state` returned.

        Raises CheckpointError if it is the state of another architecture.
        """
        step, tensors, values = checkpoint
        try:
            optimizer = self.weights.load(tensors)
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint of step {step} belongs to another architecture: {error}",
                remedy="use the settings of the run's config.json",
            ) from error
        self.optimizer.load(optimizer)
        if self.spikes is not None:
            self.spikes.load(tensors["spikes"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(values["scaler"])
        found_to_fit = values.get("micro_batch", self._delivered)
        if self.config.micro_batch is None and self._delivered % found_to_fit == 0:
            self.micro_batch = found_to_fit

    def _buffers(self) -> dict[str, Tensor]:
        """What a forward pass may change besides gradients: statistics that are part of a model."""
        return dict(self.objective.model.named_buffers())

    def _put_back(self, before: dict[str, Tensor]) -> None:
        for name, value in self._buffers().items():
            value.copy_(before[name])
