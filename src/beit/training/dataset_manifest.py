"""What a run depends on, kept with it and compared when it is resumed: its images, its frozen
parts, such as a tokenizer, and what decides the last digits of its numbers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from beit.atomic_io import replace_file
from beit.config.runs import RunConfig
from beit.config.tree import differences
from beit.errors import CheckpointError, DataError
from beit.training.checkpoint import newest_checkpoint
from beit.training.run_folder import PLACES, RunFolder, read_run_config

NAMED = 3


class DatasetManifest(NamedTuple):
    """The images of a run: a fingerprint of names, sizes, labels and contents, and the names."""

    fingerprint: str
    keys: Callable[[], Iterable[str]]


def save_manifest(folder: RunFolder, manifest: DatasetManifest) -> None:
    """Write the names of the images, so that later changes can be named. Names from before that are
    gone go to a file of their own, since the run may have learned from those images too."""
    names = list(manifest.keys())
    before = load_names(folder.images)
    gone = {*(before or ())} - {*names} if before != names else set()
    if gone:
        _write(folder.left_images, sorted(gone.union(load_names(folder.left_images) or ())))
    _write(folder.images, names)


def _write(file: Path, names: list[str]) -> None:
    """Each name ends with NUL, the one character that no name of a file holds."""
    data = "".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape")
    replace_file(file, [gzip.compress(data, 6, mtime=0)])
    _of_older_run(file).unlink(missing_ok=True)


def _of_older_run(file: Path) -> Path:
    """What older versions call the file: `pictures.txt.gz`, `left_pictures.txt.gz`."""
    return file.with_name(file.name.replace("images", "pictures"))


def load_names(file: Path) -> list[str] | None:
    """The names that were written; None if they are missing or damaged."""
    written = file if file.exists() else _of_older_run(file)
    try:
        text = gzip.decompress(written.read_bytes()).decode("utf-8", "surrogateescape")
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    # Older runs have one name per line.
    return text[:-1].split("\0") if text.endswith("\0") else text.split("\n")


def learned_names(folder: RunFolder) -> frozenset[str] | None:
    """The names of all images that a run learned from; None if they are not known."""
    names = load_names(folder.images)
    return None if names is None else frozenset(names).union(load_names(folder.left_images) or ())


def check_unchanged(file: Path, before: str, manifest: DatasetManifest) -> None:
    """Raise DataError if the images have changed: it says what was added, removed or altered.

    Args:
        file: The names of the images as the run wrote them.
        before: Fingerprint of the images in the checkpoint.
        manifest: The images now.
    """
    if before == manifest.fingerprint:
        return
    raise DataError(
        f"the images are not those that the run was trained on: {_difference(file, manifest)}",
        remedy="bring them back as they were, start a new run, or go on with the images as they "
        "are with --accept-changed-data: it will not equal an uninterrupted run",
    )


def _difference(file: Path, manifest: DatasetManifest) -> str:
    old = load_names(file)
    if old is None:
        return "their list has another fingerprint"
    new = list(manifest.keys())
    parts = [
        f"{len(names)} {word} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for word, names in (
            ("added", sorted({*new} - {*old})),
            ("removed", sorted({*old} - {*new})),
        )
        if names
    ]
    return ", ".join(parts) or "the same names, but other sizes, contents, labels or order"


def check_same_parts(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise CheckpointError if the hash of a frozen part of the run has changed."""
    for name, digest in now.items():
        if before.get(name, digest) != digest:
            raise CheckpointError(
                f"the {name} is not the one the run has learned with: its weights hash to "
                f"{digest[:12]}, and then to {before[name][:12]}",
                remedy=f"bring that {name} back, or start a new run",
            )


def check_moved(
    folder: RunFolder, config: RunConfig, manifest: DatasetManifest, parts: Mapping[str, str]
) -> None:
    """Compare the images and the tokenizer of a run that is resumed with another path to them.

    They are compared again when the checkpoint is restored, as in every resumed run; here it is
    done before the config with the new path is written. A run without a checkpoint starts from the
    beginning, so nothing is compared.

    Args:
        folder: The folder of the run.
        config: The config to resume the run with.
        manifest: The images now.
        parts: Hashes of the frozen parts now.

    Raises:
        DataError: The images are not the same.
        CheckpointError: The tokenizer, or another frozen part, is not the same.
    """
    if not PLACES & differences(read_run_config(folder.path), config).keys():
        return
    found = newest_checkpoint(folder.checkpoints).checkpoint
    if found is None:
        return
    check_same_parts(found.values.get("parts", {}), parts)
    if not config.accept_changed_data:
        check_unchanged(folder.images, found.values.get("data") or "", manifest)


def environment(world: int) -> dict[str, Any]:
    """What decides the last digits: the same gives the same bits, and another may not."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "world": world,
    }


def environment_changes(before: Mapping[str, Any], world: int) -> list[str]:
    """Notes for the log on an environment that differs from that of a checkpoint's values."""
    changed = [
        f"{name} {before[name]} -> {now}"
        for name, now in environment(world).items()
        if name in before and before[name] != now
    ]
    if not changed:
        return []
    return [
        f"going on elsewhere ({', '.join(changed)}): the numbers may differ in their last digits "
        "from those of a run that never stopped"
    ]
