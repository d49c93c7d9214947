"""Loss of power at any moment of a run's start and saves, with any part of the unflushed lost."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from disk_trace import Disk, Told, Tree, after_power_loss, lay_out, traced
from trial import Trial, Try

from beit.config import PretrainRunConfig
from beit.recipes import find_recipe
from beit.training.checkpoint import newest_checkpoint, save_checkpoint
from beit.training.run_folder import RunFolder, read_run_config
from states import assert_same, checkpoint

STEPS = (10, 20, 30, 40)
SHARES = (0.0, 1.0, 0.5, 0.1, 0.9)


def record(folder: Path) -> Disk:
    """A run begins, saves, resumes and saves; the oldest checkpoints go."""
    disk = Disk(folder)
    config = replace(
        find_recipe("pretrain", "tiny", PretrainRunConfig), data="images", out=str(folder / "run")
    )
    run = RunFolder(folder / "run")
    with traced(disk):
        for resume in (False, True):
            run.open(config, resume=resume)
            for step in STEPS[2 * resume : 2 * resume + 2]:
                save_checkpoint(run.checkpoints, checkpoint(step), keep=1)
                disk.tell(step)
            run.close()
    return disk


def states(disk: Disk) -> Iterator[tuple[int, Tree]]:
    """States after losses of power, each with the last step announced before; no state twice."""
    chance = random.Random(0)
    seen = set()
    idle = 0
    while idle < 100:
        idle += 1
        for moment in range(len(disk.events) + 1):
            told = [event.step for event in disk.events[:moment] if isinstance(event, Told)]
            tree = after_power_loss(disk, moment, chance, chance.choice(SHARES))
            state = (told[-1] if told else 0, frozenset(tree.items()))
            if state not in seen:
                seen.add(state)
                idle = 0
                yield state[0], tree


def _resumes(folder: Path, told: int, tree: Tree) -> None:
    """With at least what was announced, and every bit of it."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        lay_out(tree, Path(place))
        run = RunFolder(Path(place) / "run")
        found = newest_checkpoint(run.checkpoints).checkpoint
        assert told <= (found.step if found else 0)
        if found is not None:
            assert_same(found, checkpoint(found.step))
            assert read_run_config(run.path).data == "images"
            save_checkpoint(run.checkpoints, checkpoint(50), keep=1)
            assert_same(newest_checkpoint(run.checkpoints).checkpoint, checkpoint(50))


def tries(folder: Path, count: int) -> Iterator[Try]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        disk = record(Path(place))
    for number, (told, tree) in enumerate(states(disk)):
        if number == count:
            return
        yield partial(_resumes, folder, told, tree)


TRIAL = Trial(
    fault="loss of power: any combination of what was not flushed is lost, cut or zeros",
    promise="resuming finds a whole checkpoint, none older than the last announced",
    count=10_000,
    tries=tries,
)
