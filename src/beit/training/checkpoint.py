"""Checkpoints of a run: complete or absent, and checked by hash before they are used.

A checkpoint is a folder `step-00001234` with safetensors and JSON files and a manifest of their
sizes and SHA-256. It is written under a temporary name, each file and the folder are flushed to the
disk, the manifest comes last, and only then the folder gets its name. No format of tensors notices
a flipped bit by itself; the manifest does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from beit.atomic_io import flush, replace_folder, write_file
from beit.errors import CheckpointError, ResourceError, of_another_format
from beit.json_object import parse_object, read_bytes, read_object
from beit.training.streamed import safetensors_pieces

FORMAT = 1
MANIFEST = "manifest.json"
ROOM = 1.1
"""Times the size of the newest checkpoint that must be free before another is written."""
OTHERS = "remove the folder; --resume uses the newest whole checkpoint"
Tensors = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """The full state after `step` updates: named groups of tensors, and plain values."""

    step: int
    tensors: dict[str, Tensors]
    values: dict[str, Any]


def folder_name(step: int) -> str:
    """Of the checkpoint after that many updates."""
    return f"step-{step:08d}"


def save_checkpoint(
    folder: Path, checkpoint: Checkpoint, *, keep: int, foresee: bool = True
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`. Returns its folder.

    Raises ResourceError when the disk is full or read-only, before anything is written if that is
    `foresee`n; older checkpoints stay as they were.
    """
    final = folder / folder_name(checkpoint.step)
    temporary = folder / f".writing-{checkpoint.step:08d}"
    try:
        if not folder.is_dir():
            folder.mkdir()  # never the run's own folder: where that is gone, so is its disk
            flush(folder.parent)
        _remove_leftovers(folder)
        if foresee:
            _check_room(folder)
        temporary.mkdir()
        _write_all(temporary, checkpoint)
        replace_folder(temporary, final)  # in place of a damaged one, or of the same step
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _no_saving(folder, checkpoint.step, error.strerror or str(error)) from error
    except _NoRoomError as error:
        raise _no_saving(folder, checkpoint.step, str(error)) from error
    _remove(_folders(folder)[keep:])
    return final


def _remove(checkpoints: list[Path]) -> None:
    for old in checkpoints:
        leaving = old.with_name(f".removing-{old.name}")
        with suppress(OSError):  # it stays, and costs room only
            old.rename(leaving)  # a checkpoint is there as a whole or not at all
            shutil.rmtree(leaving)


def make_room(folder: Path) -> None:
    """Remove all checkpoints but the newest, if that one is whole, so that the next has its room:
    for a disk that is full, before what was learned since is given up."""
    checkpoints = _folders(folder)
    if len(checkpoints) > 1:
        with suppress(CheckpointError):
            read_checkpoint(checkpoints[0])
            _remove(checkpoints[1:])


class _NoRoomError(Exception):
    """What a save needs is more than what is free."""


def _no_saving(folder: Path, step: int, reason: str) -> ResourceError:
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    return ResourceError(
        f"cannot save the checkpoint of step {step} in {folder}: {reason} "
        f"({free / 2**20:.0f} MiB free)",
        remedy="make room or permit writing, then go on with --resume",
    )


def _remove_leftovers(folder: Path) -> None:
    """What an interrupted save, or the removal of an old checkpoint, left behind."""
    for name in (".writing-*", ".removing-*", ".replaced-*"):
        for leftover in folder.glob(name):
            shutil.rmtree(leftover, ignore_errors=True)


def _check_room(folder: Path) -> None:
    """A checkpoint is about as large as the one before it."""
    last = next(iter(_folders(folder)), None)
    if last is None:
        return
    needed = int(ROOM * sum(file.stat().st_size for file in last.iterdir()))
    if needed > shutil.disk_usage(folder).free:
        raise _NoRoomError(f"it needs {needed / 2**20:.0f} MiB")


def _write_all(folder: Path, checkpoint: Checkpoint) -> None:
    import beit

    entries = {}
    for name, tensors in checkpoint.tensors.items():
        pieces = safetensors_pieces({key: value.cpu() for key, value in tensors.items()})
        entries[f"{name}.safetensors"] = write_file(folder / f"{name}.safetensors", pieces)
    about = {"step": checkpoint.step, "beit": beit.__version__}
    state = json.dumps({**about, **checkpoint.values}, indent=1).encode()
    entries["state.json"] = write_file(folder / "state.json", [state])
    files = {name: written._asdict() for name, written in entries.items()}
    manifest = {"format": FORMAT, **about, "files": files}
    write_file(folder / MANIFEST, [json.dumps(manifest, indent=1).encode()])


def _folders(folder: Path) -> list[Path]:
    """Checkpoints by name, newest first; damaged ones among them."""
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


class _AnotherFormatError(CheckpointError):
    """Of another version of this package: whole, as far as this one can tell."""


class Found(NamedTuple):
    """The newest whole checkpoint, if any, and what was wrong with the newer ones."""

    checkpoint: Checkpoint | None
    damaged: list[str]


def newest_checkpoint(folder: Path, *, up_to: int | None = None) -> Found:
    """Look for the newest checkpoint, of at most that step, whose every byte is as written.

    Raises CheckpointError for one of another version's format: going on from an older one instead
    would lose what that version has learned.
    """
    damaged: list[str] = []
    for path in _folders(folder):
        if up_to is not None and path.name > folder_name(up_to):
            continue
        try:
            return Found(read_checkpoint(path), damaged)
        except _AnotherFormatError:
            raise
        except CheckpointError as error:
            damaged.append(error.problem)
    return Found(None, damaged)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises CheckpointError naming the file that is missing, cut, altered or of another format.
    """
    import beit

    manifest = read_object(path / MANIFEST, CheckpointError, OTHERS)
    if manifest.get("format") != FORMAT:
        maker = manifest.get("beit")
        raise of_another_format(
            # This version writes no other format: then it is a flipped bit.
            CheckpointError if maker in (None, beit.__version__) else _AnotherFormatError,
            f"the checkpoint {path}",
            found=manifest.get("format"),
            reads=FORMAT,
            made_by=maker,
        )
    tensors: dict[str, Tensors] = {}
    values: dict[str, Any] = {}
    try:
        entries = {
            name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()
        }
        step = int(manifest["step"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error!r}", remedy=OTHERS) from error
    for name, (size, digest) in entries.items():
        if Path(name).name != name or name == "..":
            raise CheckpointError(f"{path / MANIFEST} names a file outside its folder: {name!r}")
        data = read_bytes(path / name, CheckpointError, OTHERS)
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise CheckpointError(
                f"{path / name} is damaged: its {len(data)} bytes are not what was written",
                remedy=OTHERS,
            )
        if name.endswith(".safetensors"):
            tensors[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
        else:
            values = parse_object(path / name, data, CheckpointError, OTHERS)
    about = {name: values.pop(name, None) for name in ("step", "beit")}
    if about != {"step": step, "beit": manifest.get("beit")}:
        raise CheckpointError(
            f"{path / MANIFEST} is damaged: its step or version is not that of the files",
            remedy=OTHERS,
        )
    return Checkpoint(step, tensors, values)
