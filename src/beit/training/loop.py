"""`fit`: the one training loop, for tokenizers, pre-training and every task after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from beit.batch import Batch, Unreadable, to_device
from beit.config.training import TrainingConfig
from beit.errors import CheckpointError, DivergedError, Preempted
from beit.objectives.base import AnyObjective
from beit.training.average import average_of
from beit.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from beit.training.journal import Journal, Pace, UnreadablePictures, progress_line
from beit.training.optim import Optimizer
from beit.training.parallel import Processes, autocast, resolve_precision
from beit.training.run_folder import RunFolder
from beit.training.seeding import seed_everything
from beit.training.stop import StopRequest


class Batches(Protocol):
    """A loader: the micro-batches of this process, for the steps from first up to last."""

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]: ...


class Evaluation(NamedTuple):
    """How a run is judged: metrics of a model, and the one whose largest value is the best."""

    measure: Callable[[nn.Module], Mapping[str, float]]
    best: str = ""
    unreadable: Callable[[], tuple[Unreadable, ...]] = tuple
    """Pictures that the last measure could not read."""


class Fitted(NamedTuple):
    """The end of a run."""

    metrics: dict[str, float]
    best_step: int
    unreadable: int


class Fit(NamedTuple):
    """Everything one run needs beside its objective."""

    config: TrainingConfig
    folder: RunFolder
    processes: Processes
    loader: Batches
    pictures: int
    bad_limit: float
    evaluation: Evaluation | None
    publish: Callable[[nn.Module, bool, Mapping[str, float]], None]
    """Writes the artifact of a model: whether it is the best so far, and its metrics."""
    quiet: bool = False


def fit(objective: AnyObjective, run: Fit, *, resume: bool) -> Fitted:
    """Train `objective.model` and return how it went.

    A step: its random numbers from (seed, step), the batch under accumulation, backward, clip,
    learning rate and weight decay from the schedule, update, average, upkeep. Then, on the steps
    that ask for it: log, evaluate, save. On SIGINT, SIGTERM or SIGUSR1: save and raise Preempted.
    """
    return _Run(objective, run).to_the_end(resume=resume)


class _Run:
    """The state of a run in this process, and the order of a step."""

    def __init__(self, objective: AnyObjective, run: Fit) -> None:
        self.run, self.config = run, run.config
        self.device = run.processes.device
        self.objective = objective.to(self.device)
        self.wrapped = run.processes.wrap(self.objective)
        self.optimizer = Optimizer(objective, self.config)
        self.precision = resolve_precision(self.config.precision, self.device)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        self.average: AveragedModel | None = (
            average_of(objective.model, self.config.average) if self.config.average else None
        )
        micro = self.config.micro_batch or self.config.batch // run.processes.world
        self.accumulation = self.config.batch // (micro * run.processes.world)
        self.step = 0  # updates done
        self.best: tuple[int, float] | None = None  # step and score
        self.metrics: dict[str, float] = {}
        # Since the last line of the journal: sums of terms, counts of events, steps.
        self.totals: dict[str, Tensor] = {}
        self.events: dict[str, float] = {}
        self.counted = 0
        self.finite = torch.ones((), device=self.device)

    # -- the run -----------------------------------------------------------------------------

    def to_the_end(self, *, resume: bool) -> Fitted:
        run, config = self.run, self.config
        damaged = self._restore() if resume else []
        self.unreadable = UnreadablePictures(run.folder, pictures=run.pictures, limit=run.bad_limit)
        self.journal = (
            Journal(run.folder, first_step=self.step, quiet=run.quiet)
            if run.processes.leads
            else None
        )
        try:
            for problem in damaged:
                self._say(f"a checkpoint was left aside: {problem}")
            if self.step >= config.steps:
                self._say(f"this run was already done: {self.step} of {config.steps} steps")
            else:
                self._introduce(resumed=resume)
                self._train()
            if run.processes.leads:  # also if the run was killed between its last save and here
                run.publish(self._judged(), False, self.metrics)
        finally:
            if self.journal is not None:
                self.journal.close()
        return Fitted(self.metrics, self.best[0] if self.best else 0, len(self.unreadable))

    def _train(self) -> None:
        run, config = self.run, self.config
        self.pace = Pace(self.step, config.steps, config.batch)
        with StopRequest() as stop, closing(run.loader.batches(self.step, config.steps)) as batches:
            while self.step < config.steps:
                self._update(batches)
                done = self.step == config.steps
                if done or self.step % config.log_every == 0:
                    self._log()
                if done or (config.evaluate_every and self.step % config.evaluate_every == 0):
                    self._evaluate()
                asked = run.processes.any(stop.asked)
                if done or asked or self.step % config.save_every == 0:
                    self._save()
                if asked and not done:
                    self._say(f"stopped on request after step {self.step}; --resume goes on")
                    raise Preempted(
                        f"stopped on request, saved after step {self.step} of {config.steps}",
                        remedy="run the same command with --resume to go on",
                    )

    # -- one step ----------------------------------------------------------------------------

    def _update(self, batches: Generator[Batch, None, None]) -> None:
        config = self.config
        seed_everything(config.seed, self.step, self.run.processes.rank)
        self.objective.train()
        finite = torch.ones((), device=self.device)
        for _ in range(self.accumulation):
            batch = self._next(batches)
            with autocast(self.precision, self.device):
                loss = self.wrapped(batch, self.step / config.steps)
            self.scaler.scale(loss.total / self.accumulation).backward()
            finite = finite * loss.total.detach().isfinite()
            for name, value in loss.terms.items():
                self._add(name, value / self.accumulation)
        self.rate = self.optimizer.schedule(self.step)
        self.scaler.unscale_(self.optimizer.adamw)
        norm = nn.utils.clip_grad_norm_(
            self.optimizer.parameters, config.clip if config.clip else float("inf"), foreach=True
        )
        self._note_finite(finite * norm.isfinite())
        self.scaler.step(self.optimizer.adamw)
        self.scaler.update()
        self.optimizer.adamw.zero_grad(set_to_none=True)
        for name, count in self.objective.after_step(self.step).items():
            self.events[name] = self.events.get(name, 0.0) + count
        if self.average is not None:
            self.average.update_parameters(self.objective.model)
        self._add("grad_norm", norm)
        self.counted += 1
        self.step += 1

    def _next(self, batches: Generator[Batch, None, None]) -> Batch:
        began = time.monotonic()
        batch = next(batches)
        self.pace.waited(time.monotonic() - began)
        self.unreadable.add(batch.unreadable)
        return to_device(batch, self.device)

    def _add(self, name: str, value: Tensor) -> None:
        """Sum up what the next line of the journal averages."""
        self.totals[name] = self.totals[name] + value if name in self.totals else value

    def _note_finite(self, finite: Tensor) -> None:
        """Stop before a non-finite update. A GPU is not made to wait for it: it is asked before the
        next line of the journal and before every save, so that no bad state is ever kept. The
        scaler of fp16 skips such updates by itself."""
        if self.scaler.is_enabled():
            return
        self.finite = self.finite * finite
        if self.device.type == "cpu":
            self._require_finite()

    def _require_finite(self) -> None:
        if not bool(self.finite):
            self._diverged()

    def _diverged(self) -> None:
        raise DivergedError(
            f"the loss or its gradient is not finite at step {self.step}",
            remedy="lower --lr, set --clip, or use --precision fp32; the checkpoints are sound",
        )

    # -- log, evaluate, save -----------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.journal is not None:
            self.journal.say(text)

    def _introduce(self, *, resumed: bool) -> None:
        weights = sum(p.numel() for p in self.optimizer.parameters)
        start = f"going on after step {self.step}" if resumed else "starting"
        self._say(
            f"{start}: {weights:,} weights, {self.run.pictures:,} pictures, batch "
            f"{self.config.batch} (x{self.accumulation} accumulation, x{self.run.processes.world} "
            f"processes), {self.config.steps} steps, {self.precision} on {self.device}"
        )

    def _log(self) -> None:
        self._require_finite()
        names = list(self.totals)
        sums = torch.stack([self.totals[name].float() for name in names])
        means = self.run.processes.mean(sums / self.counted).tolist()
        terms = dict(zip(names, means, strict=True)) | self.events
        self.totals, self.events, self.counted = {}, {}, 0
        pace = self.pace.measure(self.step, self.device)
        expectations = self.objective.expectations()
        if self.journal is not None:
            values = {**terms, **expectations, "lr": self.rate, **pace}
            if len(self.unreadable):
                values["unreadable"] = float(len(self.unreadable))
            self.journal.record(self.step, "train", values)
            self.journal.say(
                progress_line(self.step, self.config.steps, terms, expectations, self.rate, pace)
            )

    def _judged(self) -> nn.Module:
        """The model that is evaluated and published: the average, if there is one."""
        return self.objective.model if self.average is None else self.average.module

    def _evaluate(self) -> None:
        evaluation = self.run.evaluation
        if evaluation is None:
            return
        model = self._judged()
        training = model.training
        model.eval()
        with torch.no_grad():  # in float32, as the artifact will be used
            self.metrics = dict(evaluation.measure(model))
        model.train(training)
        self.unreadable.add(evaluation.unreadable())
        if self.journal is not None:
            self.journal.record(self.step, "evaluate", self.metrics)
            listed = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            self.journal.say(f"step {self.step}/{self.config.steps}  evaluation: {listed}")
        score = self.metrics.get(evaluation.best, 0.0)
        if evaluation.best and (self.best is None or score >= self.best[1]):
            self.best = (self.step, score)
            if self.run.processes.leads:
                self.run.publish(model, True, self.metrics)
        self.pace.skip()

    def _save(self) -> None:
        self._require_finite()
        if self.run.processes.leads:
            tensors = {
                "model": self.objective.model.state_dict(),
                "optimizer": self.optimizer.tensors(),
            }
            if self.average is not None:
                tensors["average"] = self.average.state_dict()
            values: dict[str, Any] = {
                "best": self.best,
                "metrics": self.metrics,
                "scaler": self.scaler.state_dict(),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "world": self.run.processes.world,
            }
            checkpoint = Checkpoint(self.step, tensors, values)
            save_checkpoint(self.run.folder.checkpoints, checkpoint, keep=self.config.keep)
        self.run.processes.wait()
        self.pace.skip()

    def _restore(self) -> list[str]:
        """Take up the newest whole checkpoint; what was wrong with newer ones."""
        found = newest_checkpoint(self.run.folder.checkpoints)
        if found.checkpoint is None:
            if found.damaged:
                raise CheckpointError(
                    f"no whole checkpoint is left in {self.run.folder.checkpoints}: "
                    + "; ".join(found.damaged),
                    remedy="start again with another --out",
                )
            return []  # stopped before the first save: start from the beginning
        step, tensors, values = found.checkpoint
        try:
            self.objective.model.load_state_dict(tensors["model"])
            if self.average is not None:
                self.average.load_state_dict(tensors["average"])
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint of step {step} belongs to another architecture: {error}",
                remedy="use the settings of the run's config.json",
            ) from error
        self.optimizer.load(tensors["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(values["scaler"])
        self.step = step
        self.best = None if values["best"] is None else tuple(values["best"])
        self.metrics = values["metrics"]
        return found.damaged
