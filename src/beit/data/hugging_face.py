"""Hugging Face datasets: on the hub, saved in a folder, or in Parquet files."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from beit.data.layout import WHOLE
from beit.data.sources import Record, account_for, number_labels, target_at
from beit.errors import (
    EXHAUSTED,
    BeitError,
    ConfigError,
    DataError,
    UnreadableError,
    optional_library,
)
from beit.hardware import raise_if_exhausted
from beit.terminal import quoted

NAMED = re.compile(r"hf:([^:@]+)(?::([^:@]+))?(?:@([^:@]+))?")
PREFIX = "hf:"
IMAGE_COLUMNS = ("image", "img", "picture")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "fine_label")
SAVED = ("dataset_dict.json", "state.json")
ROWS = 4096


class HuggingFaceSource:
    """The rows of one split as images, in the order of the dataset."""

    def __init__(self, dataset: Any, split: str) -> None:
        self._column = _image_column(dataset)
        self._split = split
        features = importlib.import_module("datasets")
        decoded = isinstance(dataset.features[self._column], features.Image)
        raw = (
            dataset.cast_column(self._column, features.Image(decode=False)) if decoded else dataset
        )
        self._rows = raw.select_columns([self._column])
        self.classes, self.targets = _labels(dataset)
        layout = f"a Hugging Face dataset, images in its column {self._column}"
        self.account = account_for(self, split or "dataset", layout, split=split)

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        """The split and the number of the row: `train/000012`."""
        return f"{self._split or 'all'}/{index:06d}"

    def read(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        try:
            data = _bytes(self._rows[index][self._column])
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            raise UnreadableError(error.strerror or str(error)) from error
        return Record(data, target_at(self.targets, index), self.key(index))

    def size(self, index: int) -> int:
        try:
            return len(self.read(index).data)
        except UnreadableError:
            return -1

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([self._split, self.classes]).encode())
        if self.targets is not None:
            digest.update(self.targets.tobytes())
        for batch in self._rows.with_format("arrow").iter(ROWS):
            for chunk in batch.column(self._column).chunks:
                digest.update(json.dumps(_lengths(chunk)).encode())
        return digest.hexdigest()


def _lengths(chunk: Any) -> list[int]:
    """The size of each image in bytes; -1 if unknown. Of images in files it is the present size."""
    arrow, compute = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.compute")
    if not arrow.types.is_struct(chunk.type):
        return [-1 if size is None else size for size in compute.binary_length(chunk).to_pylist()]
    sizes = compute.binary_length(compute.struct_field(chunk, "bytes")).to_pylist()
    paths = compute.struct_field(chunk, "path").to_pylist()
    return [
        _file_size(path) if size is None else size for size, path in zip(sizes, paths, strict=True)
    ]


def _file_size(path: str | None) -> int:
    try:
        return -1 if path is None else Path(path).stat().st_size
    except OSError:
        return -1


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            return Path(value["path"]).read_bytes()
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise UnreadableError("the row holds no image")
    return value


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, dict):
        return {"bytes", "path"} <= feature.keys()
    return _is(feature, "Image") or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _is(feature: Any, kind: str) -> bool:
    return type(feature).__name__ == kind


def _image_column(dataset: Any) -> str:
    found = [name for name, feature in dataset.features.items() if _holds_images(feature)]
    usual = [name for name in IMAGE_COLUMNS if name in found]
    if usual or len(found) == 1:
        return str((usual or found)[0])
    problem = f"{len(found)} columns of the dataset hold images; it has "
    problem += quoted(list(dataset.features), 8)
    if found:
        raise DataError(problem, remedy=f"rename the one to learn from to '{IMAGE_COLUMNS[0]}'")
    for name in IMAGE_COLUMNS:
        if name in dataset.features:
            held = dataset.features[name]
            problem = f"the column {name} of the dataset holds {held}, no images"
            break
    raise DataError(
        problem,
        remedy="store the images in it; names of files belong into a list (.csv, .jsonl)",
    )


def _labels(dataset: Any) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Classes and targets from a column of the type ClassLabel, or from one of words or whole
    numbers that is called `label` or the like; where it holds lists, an image may have any number
    of labels. No classes and None without such a column, or if labels are missing."""
    features = dataset.features
    inner = {name: getattr(one, "feature", None) or one for name, one in features.items()}
    named = [name for name, one in inner.items() if _is(one, "ClassLabel")]
    usual = [name for name in LABEL_COLUMNS if name in (named or features)]
    if not usual and len(named) != 1:
        return (), None
    column = (usual or named)[0]
    values = list(dataset[column])
    several = inner[column] is not features[column]
    lists = values if several else [[value] for value in values]
    if not all(isinstance(value, list) for value in lists):
        return (), None
    if not all(isinstance(one, int | str) and one != "" for value in lists for one in value):
        return (), None
    names = tuple(inner[column].names) if column in named else ()
    if names and any(number < 0 for value in lists for number in value):
        return (), None  # as in test splits that are published without labels
    zeros_and_ones = all(one in (0, 1) for value in lists for one in value) and any(lists)
    if several and not names and zeros_and_ones:
        raise DataError(
            "the lists of labels hold nothing but 0 and 1: these may be the numbers of two "
            "classes, or say of each class whether the image has it",
            remedy="write the names of the classes, or numbers with ClassLabel",
        )
    words = [[names[one] if names else str(one) for one in value] for value in lists]
    return number_labels(words if several else [word for (word,) in words], names)


def is_hugging_face(path: str) -> bool:
    """Whether this is `hf:NAME`, a folder that `save_to_disk` wrote, or Parquet."""
    place = Path(path)
    return (
        path.startswith(PREFIX)
        or (place.suffix == ".parquet" and place.is_file())
        or any((place / name).is_file() for name in SAVED)
        # Parquet beside tar shards holds addresses and captions, beside images names and features.
        or (
            place.is_dir()
            and not any(place.glob("*.tar"))
            and any(map(_may_hold_images, place.glob("*.parquet")))
        )
    )


def _may_hold_images(file: Path) -> bool:
    """Whether a Parquet file has a column of images; true also for one that cannot be read, which
    is reported when it is opened."""
    try:
        arrow = importlib.import_module("pyarrow")
        kinds = importlib.import_module("pyarrow.parquet").read_schema(file).types
    except (ImportError, OSError, ValueError):  # pyarrow's own errors are among them
        return True
    binary = (arrow.binary(), arrow.large_binary())
    return any(kind in binary or (arrow.types.is_struct(kind) and
               {"bytes", "path"} <= {field.name for field in kind}) for kind in kinds)  # fmt: skip


def _load(path: str) -> Any:
    missing = f"{path} is a Hugging Face dataset, and the library `datasets` is not installed"
    with optional_library(missing, "datasets"):
        datasets = importlib.import_module("datasets")
    if not path.startswith(PREFIX):
        if any(Path(path, name).is_file() for name in SAVED):
            return datasets.load_from_disk(path)
        if Path(path).is_file():
            return datasets.load_dataset("parquet", data_files={"train": path})
        loaded = datasets.load_dataset(path)
        if any(split.builder_name != "parquet" for split in loaded.values()):
            raise DataError(
                f"{path} holds images in Parquet files, and others beside them",
                remedy="name one of the Parquet files, or move the others away",
            )
        return loaded
    found = NAMED.fullmatch(path)
    if found is None:
        raise ConfigError(
            f"{path} is not a name of a dataset",
            remedy="write hf:NAME, hf:NAME:CONFIG or hf:NAME@REVISION",
        )
    name, config, revision = found.groups()
    return datasets.load_dataset(name, config, revision=revision)


def open_hugging_face(path: str) -> dict[str, HuggingFaceSource]:
    """Every split of `hf:NAME`, of a folder that `save_to_disk` wrote, or of Parquet files.

    `hf:NAME:CONFIG@REVISION` names one configuration and revision. What is not on this machine is
    downloaded by the library `datasets`, into its own cache.

    Raises:
        DataError: If the dataset cannot be opened, has no rows, or holds no usable images.
        ConfigError: If what follows `hf:` is not of this form.
        ResourceError: If the library is not installed.
    """
    try:
        loaded = _load(path)
    except BeitError:
        raise
    except Exception as error:  # the library raises many types of its own
        raise_if_exhausted(error)
        remedy = "check the name, the network and, for private data, `hf auth login`"
        if not path.startswith(PREFIX):
            remedy = "check that the files are whole, and that all have the same columns"
        raise DataError(
            f"{path} cannot be opened: {error.__cause__ or error}", remedy=remedy
        ) from error
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split or WHOLE): loaded}
    sources = {
        name: HuggingFaceSource(dataset, name) for name, dataset in splits.items() if len(dataset)
    }
    if not sources:
        raise DataError(f"{path} has no rows", remedy="name a dataset with images")
    return sources if len(sources) > 1 else {WHOLE: next(iter(sources.values()))}
