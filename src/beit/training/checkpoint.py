"""Checkpoints of a run: complete or absent, and checked by hash before they are used.

A checkpoint is a folder `step-00001234` with safetensors and JSON files and a manifest of their
sizes and SHA-256. It is written under a temporary name, each file and the folder are flushed to the
disk, the manifest comes last, and only then the folder gets its name. No format of tensors notices
a flipped bit by itself; the manifest does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from beit.errors import CheckpointError, ResourceError

FORMAT = 1
MANIFEST = "manifest.json"
OTHERS = "remove the folder; --resume uses the newest whole checkpoint"
Tensors = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """The full state after `step` updates: named groups of tensors, and plain values."""

    step: int
    tensors: dict[str, Tensors]
    values: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`. Returns its folder.

    Raises ResourceError when the disk is full or read-only; older checkpoints stay as they were.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".writing-{checkpoint.step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_all(temporary, checkpoint)
        if final.exists():  # damaged, or the same step repeated after a resume
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        raise ResourceError(
            f"cannot save the checkpoint of step {checkpoint.step} in {folder}: {error.strerror} "
            f"({free / 2**20:.0f} MiB free)",
            remedy="make room or permit writing, then go on with --resume",
        ) from error
    for old in _folders(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write_all(folder: Path, checkpoint: Checkpoint) -> None:
    entries = {}
    for name, tensors in checkpoint.tensors.items():
        packed = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        entries[f"{name}.safetensors"] = _write(
            folder / f"{name}.safetensors", safetensors.torch.save(packed)
        )
    state = json.dumps({"step": checkpoint.step, **checkpoint.values}, indent=1).encode()
    entries["state.json"] = _write(folder / "state.json", state)
    manifest = {"format": FORMAT, "step": checkpoint.step, "files": entries}
    _write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    _flush(folder)


def _write(path: Path, data: bytes) -> dict[str, object]:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _flush(folder: Path) -> None:
    """Make the folder's entries themselves durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _folders(folder: Path) -> list[Path]:
    """Checkpoints by name, newest first; damaged ones among them."""
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


class Found(NamedTuple):
    """The newest whole checkpoint, if any, and what was wrong with the newer ones."""

    checkpoint: Checkpoint | None
    damaged: list[str]


def newest_checkpoint(folder: Path) -> Found:
    """Look for the newest checkpoint whose every byte is as it was written."""
    damaged: list[str] = []
    for path in _folders(folder):
        try:
            return Found(read_checkpoint(path), damaged)
        except CheckpointError as error:
            damaged.append(error.problem)
    return Found(None, damaged)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises CheckpointError naming the file that is missing, cut, altered or of another format.
    """
    manifest = _parse(path / MANIFEST, _read(path / MANIFEST))
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {manifest.get('format')}, this version reads {FORMAT}",
            remedy="use the version of beit that wrote it",
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
        data = _read(path / name)
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise CheckpointError(
                f"{path / name} is damaged: its {len(data)} bytes are not what was written",
                remedy=OTHERS,
            )
        if name.endswith(".safetensors"):
            tensors[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
        else:
            values = _parse(path / name, data)
    if values.pop("step", None) != step:
        raise CheckpointError(
            f"{path / MANIFEST} is damaged: its step {step} is not that of the files", remedy=OTHERS
        )
    return Checkpoint(step, tensors, values)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}",
            remedy=OTHERS,
        ) from error


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}", remedy=OTHERS) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object", remedy=OTHERS)
    return values
