"""Read weights of other libraries, with the configuration that lies beside them.

The weights are one file or numbered shards, of a variant (`model.fp16.safetensors`) or of none,
with or without an index of the shards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from beit.errors import CheckpointError
from beit.json_object import read_object
from beit.terminal import counted, printable
from beit.weights.keymap import Tensors, listed
from beit.weights.overrides import Entries
from beit.weights.read import Contents, read_contents

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSOR = "processor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that exists is read
VARIANT = r"(\.(?P<variant>[\w-]+?))?"
WHOLE = re.compile(rf"(model|pytorch_model){VARIANT}\.(safetensors|bin)")
INDEX = re.compile(rf"(model\.safetensors|pytorch_model\.bin)\.index{VARIANT}\.json")
SHARD = re.compile(
    r"(?P<front>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<back>(\.[\w-]+)?\.(safetensors|bin))"
)
NUMBERS = re.compile(r"-\d{5}-of-\d{5}")
BESIDE = re.compile(r"\w[\w.-]{0,199}", re.ASCII)
AGAIN = "get it again, or give the weight file alone"


class Foreign(NamedTuple):
    """Weights of another library as they were saved, and what their files state."""

    place: Path
    name: str
    """Its name where it was published."""
    tensors: Tensors
    config: Entries
    """The config of transformers or timm; empty where none lies beside the weights."""
    preprocessor: Entries | None
    metadata: Mapping[str, object]
    notes: list[str]
    """How it was read."""
    sha256: str
    """Hash of the bytes that were read, if they came from one file; else empty."""


def is_foreign(path: Path) -> bool:
    """Whether a path is for `read_foreign`: any file, or a folder of timm or transformers."""
    return path.is_file() or foreign_config(path) is not None


def read_foreign(path: Path, name: str = "") -> Foreign:
    """Read a weight file, one of several shards, or a folder of timm or transformers.

    Args:
        path: The file or folder.
        name: Its name where it was published, if it has one.

    Raises:
        CheckpointError: There are no weights, or some of the files are missing.
    """
    folder = path if path.is_dir() else path.parent
    config = foreign_config(folder)
    if path.is_dir():
        files = _find_weights(path)
    elif SHARD.fullmatch(path.name):
        files = _all_shards(path)
    else:
        files = [path]
        config = config if WHOLE.fullmatch(path.name) else None
    read = [read_contents(file) for file in files]
    tensors = {key: value for contents in read for key, value in contents.tensors.items()}
    twice = sum(len(contents.tensors) for contents in read) - len(tensors)
    if twice:
        raise CheckpointError(
            f"{folder} has {counted(twice, 'tensor')} in more than one of its files", remedy=AGAIN
        )
    alone = read[0] if len(read) == 1 else None
    return Foreign(
        place=path if config is None else folder,
        name=name or path.name,
        tensors=tensors,
        config=config or Entries(folder / CONFIG, {}),
        preprocessor=find_processor(folder) if config else None,
        metadata=alone.metadata if alone else {},
        notes=_reading(alone) if alone else [f"weights from {counted(len(read), 'file')}"],
        sha256=alone.sha256 if alone else "",
    )


def foreign_config(folder: Path) -> Entries | None:
    """The config of a folder that timm or transformers wrote; None for any other folder.

    transformers writes `model_type`; timm writes `architecture`, a name where ours is an object. A
    model of timm that transformers has wrapped is timm's.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    config = _entries(file)
    named = isinstance(config.content.get("architecture"), str)
    if named and config.content.get("model_type") == "timm_wrapper":
        del config.content["model_type"]
    return config if named or "model_type" in config.content else None


def find_processor(folder: Path) -> Entries | None:
    """The image processor, where transformers looks for it: in the file of all processors, else in
    its own. A step that is null is switched off."""
    whole, own = folder / PROCESSOR, folder / PREPROCESSOR
    found = _entries(whole).table("image_processor") if whole.is_file() else None
    found = found or (_entries(own) if own.is_file() else None)
    if found is None:
        return None
    off = {name: False for name, value in found.content.items()
           if value is None and name.startswith("do_")}  # fmt: skip
    return Entries(found.file, found.content | off)


def _entries(file: Path) -> Entries:
    return Entries(file, read_object(file, CheckpointError, AGAIN))


def _reading(contents: Contents) -> list[str]:
    """Notes on how a file was read."""
    notes = []
    if contents.wrapper:
        others = ", ".join(f"'{printable(name)}'" for name in contents.other_sets)
        notes.append(
            f"the weights lie under '{printable(contents.wrapper)}'"
            + (f", not from {others}" if others else "")
        )
    if contents.skipped:
        notes.append(f"left out of the file: {printable(', '.join(contents.skipped))}")
    return notes


def _find_weights(folder: Path) -> list[Path]:
    """The weight files of a folder: first those of no variant, and safetensors before pickles."""
    names = [each for name in WEIGHTS for each in (name, f"{name}.index.json")]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    file = file or _only_variant(folder)
    if file.suffix == ".json":
        return _indexed(file)
    return _all_shards(file) if SHARD.fullmatch(file.name) else [file]


def _only_variant(folder: Path) -> Path:
    variants: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), key=lambda each: (each.suffix == ".bin", each.name)):
        found = WHOLE.fullmatch(NUMBERS.sub("", file.name)) or INDEX.fullmatch(file.name)
        if found:
            variants.setdefault(found["variant"] or "", file)
    if not variants:
        raise CheckpointError(
            f"{folder} has a {CONFIG}, but no {' or '.join(WEIGHTS)}",
            remedy="get the weights too, or give the weight file",
        )
    if len(variants) > 1:
        raise CheckpointError(
            f"{folder} holds its weights in several variants: {', '.join(variants)}",
            remedy=f"give one of the files: {', '.join(file.name for file in variants.values())}",
        )
    return next(iter(variants.values()))


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, and all shards of these series; they have to lie beside it."""
    placed = read_object(index, CheckpointError, AGAIN).get("weight_map")
    names = set(map(str, placed.values())) if isinstance(placed, dict) else set()
    if not names or not all(map(BESIDE.fullmatch, names)):
        raise CheckpointError(f"{index} names no files beside it", remedy="get it again")
    files = [index.with_name(name) for name in sorted(names)]
    numbered = [
        shard for file in files if SHARD.fullmatch(file.name) for shard in _all_shards(file)
    ]
    return _present(sorted({*files, *numbered}))


def _all_shards(shard: Path) -> list[Path]:
    found = SHARD.fullmatch(shard.name)
    assert found is not None
    front, total, back = found["front"], found["total"], found["back"]
    names = [f"{front}-{number:05d}-of-{total}{back}" for number in range(1, int(total) + 1)]
    return _present([shard.with_name(name) for name in names])


def _present(files: list[Path]) -> list[Path]:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"of {len(files)} files of weights {len(missing)} are missing in {files[0].parent}: "
            f"{listed(missing)}",
            remedy="get these too",
        )
    return files
