"""Read weights that are not ours, with the configuration that lies beside them.

Weights lie in one file or in numbered shards, of a variant (`model.fp16.safetensors`) or of none,
with an index of the shards or without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from beit.errors import CheckpointError
from beit.json_object import parse_json
from beit.terminal import printable
from beit.weights.container import Contents, read_contents
from beit.weights.names import Tensors

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read
VARIANT = r"(\.(?P<variant>[\w-]+?))?"
WHOLE = re.compile(rf"(model|pytorch_model){VARIANT}\.(safetensors|bin)")
INDEX = re.compile(rf"(model\.safetensors|pytorch_model\.bin)\.index{VARIANT}\.json")
SHARD = re.compile(
    r"(?P<front>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<back>(\.[\w-]+)?\.(safetensors|bin))"
)
NUMBERS = re.compile(r"-\d{5}-of-\d{5}")
AGAIN = "get it again"


class Foreign(NamedTuple):
    """Weights of others as they were saved, and what their files say."""

    place: Path
    name: str
    """What it is called where it was published."""
    tensors: Tensors
    config: dict[str, Any]
    """That of transformers or timm; empty where none lies beside the weights."""
    preprocessor: dict[str, Any] | None
    metadata: Mapping[str, object]
    notes: tuple[str, ...]
    sha256: str
    """Of the bytes that were read, if they are those of one file."""


def is_foreign(path: Path) -> bool:
    """Whether a path is for `read_foreign`: any file, or a folder of timm or transformers."""
    return path.is_file() or _is_foreign_config(path / CONFIG)


def read_foreign(path: Path, name: str = "") -> Foreign:
    """Read a weight file, one of several shards, or a folder of timm or transformers.

    Raises CheckpointError for files that hold no weights, or are not all there.
    """
    if path.is_dir():
        return _folder(path, _find_weights(path), name)
    described = _is_foreign_config(path.parent / CONFIG)
    if SHARD.fullmatch(path.name):
        files = _all_shards(path)
        if described:
            return _folder(path.parent, files, name)
        tensors, notes, _ = _read_all(files)
        return Foreign(path, name or path.name, tensors, {}, None, {}, notes, "")
    if described and WHOLE.fullmatch(path.name):
        return _folder(path.parent, [path], name)
    contents = read_contents(path)
    notes, sha256 = tuple(_reading(contents)), contents.sha256
    return Foreign(path, name or path.name, contents.tensors, {}, None, contents.metadata, notes,
                   sha256)  # fmt: skip


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError for anything else."""
    try:
        config = parse_json(file.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{file.parent} has no readable {file.name}: {error.strerror}",
            remedy="give a weight file, or the folder of a model with its config.json",
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}", remedy=AGAIN) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object", remedy=AGAIN)
    return config


def _is_foreign_config(file: Path) -> bool:
    """transformers writes `model_type`; timm `architecture`, a name where we have a tree."""
    if not file.is_file():
        return False
    config = read_json(file)
    return "model_type" in config or isinstance(config.get("architecture"), str)


def _folder(folder: Path, files: list[Path], name: str) -> Foreign:
    tensors, notes, sha256 = _read_all(files)
    preprocessor = folder / PREPROCESSOR
    said = read_json(preprocessor) if preprocessor.is_file() else None
    return Foreign(folder, name, tensors, read_json(folder / CONFIG), said, {}, notes, sha256)


def _read_all(files: list[Path]) -> tuple[Tensors, tuple[str, ...], str]:
    """The tensors of one or several files, what there is to say, and the hash if it is one."""
    if len(files) == 1:
        contents = read_contents(files[0])
        return contents.tensors, tuple(_reading(contents)), contents.sha256
    tensors: Tensors = {}
    for file in files:
        tensors |= read_contents(file).tensors
    return tensors, (f"weights from {len(files)} files",), ""


def _reading(contents: Contents) -> Iterator[str]:
    """What there is to say about how a file was read."""
    if contents.wrapper:
        beside = f", not from {_listed(contents.other_sets)}" if contents.other_sets else ""
        yield f"the weights lie under '{printable(contents.wrapper)}'{beside}"
    if contents.left_out:
        yield f"left out of the file: {printable(', '.join(contents.left_out))}"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{printable(name)}'" for name in names)


def _find_weights(folder: Path) -> list[Path]:
    """The files of a folder; those of no variant first, and safetensors before anything pickled."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            return _indexed(folder / f"{name}.index.json")
    sets: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), key=lambda each: (each.suffix == ".bin", each.name)):
        variant = _variant(file.name)
        if variant is not None:
            sets.setdefault(variant, file)
    return _only_set(folder, sets)


def _variant(name: str) -> str | None:
    """The variant that a file of weights, a shard or an index belongs to; None for other files."""
    found = WHOLE.fullmatch(NUMBERS.sub("", name)) or INDEX.fullmatch(name)
    return (found["variant"] or "") if found else None


def _only_set(folder: Path, sets: dict[str, Path]) -> list[Path]:
    """The files of the one variant that there is, by its index, its first shard or alone."""
    if not sets:
        raise CheckpointError(
            f"{folder} has a {CONFIG}, but no {' or '.join(WEIGHTS)}",
            remedy="get the weights too, or give the weight file",
        )
    if len(sets) > 1:
        raise CheckpointError(
            f"{folder} holds its weights in several variants: {', '.join(sets)}",
            remedy=f"give one of the files: {', '.join(file.name for file in sets.values())}",
        )
    (file,) = sets.values()
    if file.suffix == ".json":
        return _indexed(file)
    return _all_shards(file) if SHARD.fullmatch(file.name) else [file]


def _indexed(index: Path) -> list[Path]:
    """The files that an index names; all of them have to lie beside it."""
    placed = read_json(index).get("weight_map")
    names = set(placed.values()) if isinstance(placed, dict) and _are_texts(placed) else set()
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} names no files beside it", remedy=AGAIN)
    return _present([index.with_name(name) for name in sorted(names)])


def _are_texts(placed: dict[str, object]) -> bool:
    return all(isinstance(value, str) for value in placed.values())


def _all_shards(shard: Path) -> list[Path]:
    found = SHARD.fullmatch(shard.name)
    assert found is not None
    numbers = range(1, int(found["total"]) + 1)
    return _present([
        shard.with_name(f"{found['front']}-{number:05d}-of-{found['total']}{found['back']}")
        for number in numbers
    ])  # fmt: skip


def _present(files: list[Path]) -> list[Path]:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"of {len(files)} files of weights {len(missing)} are missing in {files[0].parent}: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
            remedy="get these too",
        )
    return files
