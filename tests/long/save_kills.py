"""SIGKILL at every call with which something of a run is written."""

from __future__ import annotations

import gzip
import itertools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from trial import Trial, Try, die

from beit.config import PretrainRunConfig
from beit.models.heads import MaskedImageModel
from beit.recipes import find_recipe
from beit.training.checkpoint import MANIFEST, newest_checkpoint, save_checkpoint
from beit.training.dataset_manifest import DatasetManifest, save_manifest
from beit.training.run_folder import RunFolder, read_run_config
from beit.training.run_logger import RunLogger
from beit.weights.store import Details, load_artifact, save_artifact
from children import in_a_child
from miniature import BACKBONE
from states import assert_same, checkpoint

CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


class Way(NamedTuple):
    """A way in which a run writes: what was there, what it does, what must hold after a kill."""

    prepare: Callable[[Path, int], None]
    act: Callable[[Path, int], None]
    holds: Callable[[Path, int], None]


@contextmanager
def dying(at: int, *, halfway: bool) -> Iterator[list[str]]:
    """Die before the given call, or with half of its bytes written; the calls that were made."""
    made: list[str] = []
    real = {name: getattr(os, name) for name in CALLS}

    def watched(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(made) == at:
                if halfway and name == "write":
                    handle, data = arguments
                    real["write"](handle, bytes(data)[: len(data) // 2])
                die()
            made.append(name)
            return real[name](*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, watched(name))
    try:
        yield made
    finally:
        for name in CALLS:
            setattr(os, name, real[name])


def _save(step: int, keep: int, folder: Path, more: int) -> None:
    save_checkpoint(folder / "checkpoints", checkpoint(step, more=more), keep=keep)


def _nothing(folder: Path, more: int) -> None:
    pass


def _damaged(folder: Path, more: int) -> None:
    _save(10, 2, folder, more)
    _save(20, 2, folder, more)
    (folder / "checkpoints" / "step-00000020" / MANIFEST).write_text("{}")


def _newest_is(steps: set[int | None], folder: Path, more: int) -> None:
    found = newest_checkpoint(folder / "checkpoints")
    assert (found.checkpoint and found.checkpoint.step) in steps
    if found.checkpoint is not None:
        assert_same(found.checkpoint, checkpoint(found.checkpoint.step, more=more))


def _publish(depth: int, folder: Path, more: int) -> None:
    model = MaskedImageModel(replace(BACKBONE, depth=depth), 12 + more)
    save_artifact(folder / "model", model, Details())


def _artifact_is_whole(folder: Path, more: int) -> None:
    """Or it is away, between two names; then the run publishes it again."""
    if (folder / "model").exists():
        load_artifact(folder / "model")


CONFIG = find_recipe("pretrain", "tiny", PretrainRunConfig)


def _begin(folder: Path, more: int) -> None:
    run = RunFolder(folder / "run")
    config = replace(CONFIG, data="d" * more, out=str(run.path))
    run.open(config, resume=run.config.exists())
    run.close()


def _config_is_whole(folder: Path, more: int) -> None:
    run = RunFolder(folder / "run")
    if run.config.exists():
        assert read_run_config(run.path).data == "d" * more
    else:
        run.check_free()


def _write_rows(folder: Path, more: int) -> None:
    journal = RunLogger(RunFolder(folder), first_step=0, quiet=True)
    for step in range(more + 3):
        journal.metrics(step, "train", {"loss": 1.0})
    journal.close()


def _go_on(folder: Path, more: int) -> None:
    RunLogger(RunFolder(folder), first_step=1, quiet=True).close()


def _rows_are_whole(folder: Path, more: int) -> None:
    rows = RunFolder(folder).metrics.read_text().splitlines()
    assert len(rows) in (2, more + 3)


def _remember(names: int, folder: Path, more: int) -> None:
    save_manifest(
        RunFolder(folder).images, DatasetManifest("", lambda: map(str, range(names + more)))
    )


def _listing_is_whole(folder: Path, more: int) -> None:
    names = gzip.decompress(RunFolder(folder).images.read_bytes()).split(b"\n")
    assert len(names) in (3 + more, 5 + more)


WAYS: dict[str, Way] = {
    "first checkpoint": Way(_nothing, partial(_save, 10, 1), partial(_newest_is, {None, 10})),
    "next checkpoint": Way(
        partial(_save, 10, 1), partial(_save, 20, 1), partial(_newest_is, {10, 20})
    ),
    "over a damaged checkpoint": Way(
        _damaged, partial(_save, 20, 2), partial(_newest_is, {10, 20})
    ),
    "artifact": Way(_nothing, partial(_publish, 1), _artifact_is_whole),
    "over an artifact": Way(partial(_publish, 1), partial(_publish, 2), _artifact_is_whole),
    "new run": Way(_nothing, _begin, _config_is_whole),
    "resumed run": Way(_begin, _begin, _config_is_whole),
    "rows done again": Way(_write_rows, _go_on, _rows_are_whole),
    "list of images": Way(partial(_remember, 3), partial(_remember, 5), _listing_is_whole),
}


def points(folder: Path) -> Iterator[Try]:
    """Every call of every way, before it and in its midst, with more and more to write."""
    for more in itertools.count(0, 2):
        for way in WAYS.values():
            with tempfile.TemporaryDirectory(dir=folder) as place:
                way.prepare(Path(place), more)
                with dying(-1, halfway=False) as calls:
                    way.act(Path(place), more)
            for at, name in enumerate(calls):
                for halfway in (False, True) if name == "write" else (False,):
                    yield partial(_kill, folder, way, more, at, halfway)


def _kill(folder: Path, way: Way, more: int, at: int, halfway: bool) -> None:
    def act() -> None:
        with dying(at, halfway=halfway):
            way.act(Path(place), more)

    with tempfile.TemporaryDirectory(dir=folder) as place:
        way.prepare(Path(place), more)
        assert in_a_child(act) == -signal.SIGKILL
        way.holds(Path(place), more)
        way.act(Path(place), more)
        way.holds(Path(place), more)
        left = [file.name for file in Path(place).rglob("*") if file.name.startswith(".")]
        assert not left, f"left behind: {left}"


def tries(folder: Path, count: int) -> Iterator[Try]:
    return itertools.islice(points(folder), count)


TRIAL = Trial(
    fault="SIGKILL at each call that writes a checkpoint, an artifact, the config, the rows or the "
    "list of images",
    promise="the old or the new, whole, or an artifact away until the run goes on; the next write "
    "finds its way and leaves nothing behind",
    count=1000,
    tries=tries,
)
