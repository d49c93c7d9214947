"""`fit`: the one training loop, for tokenizers, pre-training and every task after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor

from beit.batch import Batch
from beit.errors import (
    BeitError,
    CheckpointError,
    DivergedError,
    Preempted,
    ResourceError,
    on_one_line,
)
from beit.hardware import is_out_of_memory
from beit.objectives.base import AnyObjective
from beit.process import StopRequest
from beit.terminal import counted
from beit.training.checkpoint import Checkpoint, Saver, newest_checkpoint
from beit.training.dataset_manifest import (
    check_same_parts,
    check_unchanged,
    environment,
    environment_changes,
    save_manifest,
)
from beit.training.distributed import lost_process
from beit.training.nan_report import NOT_FINITE, OVERFLOWED, diverged
from beit.training.optim import longer_schedule
from beit.training.run_logger import RunLogger, Throughput, progress_line, remark
from beit.training.skipped_images import SkippedImages
from beit.training.spec import FitResult, FitSpec
from beit.training.update import OverflowedError, Updater


def fit(objective: AnyObjective, spec: FitSpec, *, resume: bool) -> FitResult:
    """Train `objective.model` and return how it went.

    If unreadable images, a disk or a lack of memory end the run, its last step is saved first.

    Args:
        objective: What is trained, with its loss.
        spec: Everything else that the run needs.
        resume: Continue from the newest checkpoint of the run's folder, if there is one.

    Raises:
        Preempted: SIGINT, SIGTERM or SIGUSR1 arrived; the run is saved.
        DivergedError: The loss or its gradient is not finite.
    """
    config = spec.config
    with StopRequest() as stop:  # also while the run is restored, so that no request is missed
        run = _Run(objective, spec)
        notes = run.restore() if resume else []
        with run.logging(notes):
            if run.unevaluated:  # the run stopped before this was done
                with run.throughput.paused():
                    run.evaluate()
            if run.step < config.steps and not run.lost_patience():
                run.log_start()
                with run.saving(), closing(spec.loader.batches(run.step, config.steps)) as batches:
                    while run.step < config.steps:
                        run.update(batches)
                        done = run.step == config.steps
                        run.unevaluated = done or _is_due(run.step, config.evaluate_every)
                        if done or _is_due(run.step, config.log_every):
                            run.log()
                        if run.unevaluated:
                            with run.throughput.paused():
                                run.evaluate()
                            done = done or run.lost_patience()
                        ends = spec.processes.any(stop.requested or run.is_blocked()) or done
                        if ends or _is_due(run.step, config.save_every):
                            run.save(wait=ends)
                        if ends and not done and spec.processes.any(stop.requested):
                            raise run.preempted()
                        if done:
                            break
                run.skipped.sum_up()
            else:
                run.info(f"this run was already done: {run.step} of {config.steps} steps")
            run.publish()
    return FitResult(run.metrics, best_step=run.best[0] if run.best else 0)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Run:
    """The state of a run in this process, and what it does at each step."""

    saver: Saver
    skipped: SkippedImages
    throughput: Throughput

    def __init__(self, objective: AnyObjective, spec: FitSpec) -> None:
        self.spec, self.config, self.objective = spec, spec.config, objective
        self.processes, self.device = spec.processes, spec.processes.device
        self.updater = Updater(objective, spec.config, spec.processes, self.info)
        self.logger: RunLogger | None = None
        self.step = 0  # updates done
        self.best: tuple[int, float] | None = None  # step and score
        self.stale = 0  # evaluations since a better score
        self.metrics: dict[str, float] = {}
        self.restarts = 0  # of processes that read images
        self.announced = self.saved = 0  # the last step that was published, and given to be saved
        self.unevaluated = False  # whether the evaluation of the last step is still to be done
        # Since the last log line: sums of terms, counts of events, steps.
        self.totals: dict[str, Tensor] = {}
        self.events: dict[str, float] = {}
        self.counted = 0

    def info(self, text: str) -> None:
        if self.logger is not None:
            self.logger.info(text)

    def restore(self) -> list[str]:
        """Restore the newest whole checkpoint; returns notes on it for the log."""
        spec = self.spec
        checkpoint, damaged = newest_checkpoint(spec.folder.checkpoints)
        if checkpoint is None:
            if damaged:
                raise CheckpointError(
                    f"no whole checkpoint is left in {spec.folder.checkpoints}: "
                    + "; ".join(damaged),
                    remedy="start again with another --out",
                )
            return []  # stopped before the first save: start from the beginning
        values = checkpoint.values
        if values.get("data") and spec.manifest is not None and not spec.accept_changed_data:
            check_unchanged(spec.folder.images, values["data"], spec.manifest)
        check_same_parts(values.get("parts", {}), spec.parts)
        self.updater.load(checkpoint)
        self.step, self.metrics = checkpoint.step, values["metrics"]
        self.best = None if values["best"] is None else tuple(values["best"])
        self.stale, self.unevaluated = values.get("stale", 0), values.get("unevaluated", False)
        self.announced = self.saved = self.step
        return [
            *(f"a checkpoint was skipped: {problem}" for problem in damaged),
            *longer_schedule(values.get("steps"), self.step, self.config),
            *environment_changes(values, self.processes.world),
        ]

    @contextmanager
    def logging(self, notes: list[str]) -> Iterator[None]:
        """Open the files of the run; a disk that fails in between becomes a ResourceError."""
        spec = self.spec
        self.throughput = Throughput(self.step, self.config.steps, self.config.batch)
        try:
            self.skipped = SkippedImages(
                spec.folder, self.info, images=spec.images, limit=spec.bad_limit
            )
            if self.processes.leads:
                self.logger = RunLogger(
                    spec.folder,
                    first_step=self.step,
                    steps=self.config.steps,
                    trackers=self.config.tracker,
                    quiet=spec.quiet,
                )
                if spec.manifest is not None:
                    save_manifest(spec.folder, spec.manifest)
            for note in (*spec.notes, *notes):
                self.info(note)
            yield
        except OSError as error:
            raise spec.folder.lost(error, self.step) from error
        finally:
            if self.logger is not None:
                self.logger.close()

    def log_start(self) -> None:
        trained = sum(p.numel() for p in self.updater.optimizer.parameters)
        every = sum(p.numel() for p in self.objective.model.parameters())
        start = f"going on after step {self.step}" if self.step else "starting"
        self.info(
            f"{start}: {trained:,}{f' of {every:,}' * (trained < every)} weights, "
            f"{counted(self.spec.images, 'image')}, batch "
            f"{self.config.batch} (x{self.updater.accumulation} accumulation, "
            f"x{self.processes.world} processes), {self.config.steps} steps, "
            f"{self.updater.precision} on {self.device}"
            + ", compiled" * self.updater.compiled
            + ", sharded" * self.updater.weights.sharded
        )

    # -- one step ----------------------------------------------------------------------------

    def update(self, batches: Iterator[Batch]) -> None:
        """Do one step, and add up what it reports."""
        try:
            result = self.updater.update(self.step, self._arriving(batches))
        except OverflowedError as error:
            raise self._diverged(OVERFLOWED, self.step) from error
        for name, value in result.terms.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value
        for name, count in result.events.items():
            self.events[name] = self.events.get(name, 0.0) + count
        if self.device.type == "cpu":
            self._require_finite()
        self.rate = result.rate
        self.counted += 1
        self.step += 1
        if self.step == 1 and (idle := self.updater.optimizer.without_gradient()):
            self.info(f"no gradient reaches {len(idle)} tensors of weights: {', '.join(idle[:9])}")
        if self.logger is not None:
            self.logger.moved(self.step)
        self._announce()

    def _arriving(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; records how long they were waited for and what could not be read."""
        while True:
            began = time.monotonic()
            batch = next(batches)
            self.throughput.waited(time.monotonic() - began)
            if self.spec.loader.restarts > self.restarts:
                self.restarts = self.spec.loader.restarts
                self.info(f"processes that read images were lost and replaced: {self.restarts}")
            self.skipped.add(batch)
            yield batch

    def _require_finite(self) -> None:
        """Stop if a step was broken. So that no step waits for a GPU, this is checked only before a
        log line and before a save."""
        broken = self.updater.broken_step()
        if self.processes.any(broken is not None):
            raise self._diverged(NOT_FINITE, self.step if broken is None else broken)

    def _diverged(self, problem: str, step: int) -> DivergedError:
        return diverged(problem, self.updater, self.spec.loader, self.spec.folder, step)

    def log(self) -> None:
        """Log the means since the last line, and the throughput."""
        self._require_finite()
        names = list(self.totals)
        sums = torch.stack([self.totals[name].float() for name in names])
        means = self.processes.mean(sums / self.counted).tolist()
        terms = dict(zip(names, means, strict=True)) | self.events
        self.totals, self.events, self.counted = {}, {}, 0
        throughput = self.throughput.measure(self.step, self.device)
        expected = self.objective.expectations()
        if self.logger is not None:
            values = {**terms, **expected, "lr": self.rate, **throughput, **self.skipped.counts()}
            if self.restarts:
                values["reader_restarts"] = float(self.restarts)
            self.logger.metrics(self.step, "train", values)
            self.logger.progress(
                progress_line(self.step, self.config.steps, terms, expected, self.rate, throughput),
                remark(terms, self.rate, throughput),
            )

    def evaluate(self) -> None:
        """Measure the model in float32, as the artifact will be used; publish it if it is best."""
        evaluation = self.spec.evaluation
        if evaluation is None:
            self.unevaluated = False
            return
        model = self.updater.weights.eval_model()
        training = model.training
        model.eval()
        with torch.no_grad():
            self.metrics = dict(evaluation.measure(model))
        model.train(training)
        if evaluation.skips is not None:
            self.skipped.add(evaluation.skips)
        score = self.metrics.get(evaluation.best, 0.0)
        self.stale = 0 if self.best is None or score > self.best[1] else self.stale + 1
        if self.logger is not None:
            patience = self.config.patience
            left = {} if patience is None else {"patience_left": float(patience - self.stale)}
            self.logger.metrics(self.step, "evaluate", self.metrics | left)
            listed = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            self.logger.info(f"step {self.step}/{self.config.steps}  evaluation: {listed}")
            if self.step == self.config.steps and (remark := evaluation.remark()):
                self.logger.info(f"warning: {remark}")
        if evaluation.best and (self.best is None or score >= self.best[1]):
            self.best = (self.step, score)
            if self.processes.leads:
                self.spec.publish(model, True, self.metrics)
        self.unevaluated = False

    def lost_patience(self) -> bool:
        """Whether `patience` evaluations in a row have brought no better score."""
        patience = self.config.patience
        if patience is None or not self.processes.any(self.stale >= patience):
            return False
        assert self.best is not None
        self.info(
            f"stopped early after step {self.step} of {self.config.steps}: "
            f"{counted(self.stale, 'evaluation')} without a better score than "
            f"{self.best[1]:.4g} (--patience {patience})"
        )
        return True

    def publish(self) -> None:
        """Write the final artifact, also if the run was killed after its last save."""
        model = self.updater.weights.eval_model()
        if self.processes.leads:
            self.spec.publish(model, False, self.metrics)
            if self.logger is not None:
                self.logger.finished(self.spec.folder.model)

    # -- saving ------------------------------------------------------------------------------

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save in the background; if an error ends the training, save what was learned."""
        self.saver = Saver(self.spec.folder.checkpoints, keep=self.config.keep)
        try:
            yield
        except (BeitError, OSError) as error:
            if not isinstance(error, Preempted | DivergedError):
                self._save_the_rest()
            raise
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                self._save_the_rest()
                raise ResourceError(
                    f"memory ran out after step {self.step}, outside the forward and backward pass",
                    remedy="free memory: fewer --workers, --cache False, a smaller evaluation; "
                    "then continue with --resume",
                ) from error
            timeout = self.config.process_timeout
            lost = lost_process(error, timeout, f"after step {self.step}")
            if lost is None:
                raise
            raise lost from error
        finally:
            self.saver.close()
            self._announce()
            if self.saver.has_failed:
                try:
                    self.saver.finish()
                except BeitError as error:  # another one is being raised
                    self.info(f"error: {error.problem}")

    def save(self, *, wait: bool = False) -> None:
        """Save the state of this step in the background, or `wait` until it and all rows are on
        disk.

        Raises:
            ResourceError: This save, or the one before, has failed.
        """
        self._require_finite()
        if self.logger is not None:
            self.logger.flush()
        tensors, values = self.updater.state()  # in all processes: each may hold a part
        manifest = self.spec.manifest
        values |= {
            "best": self.best,
            "data": None if manifest is None else manifest.fingerprint,
            "metrics": self.metrics,
            "steps": self.config.steps,
            "unevaluated": self.unevaluated,
            "stale": self.stale,
            "parts": dict(self.spec.parts),
            **environment(self.processes.world),
        }
        checkpoint = Checkpoint(self.step, tensors, values)
        self.processes.on_leader(lambda: self.saver.save(checkpoint))
        self.saved = self.step
        self._announce()  # the one before
        if wait:
            self.processes.on_leader(self._finish_saving)
            self._announce()

    def _finish_saving(self) -> None:
        self.saver.finish()
        if self.logger is not None:
            self.logger.flush()
            if self.logger.failure is not None:
                raise self.spec.folder.lost(self.logger.failure, self.step)

    def is_blocked(self) -> bool:
        """Whether the disk takes no more checkpoints, or no more rows."""
        rows = self.logger is not None and self.logger.failure is not None
        return rows or self.saver.has_failed

    def preempted(self) -> Preempted:
        if self.logger is not None:  # the terminal shows the error
            self.logger.note(f"stopped on request after step {self.step}; --resume continues")
        return Preempted(
            f"stopped on request, saved after step {self.step} of {self.config.steps}",
            remedy="run the same command with --resume to continue",
        )

    def _save_the_rest(self) -> None:
        """Save what was learned since the last save, before an error ends the run. Only with one
        process: of several, others may no longer be there to give their part."""
        if self.processes.world > 1 or self.step == self.saved:
            return
        try:
            self.save()
            self.saver.finish()
        except (BeitError, OSError, RuntimeError, MemoryError) as error:  # another is being raised
            self.info(f"step {self.step} could not be saved: {on_one_line(error)}")

    def _announce(self) -> None:
        published = self.saver.published
        if published is not None and published > self.announced:
            self.announced = published
            self.info(f"saved after step {published}")
