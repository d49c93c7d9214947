"""Checkpoints of a run: complete or absent, checked by hash before use, written in the background.

A checkpoint is a folder `step-00001234` with safetensors and JSON files and a manifest of their
sizes and SHA-256. It is written under a temporary name, each file and the folder are flushed to the
disk, the manifest comes last, and only then does the folder get its name. No tensor format notices
a flipped bit by itself; the manifest does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from beit.atomic_io import Written, flush, replace_folder, write_file
from beit.errors import CheckpointError, ResourceError, of_another_format
from beit.json_object import parse_object, read_bytes, read_object

FORMAT = 1
MANIFEST = "manifest.json"
ROOM = 1.1
"""What must be free before a checkpoint is written, as a multiple of the newest one's size."""
OTHERS = "remove the folder; --resume uses the newest whole checkpoint"
WAITS = (1.0, 5.0, 20.0)
"""Seconds before each retry of a save that failed: somebody may make room."""
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The names of the types in safetensors."""
Tensors = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """The full state after `step` updates: named groups of tensors, and plain values."""

    step: int
    tensors: dict[str, Tensors]
    values: dict[str, Any]


def folder_name(step: int) -> str:
    """The name of the checkpoint after that many updates."""
    return f"step-{step:08d}"


def save_checkpoint(
    folder: Path, checkpoint: Checkpoint, *, keep: int, foresee: bool = True
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`. Returns its folder.

    If it fails, older checkpoints stay as they were.

    Args:
        folder: The folder of all checkpoints of the run.
        checkpoint: The state to write.
        keep: How many checkpoints stay, this one included.
        foresee: Check, before anything is written, that there is room.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    final = folder / folder_name(checkpoint.step)
    temporary = folder / f".writing-{checkpoint.step:08d}"
    try:
        if not folder.is_dir():
            folder.mkdir()  # never the run's own folder: where that is gone, so is its disk
            flush(folder.parent)
        _remove_leftovers(folder)
        shortage = _shortage(folder) if foresee else ""
        if shortage:
            raise _save_error(folder, checkpoint.step, shortage)
        temporary.mkdir()
        _write_all(temporary, checkpoint)
        replace_folder(temporary, final)  # in place of a damaged one, or of the same step
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _save_error(folder, checkpoint.step, error.strerror or str(error)) from error
    _remove(_folders(folder)[keep:])
    return final


def _remove(checkpoints: list[Path]) -> None:
    for old in checkpoints:
        leaving = old.with_name(f".removing-{old.name}")
        with suppress(OSError):  # it then stays, and only takes room
            old.rename(leaving)  # a checkpoint is there as a whole or not at all
            shutil.rmtree(leaving)


def make_room(folder: Path) -> None:
    """Remove all checkpoints but the newest, if that one is whole, so that the next has room: the
    last resort on a full disk, before giving up what was learned since."""
    checkpoints = _folders(folder)
    if len(checkpoints) > 1:
        with suppress(CheckpointError):
            read_checkpoint(checkpoints[0])
            _remove(checkpoints[1:])


def _save_error(folder: Path, step: int, reason: str) -> ResourceError:
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    return ResourceError(
        f"cannot save the checkpoint of step {step} in {folder}: {reason} "
        f"({free / 2**20:.0f} MiB free)",
        remedy="make room or permit writing, then continue with --resume",
    )


def _remove_leftovers(folder: Path) -> None:
    """What an interrupted save, or the removal of an old checkpoint, left behind."""
    for name in (".writing-*", ".removing-*", ".replaced-*"):
        for leftover in folder.glob(name):
            shutil.rmtree(leftover, ignore_errors=True)


def _shortage(folder: Path) -> str:
    """What is missing on the disk, if a checkpoint is about as large as the one before it."""
    last = next(iter(_folders(folder)), None)
    needed = int(ROOM * sum(file.stat().st_size for file in last.iterdir())) if last else 0
    short = needed > shutil.disk_usage(folder).free
    return f"it needs {needed / 2**20:.0f} MiB" if short else ""


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


def safetensors_pieces(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces, without a second copy of the tensors in memory: the header,
    then the bytes of each. The tensors must be on the CPU, in any order and layout.

    The widest types come first, so that each tensor starts at a multiple of its own width.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        flat = tensors[name].detach().contiguous().reshape(-1)
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data


def _folders(folder: Path) -> list[Path]:
    """Checkpoints by name, newest first; damaged ones among them."""
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


class _AnotherFormatError(CheckpointError):
    """The checkpoint is of another version of this package: whole, as far as this one can tell."""


class Found(NamedTuple):
    """The newest whole checkpoint, if any, and what was wrong with the newer ones."""

    checkpoint: Checkpoint | None
    damaged: list[str]


def newest_checkpoint(folder: Path, *, up_to: int | None = None) -> Found:
    """Find the newest checkpoint, of step `up_to` at most, whose every byte is as written.

    Raises:
        CheckpointError: One has the format of another version: continuing from an older one instead
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

    Raises:
        CheckpointError: A file, which it names, is missing, cut, altered or of another format.
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
        entries = {name: Written(**entry) for name, entry in manifest["files"].items()}
        step = int(manifest["step"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error!r}", remedy=OTHERS) from error
    for name, written in entries.items():
        if Path(name).name != name or name == "..":
            raise CheckpointError(f"{path / MANIFEST} names a file outside its folder: {name!r}")
        data = read_bytes(path / name, CheckpointError, OTHERS)
        if written != (len(data), hashlib.sha256(data).hexdigest()):
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


class Saver:
    """Writes the checkpoints of a run in a thread, one at a time.

    A copy of the state stays in host memory until it is published, so that training continues
    meanwhile, and a save that fails is retried with the very same state.
    """

    def __init__(self, folder: Path, *, keep: int, waits: Sequence[float] = WAITS) -> None:
        self._folder, self._keep, self._waits = folder, keep, waits
        self._copies: dict[str, Tensors] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[int] | None = None
        self._published: int | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy the state and start writing it, once the previous save is done.

        Raises:
            ResourceError: The previous save failed.
        """
        self.finish()
        copied = checkpoint._replace(tensors=self._copy(checkpoint.tensors))
        self._writing = self._writer.submit(self._write, copied)

    def _copy(self, groups: dict[str, Tensors]) -> dict[str, Tensors]:
        """Copy the tensors to host memory, into the buffers of the previous copy."""
        before, self._copies = self._copies, {}
        on_device = False
        for group, tensors in groups.items():
            copies = self._copies[group] = {}
            for name, tensor in tensors.items():
                on_device |= tensor.is_cuda
                copies[name] = _place_for(tensor, before.get(group, {}).get(name))
                copies[name].copy_(tensor.detach(), non_blocking=not tensor.is_mps)
        if on_device:
            torch.cuda.synchronize()
        return self._copies

    def _write(self, checkpoint: Checkpoint) -> int:
        for wait in self._waits:
            try:
                save_checkpoint(self._folder, checkpoint, keep=self._keep)
            except ResourceError:
                time.sleep(wait)
            else:
                return checkpoint.step
        make_room(self._folder)
        save_checkpoint(self._folder, checkpoint, keep=self._keep, foresee=False)
        return checkpoint.step

    @property
    def has_failed(self) -> bool:
        """Whether a save was given up."""
        writing = self._writing
        return writing is not None and writing.done() and writing.exception() is not None

    @property
    def published(self) -> int | None:
        """The step of the newest checkpoint that is whole and durable."""
        writing = self._writing
        if writing is not None and writing.done() and writing.exception() is None:
            self._published = writing.result()
        return self._published

    def finish(self) -> None:
        """Wait until what was to be saved is published.

        Raises:
            ResourceError: It could not be; raised once.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            self._published = writing.result()

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.shutdown()


def _place_for(tensor: Tensor, former: Tensor | None) -> Tensor:
    if former is not None and former.shape == tensor.shape and former.dtype == tensor.dtype:
        return former
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
