"""`fit`: the one training loop, for tokenizers, pre-training and every task after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor

from beit.batch import Batch
from beit.errors import BeitError, CheckpointError, DivergedError, Preempted, ResourceError
from beit.objectives.base import AnyObjective
from beit.training.checkpoint import Checkpoint, newest_checkpoint
from beit.training.dataset_manifest import check_unchanged, remember
from beit.training.environment import check_same_parts, surroundings, told_of_others
from beit.training.memory import ran_out_elsewhere, ran_out_of_memory
from beit.training.nan_replay import NOT_FINITE, OVERFLOWED, diverged
from beit.training.parallel import lost_a_process, lost_process
from beit.training.run_logger import RunLogger, Throughput, progress_line
from beit.training.saving import Saver
from beit.training.schedule import lengthened
from beit.training.skipped_images import SkippedImages
from beit.training.spec import FitResult, FitSpec
from beit.training.stop import StopRequest
from beit.training.update import OverflowedError, Updater


def fit(objective: AnyObjective, run: FitSpec, *, resume: bool) -> FitResult:
    """Train `objective.model` and return how it went.

    A step: its random numbers from (seed, step), the batch under accumulation, backward, clip,
    learning rate and weight decay from the schedule, update, average, upkeep (`Updater`). Then, on
    the steps that ask for it: log, evaluate, save. On SIGINT, SIGTERM or SIGUSR1: save and raise
    Preempted. Whatever else ends a run in order (images, a disk, memory) ends it after a save of
    the last step that was done.
    """
    with StopRequest() as stop:  # also while it is taken up, so that none is answered by dying
        return _Run(objective, run, stop).to_the_end(resume=resume)


class _Run:
    """The state of a run in this process, and what happens on which step."""

    def __init__(self, objective: AnyObjective, run: FitSpec, stop: StopRequest) -> None:
        self.run, self.config, self.objective, self.stop = run, run.config, objective, stop
        self.device = run.processes.device
        self.updater = Updater(objective, run.config, run.processes, self._say)
        self.journal: RunLogger | None = None
        self.step = 0  # updates done
        self.best: tuple[int, float] | None = None  # step and score
        self.metrics: dict[str, float] = {}
        self.restarts = 0  # of processes that read images
        self.told = 0  # the last step that was announced as saved
        self.saved = 0  # the last step that was given to be saved
        self.unevaluated = False  # whether the evaluation of the last step is still to be done
        # Since the last line of the journal: sums of terms, counts of events, steps.
        self.totals: dict[str, Tensor] = {}
        self.events: dict[str, float] = {}
        self.counted = 0

    # -- the run -----------------------------------------------------------------------------

    def to_the_end(self, *, resume: bool) -> FitResult:
        run, config = self.run, self.config
        remarks = self._restore() if resume else []
        self.told = self.saved = self.step
        self.pace = Throughput(self.step, config.steps, config.batch)
        try:
            self._open_records()
            for remark in (*run.notes, *remarks):
                self._say(remark)
            if self.unevaluated:  # what stopped the run
                self._evaluate()
            if self.step >= config.steps:
                self._say(f"this run was already done: {self.step} of {config.steps} steps")
            else:
                self._introduce()
                self._train()
                self.noted.sum_up()
            judged = self.updater.weights.judged()
            if run.processes.leads:  # also if the run was killed between its last save and here
                run.publish(judged, False, self.metrics)
                if self.journal is not None:
                    self.journal.finished(run.folder.model)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            if self.journal is not None:
                self.journal.close()
        return FitResult(self.metrics, self.best[0] if self.best else 0, len(self.noted.unreadable))

    def _unwritable(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"{error.filename or self.run.folder.path} cannot be read or written to after step "
            f"{self.step}: {error.strerror}",
            remedy="make room or permit writing, then go on with --resume",
        )

    def _open_records(self) -> None:
        run = self.run
        self.noted = SkippedImages(run.folder, self._say, images=run.images, limit=run.bad_limit)
        if run.processes.leads:
            self.journal = RunLogger(
                run.folder,
                first_step=self.step,
                trackers=self.config.tracker,
                quiet=run.quiet,
            )
            if run.listing is not None:
                remember(run.folder, run.listing)

    def _train(self) -> None:
        run, config = self.run, self.config
        self.saver = Saver(run.folder.checkpoints, keep=config.keep)
        try:
            with closing(run.loader.batches(self.step, config.steps)) as batches:
                self._steps(self._arriving(batches))
        except (BeitError, OSError) as error:
            if not isinstance(error, Preempted | DivergedError):
                self._save_the_rest()
            raise
        except (MemoryError, RuntimeError) as error:
            if ran_out_of_memory(error):
                self._save_the_rest()
                raise ran_out_elsewhere(self.step) from error
            if lost_a_process(error):
                when = f"after step {self.step}"
                raise lost_process(error, config.process_timeout, when) from error
            raise
        finally:
            self._stop_saving()

    def _steps(self, batches: Iterator[Batch]) -> None:
        config, processes = self.config, self.run.processes
        while self.step < config.steps:
            self._update(batches)
            done = self.step == config.steps
            self.unevaluated = done or (
                config.evaluate_every > 0 and self.step % config.evaluate_every == 0
            )
            if done or self.step % config.log_every == 0:
                self._log()
            if self.unevaluated:
                self._evaluate()
            self._announce()
            ends = processes.any(self.stop.asked or self._is_blocked()) or done
            if ends or self.step % config.save_every == 0:
                self._save()  # which raises the error of a save that failed
            if ends:
                processes.on_leader(self._finish_saving)
                self._announce()
            if ends and not done and processes.any(self.stop.asked):
                self._say(f"stopped on request after step {self.step}; --resume goes on")
                raise Preempted(
                    f"stopped on request, saved after step {self.step} of {config.steps}",
                    remedy="run the same command with --resume to go on",
                )

    # -- one step ----------------------------------------------------------------------------

    def _update(self, batches: Iterator[Batch]) -> None:
        try:
            updated = self.updater.update(self.step, batches)
        except OverflowedError as error:
            raise diverged(OVERFLOWED, self.run, self.updater, self.step) from error
        for name, value in updated.terms.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value
        for name, count in updated.events.items():
            self.events[name] = self.events.get(name, 0.0) + count
        if self.device.type == "cpu":
            self._require_finite()
        self.rate = updated.rate
        self.counted += 1
        self.step += 1
        if self.step == 1 and (idle := self.updater.optimizer.never_reached()):
            self._say(f"no gradient reaches {len(idle)} tensors of weights: {', '.join(idle[:9])}")

    def _arriving(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, with the time spent waiting for them and what could not be read."""
        while True:
            began = time.monotonic()
            batch = next(batches)
            self.pace.waited(time.monotonic() - began)
            if self.run.loader.restarts > self.restarts:
                self.restarts = self.run.loader.restarts
                self._say(f"processes that read images were lost and replaced: {self.restarts}")
            self.noted.add(batch.unreadable, batch.multi_frame)
            yield batch

    def _require_finite(self) -> None:
        """Stop if a step was broken. A GPU is not made to wait for it: it is asked before the next
        line of the journal and before every save."""
        broken = self.updater.broken_step()
        if self.run.processes.any(broken is not None):
            step = self.step if broken is None else broken
            raise diverged(NOT_FINITE, self.run, self.updater, step)

    # -- log, evaluate, save -----------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.journal is not None:
            self.journal.say(text)

    def _introduce(self) -> None:
        weights = sum(p.numel() for p in self.updater.optimizer.parameters)
        start = f"going on after step {self.step}" if self.step else "starting"
        self._say(
            f"{start}: {weights:,} weights, {self.run.images:,} images, batch "
            f"{self.config.batch} (x{self.updater.accumulation} accumulation, "
            f"x{self.run.processes.world} processes), {self.config.steps} steps, "
            f"{self.updater.precision} on {self.device}"
            + ", compiled" * self.updater.compiled
            + ", blocks shared out" * self.updater.weights.sharded
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
            values = {**terms, **expectations, "lr": self.rate, **pace, **self.noted.counts()}
            if self.restarts:
                values["reader_restarts"] = float(self.restarts)
            self.journal.record(self.step, "train", values)
            self.journal.say(
                progress_line(self.step, self.config.steps, terms, expectations, self.rate, pace)
            )

    def _evaluate(self) -> None:
        evaluation = self.run.evaluation
        if evaluation is None:
            self.unevaluated = False
            return
        model = self.updater.weights.judged()
        training = model.training
        model.eval()
        with torch.no_grad():  # in float32, as the artifact will be used
            self.metrics = dict(evaluation.measure(model))
        model.train(training)
        self.noted.add(evaluation.unreadable(), evaluation.several())
        if self.journal is not None:
            self.journal.record(self.step, "evaluate", self.metrics)
            listed = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            self.journal.say(f"step {self.step}/{self.config.steps}  evaluation: {listed}")
        score = self.metrics.get(evaluation.best, 0.0)
        if evaluation.best and (self.best is None or score >= self.best[1]):
            self.best = (self.step, score)
            if self.run.processes.leads:
                self.run.publish(model, True, self.metrics)
        self.unevaluated = False
        self.pace.skip()

    def _save(self) -> None:
        """Have the state of this step saved; it is announced when it is published."""
        self._require_finite()
        if self.journal is not None:
            self.journal.flush()
        checkpoint = self._checkpoint()  # in all processes: each may hold a part
        self.run.processes.on_leader(lambda: self.saver.save(checkpoint))
        self.saved = self.step
        self._announce()

    def _is_blocked(self) -> bool:
        """Whether the disk takes nothing more: no checkpoint, or no row."""
        rows = self.journal is not None and self.journal.failure is not None
        return rows or self.saver.has_failed

    def _finish_saving(self) -> None:
        """Wait for what is being saved. Raises ResourceError if it, or a row, is not on disk."""
        self.saver.finish()
        if self.journal is not None:
            self.journal.flush()
            if self.journal.failure is not None:
                raise self._unwritable(self.journal.failure)

    def _save_the_rest(self) -> None:
        """What was learned since the last save, before an error ends the run. Only where there is
        one process: of several, others may no longer be there to give their part."""
        if self.run.processes.world > 1 or self.step == self.saved:
            return
        try:
            self._save()
            self.saver.finish()
        except (BeitError, OSError, RuntimeError, MemoryError) as error:  # another is on its way
            self._say(f"step {self.step} could not be saved: {error}")

    def _announce(self) -> None:
        published = self.saver.published
        if published is not None and published > self.told:
            self.told = published
            self._say(f"saved after step {published}")

    def _stop_saving(self) -> None:
        """Wait for what is being written, whatever ended the training."""
        self.saver.close()
        self._announce()
        if self.saver.has_failed:
            try:
                self.saver.finish()
            except BeitError as error:  # another one is on its way
                self._say(f"error: {error}")

    def _checkpoint(self) -> Checkpoint:
        listing = self.run.listing
        tensors, values = self.updater.state()
        values |= {
            "best": self.best,
            "data": None if listing is None else listing.fingerprint,
            "metrics": self.metrics,
            "steps": self.config.steps,
            "unevaluated": self.unevaluated,
            "parts": dict(self.run.parts),
            **surroundings(self.run.processes.world),
        }
        return Checkpoint(self.step, tensors, values)

    def _restore(self) -> list[str]:
        """Take up the newest whole checkpoint; returns what there is to say of it."""
        run = self.run
        found = newest_checkpoint(run.folder.checkpoints)
        if found.checkpoint is None:
            if found.damaged:
                raise CheckpointError(
                    f"no whole checkpoint is left in {run.folder.checkpoints}: "
                    + "; ".join(found.damaged),
                    remedy="start again with another --out",
                )
            return []  # stopped before the first save: start from the beginning
        before = found.checkpoint.values.get("data")
        if before and run.listing is not None and not run.accept_changed_data:
            check_unchanged(run.folder.images, before, run.listing)
        values = found.checkpoint.values
        check_same_parts(values.get("parts", {}), run.parts)
        self.updater.load(found.checkpoint)
        self.best = None if values["best"] is None else tuple(values["best"])
        self.metrics, self.step = values["metrics"], found.checkpoint.step
        self.unevaluated = values.get("unevaluated", False)
        left = [f"a checkpoint was left aside: {problem}" for problem in found.damaged]
        longer = lengthened(values.get("steps"), self.step, self.config)
        return left + longer + told_of_others(values, run.processes.world)
