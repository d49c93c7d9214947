"""Ends of a run that are no crash save first, and a run can be made longer."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from beit.errors import DataError, Preempted, ResourceError
from beit.training.checkpoint import Saver, make_room, newest_checkpoint, save_checkpoint
from beit.training.loop import fit
from beit.training.optim import learning_rate
from beit.training.run_folder import RunFolder
from beit.training.run_logger import RunLogger, _Lines
from children import in_a_child
from disks import NotAllowedError, mount, own_mounts
from miniature import KINDS, InMemory, evaluation, masked, masked_batch, opened
from states import checkpoint
from training.test_loop import ask_to_stop, assert_same_state, state, train

NOT_ALLOWED = 77


def saved_step(folder: Path) -> int:
    found = newest_checkpoint(folder / "checkpoints").checkpoint
    assert found is not None
    return found.step


def once(at: int, error: Exception):
    """Raises the error while the batch of a step is made, the first time."""
    left = [error]

    def before(step: int) -> None:
        if step == at and left:
            raise left.pop()

    return before


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("tokenizer", DataError("rotten")),
        ("pretrain", OSError(errno.EIO, "gone")),
        ("finetune", ResourceError("no memory")),
    ],
    ids=repr,
)
def test_an_error_ends_a_run_after_a_save_of_what_it_learned(tmp_path, kind, error):
    objective, make = KINDS[kind]
    train(tmp_path / "whole", objective(), InMemory(make), save_every=100)
    broken = InMemory(make, before=once(3, error))
    with pytest.raises((DataError, ResourceError)):
        train(tmp_path / "broken", objective(), broken, save_every=100)
    assert saved_step(tmp_path / "broken") == 3
    assert "saved after step 3" in (tmp_path / "broken" / "log.txt").read_text()
    train(tmp_path / "broken", objective(), broken, resume=True, save_every=100)
    assert_same_state(tmp_path / "whole", tmp_path / "broken")


def test_a_save_that_fails_after_an_error_is_told_on_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise ResourceError("the disk is full", remedy="make room")

    monkeypatch.setattr(Saver, "save", full)
    objective, make = KINDS["tokenizer"]
    broken = InMemory(make, before=once(3, DataError("rotten")))
    with pytest.raises(DataError, match="rotten"):
        train(tmp_path, objective(), broken, save_every=100)
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert any(
        line.endswith("step 3 could not be saved: the disk is full; make room") for line in log
    )


def test_an_error_within_a_step_leaves_the_state_of_the_one_before(tmp_path):
    """The first of two micro-batches has changed what a model counts."""
    make = masked_batch

    def objective():
        """Its model counts its forward passes, as batch norm does."""
        counting = masked()
        counting.model.register_buffer("passes", torch.zeros(()))
        counting.model.backbone.register_forward_hook(
            lambda *_: counting.model.passes.add_(1) and None
        )
        return counting

    parts = {"batch": 8, "micro_batch": 4}
    train(tmp_path / "whole", objective(), InMemory(make, 4), save_every=100, **parts)
    loader = InMemory(make, 4)
    batches = loader.batches

    def broken(first_step, last_step):
        for number, batch in enumerate(batches(first_step, last_step), start=2 * first_step):
            if number == 7 and first_step == 0:
                raise DataError("rotten")
            yield batch

    loader.batches = broken
    with pytest.raises(DataError):
        train(tmp_path / "broken", objective(), loader, save_every=100, **parts)
    assert saved_step(tmp_path / "broken") == 3
    train(tmp_path / "broken", objective(), loader, resume=True, save_every=100, **parts)
    assert_same_state(tmp_path / "whole", tmp_path / "broken")
    assert state(tmp_path / "whole")[0].tensors["model"]["passes"] > 0


def test_an_evaluation_that_failed_is_done_when_the_run_goes_on(tmp_path):
    objective, make = KINDS["pretrain"]
    train(tmp_path / "whole", objective(), InMemory(make), save_every=100)
    good, failures = evaluation(), [ResourceError("no room"), None, None]

    def measure(model):
        failure = failures.pop() if failures else None
        if failure is not None:
            raise failure
        return good.measure(model)

    options = {"evaluation": good._replace(measure=measure), "save_every": 100}
    with pytest.raises(ResourceError, match="no room"):
        train(tmp_path / "broken", objective(), InMemory(make), **options)  # at the last step
    assert saved_step(tmp_path / "broken") == 6
    train(tmp_path / "broken", objective(), InMemory(make), resume=True, **options)
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "broken")
    ]
    assert rows[0][-1] == rows[1][-1]
    assert rows[0][-1]["kind"] == "evaluate"


def on_a_disk(tmp_path: Path, size: str, action) -> None:
    """In a child, with a disk of its own. Skips where none may be mounted."""

    def run() -> None:
        try:
            own_mounts()
            mount(tmp_path, options=f"size={size}")
        except NotAllowedError:
            os._exit(NOT_ALLOWED)
        action()

    code = in_a_child(run)
    if code == NOT_ALLOWED:
        pytest.skip("no disk may be mounted here")
    assert code == 0


def fill(disk: Path) -> None:
    with (disk / "filling").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


@pytest.mark.parametrize("keep", [1, 2])
def test_a_disk_that_fills_up_during_a_run(tmp_path, keep, monkeypatch):
    """The older of two checkpoints makes room; with one, the run ends with that one whole, and goes
    on once there is room."""
    monkeypatch.setattr(Saver.__init__, "__kwdefaults__", {"waits": ()})

    def run() -> None:
        folder = tmp_path / "run"
        full = InMemory(masked_batch, before=lambda step: fill(tmp_path) if step == 5 else None)
        options = {"save_every": 2, "keep": keep, "tracker": ("none",), "quiet": False}
        if keep == 2:
            train(folder, masked(), full, **options)
        else:
            with pytest.raises(ResourceError, match=r"step 6 .*(No space left|it needs)"):
                train(folder, masked(), full, **options)
            assert saved_step(folder) == 4
            (tmp_path / "filling").unlink()
            train(folder, masked(), InMemory(masked_batch), resume=True, **options)
        assert saved_step(folder) == 6

    on_a_disk(tmp_path, "2m", run)


def test_rows_that_have_no_room_are_written_once_there_is(tmp_path):
    def run() -> None:
        journal = RunLogger(RunFolder(tmp_path), first_step=0, trackers=("none",), quiet=True)
        fill(tmp_path)
        for step in range(200):
            journal.metrics(step, "train", {"loss": 1.0})
            journal.info(f"step {step}")
        assert journal.failure is not None
        (tmp_path / "filling").unlink()
        journal.flush()
        assert journal.failure is None
        journal.close()
        rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == list(range(200))
        lines = (tmp_path / "log.txt").read_text().splitlines()
        assert lines == [f"step {step}" for step in range(200)]

    on_a_disk(tmp_path, "64k", run)


def test_a_row_that_is_written_in_parts_is_whole(tmp_path):
    lines = _Lines(tmp_path / "rows")
    file = lines._file

    class Halves:
        """Takes half of what it is given, and sometimes nothing."""

        def __init__(self):
            self.name, self.number = file.name, 0

        def write(self, data):
            self.number += 1
            if self.number % 3 == 0:
                raise OSError(errno.ENOSPC, "full")
            return file.write(data[: max(len(data) // 2, 1)])

    lines._file = Halves()
    for number in range(20):
        lines.add(f"line {number}")
    lines._file = file
    lines.close()
    assert (tmp_path / "rows").read_text() == "".join(f"line {number}\n" for number in range(20))


def test_a_log_that_has_no_room_does_not_hide_why_a_run_ends(tmp_path):
    def run() -> None:
        broken = InMemory(masked_batch, before=once(4, DataError("rotten")))

        def before(step: int) -> None:
            if step == 4:
                while saved_step(tmp_path / "run") != 4:  # by a thread
                    time.sleep(0.01)
                fill(tmp_path)
            once_broken(step)

        once_broken, broken.before = broken.before, before
        with pytest.raises(DataError, match="rotten"):
            train(tmp_path / "run", masked(), broken, save_every=2, tracker=("none",))
        assert saved_step(tmp_path / "run") == 4

    on_a_disk(tmp_path, "2m", run)


def test_room_is_made_only_beside_a_checkpoint_that_is_whole(tmp_path):
    for step in (10, 20):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    manifest = tmp_path / "step-00000020" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_text("{}")
    make_room(tmp_path)
    assert (tmp_path / "step-00000010").exists()
    manifest.write_bytes(whole)
    make_room(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000020"]


def test_a_terminal_that_is_closed_is_a_request_to_stop_unless_it_is_ignored(tmp_path):
    hang_up = ask_to_stop(2, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(Preempted):
            train(tmp_path / "stopped", masked(), InMemory(masked_batch, before=hang_up))
        assert saved_step(tmp_path / "stopped") == 3
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        train(tmp_path / "whole", masked(), InMemory(masked_batch, before=hang_up))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert saved_step(tmp_path / "whole") == 6


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_finished_run_can_be_made_longer(tmp_path, average):
    """From there on it is the run of the new length: weights, optimizer, average and the best go
    on, and the rate is that of its schedule."""
    options = {"average": average, "evaluation": evaluation("score")}
    train(tmp_path, masked(), InMemory(masked_batch), **options)
    before = newest_checkpoint(tmp_path / "checkpoints").checkpoint
    seen = []
    longer = InMemory(masked_batch, before=seen.append)
    train(tmp_path, masked(), longer, resume=True, steps=10, **options)
    assert seen == [6, 7, 8, 9]
    assert saved_step(tmp_path) == 10
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in rows if row["kind"] == "train"}
    assert list(rates) == list(range(1, 11))
    with opened(tmp_path, longer, steps=10) as run:
        for step in range(6, 10):
            assert rates[step + 1] == learning_rate(step, run.config)
        planned = replace(run.config, steps=6)
    said = (tmp_path / "log.txt").read_text()
    assert "10 steps instead of 6" in said
    assert f"{learning_rate(6, run.config):.2e} in the next one after " in said
    assert f"{learning_rate(5, planned):.2e} in the last" in said
    assert before.values["best"] is not None


def test_a_run_that_was_stopped_can_be_made_longer_and_no_other_word_is_said_of_one_that_is_not(
    tmp_path,
):
    with pytest.raises(Preempted):
        train(tmp_path, masked(), InMemory(masked_batch, before=ask_to_stop(2, signal.SIGTERM)))
    with opened(tmp_path, InMemory(masked_batch), steps=8) as run:
        fit(masked(), run, resume=True)
    assert saved_step(tmp_path) == 8
    with opened(tmp_path, InMemory(masked_batch), steps=8) as run:
        fit(masked(), run, resume=True)
    assert (tmp_path / "log.txt").read_text().count("steps instead of") == 1
