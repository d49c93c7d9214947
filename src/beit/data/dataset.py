"""Data in any form, recognised and opened once: folders, label files, shards, datasets, one image.

A run trains on, evaluates or packs the splits of one `Dataset`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from beit.config.data import AS_RECOGNISED, FolderConfig, LabelFileConfig, Reading
from beit.data.folder_names import split_called, split_name
from beit.data.folders import LAYOUTS, TRAIN, Folders
from beit.data.hugging_face import is_hugging_face, open_hugging_face
from beit.data.label_file import LabelFile, is_label_file, read_label_file
from beit.data.layout import WHOLE
from beit.data.listing import LIST_EXTENSIONS, reason_to_skip
from beit.data.shards import open_shards, shard_parts
from beit.data.sources import FileSource, ImageSource, account_for, account_of, class_counts
from beit.errors import ConfigError, DataError, no_images_at
from beit.terminal import quoted

Form = Literal["folder", "label file", "stored", "file", "nothing"]
"""What lies at a path; `stored` means images in shards or in a Hugging Face dataset."""
Splits = Mapping[str, ImageSource]

FOR_STORED = ("accept_missing_classes",)
"""Options of folders that also apply to stored images, whose splits may differ in classes."""
_NO_FOLDER: Mapping[Form, str] = {
    "label file": "label files have options of their own: --split-column, --validation-fold",
    "stored": "of shards and datasets, classes and splits are as they are stored",
    "file": "it is a single file",
}


class Part(NamedTuple):
    """One split of data, and what to call it."""

    name: str
    source: ImageSource


class _Opened:
    """The splits of data other than folders, open already; `Folders` describes the members."""

    folds = False

    def __init__(self, path: str, splits: Splits) -> None:
        self.path, self.splits = path, splits
        self.sizes = {name: len(source) for name, source in splits.items()}

    def source(self, names: Sequence[str]) -> ImageSource:
        return copy(self.splits[names[0]])  # so that its account can be replaced

    def part(self, name: str) -> ImageSource:
        return self.source([name])

    def place(self, name: str) -> str:
        return name

    def labelled(self, training: Sequence[str]) -> Splits:
        parts = {TRAIN: self.source(training)}
        # A split for testing may lack labels and is then not measured.
        parts |= {name: self.part(name) for name in ("val", "test") if name in self.splits
                  and not (name == "test" and self.splits[name].targets is None)}  # fmt: skip
        for source in parts.values():
            if source.targets is None:
                skipped = [
                    f"{one.count:,} {one.kind} ({one.reason})" for one in source.account.skipped
                ]
                facts = [*source.account.notes, *(f"it holds besides {one}" for one in skipped[:3])]
                raise DataError(
                    "; ".join([f"{self.path} has no label for every image", *facts]),
                    remedy="label all: shards with .cls or .json beside each image (their folders "
                    "are no classes), datasets in a column called label",
                )
        return parts


class Dataset:
    """Data at one path, listed or read only once, however often its splits are requested. It is:

    - A folder of images: see `beit.data.layout`.
    - A label file: see `beit.data.label_file`.
    - Tar shards in the layout of WebDataset: `shards/{000..127}.tar`, `shards/*.tar`, a folder of
      them, a folder that `beit data pack` wrote; also behind an address such as s3://... or https://...
    - Hugging Face datasets: `hf:NAME`, a folder that `save_to_disk` wrote, Parquet files.
    - One image.

    Raises:
        ConfigError: If options of reading do not fit the form. A path where nothing exists is
            accepted here; whatever is then requested of it is refused.
    """

    def __init__(self, path: str, reading: Reading = AS_RECOGNISED) -> None:
        self.path, self.reading = path, reading
        self.form, self._open_stored = _recognised(path)
        self._check_options()

    def training(self) -> ImageSource:
        """The images for training without labels: the training split, or all of undivided data.

        Such a training may still score itself by classes: folders are taken for classes where they
        are unambiguous. Labels of a label file that cannot be used are skipped, and `account` says
        why.

        Raises:
            DataError: If nothing exists at the path, no image is found, or the layout is ambiguous.
        """
        names = self._training(self._divided)
        return self._only(names, self._divided.source(names))

    def parts(self) -> dict[str, ImageSource]:
        """Every split, by the folder it lies in; undivided data are the split `WHOLE`. Image names
        are relative to that folder. Raises DataError as `training` does."""
        found = self._divided
        return {found.place(name): found.part(name) for name, size in found.sizes.items() if size}

    def splits(self) -> dict[str, ImageSource]:
        """Every split, by its name. Raises DataError as `training` does."""
        found = self._divided
        return {name: found.part(name) for name, size in found.sizes.items() if size}

    def part(self, split: str, *, labelled: bool = False) -> Part:
        """One split, or all images of undivided data.

        Args:
            split: Its name; `val`, `valid`, `validation` and `dev` mean the same, as do `test` and
                `testing`.
            labelled: Whether the images must have labels.

        Raises:
            DataError: If there are splits, but not this one, or if labels are required and those of
                a label file cannot be used.
        """
        if labelled and self.form == "label file" and self._label_file.problem:
            raise self._label_file.problem
        sizes = self._divided.sizes
        name = WHOLE if set(sizes) == {WHOLE} else split_name(split)
        if name not in sizes:
            raise DataError(
                f"{self.path} has the splits {quoted(list(sizes))}, but none called {split}",
                remedy=f"choose one of them, as with --split {list(sizes)[-1]}, or give the folder "
                "itself",
            )
        own = [one for one in _folders_in(self.path) if split_name(one.name) == name]
        if self.form == "stored" and own and shard_parts(str(own[0])):
            # Opened by its own path, so that it is named as if it had been given itself.
            return Part(str(own[0]), open_source(str(own[0])))
        called = f"{self.path} ({name})" if name else self.path
        if name and self.form == "folder":
            called = str(Path(self.path, self._divided.place(name)))
        return Part(called, self._only([name], self._divided.part(name)))

    def labelled(self, *, multi_label: bool = False) -> dict[str, ImageSource]:
        """Training and, where there are images for them, validation and test, each with the classes
        that it has itself.

        Args:
            multi_label: Whether an image that a list names several times has all these labels.

        Raises:
            DataError: If the images have no usable labels.
        """
        if self.form == "file" and self._divided:
            raise DataError(
                f"{self.path} is neither a folder nor a list file", remedy=f"use {LAYOUTS}"
            )
        if self.form == "label file":
            listed = self._read_label_file(multi_label=True) if multi_label else self._label_file
            if listed.problem is not None:
                raise listed.problem
            found: Folders | _Opened = _Opened(self.path, listed.splits)
        else:
            found = self._divided
        labelled = found.labelled(self._training(found))
        if self.form == "label file" or self.reading.folders.label_pattern:
            _check_learnable(self.path, labelled[TRAIN])
        return {**labelled}

    def _training(self, found: Folders | _Opened) -> tuple[str, ...]:
        """The names of the splits to train on. Raises DataError if there is none."""
        if found.folds:
            return tuple(name for name in found.sizes if name != self.reading.folders.fold)
        for name in (WHOLE, TRAIN):
            if name in found.sizes:
                return (name,)
        raise DataError(
            f"{self.path} has no split for training, only {quoted(list(found.sizes))}",
            remedy="call one of them train",
        )

    def _only(self, names: Sequence[str], source: ImageSource) -> ImageSource:
        """The source, with a note in its account on the splits that are not read."""
        others = {name: n for name, n in self._divided.sizes.items() if name not in names}
        if others:
            skipped = ", ".join(f"{name} ({count:,})" for name, count in others.items())
            read = ", ".join(f"'{name}'" for name in names)
            note = f"only {read} is read: no image of {skipped}"
            source.account = replace(source.account, notes=(*source.account.notes, note))
        return source

    @cached_property
    def _divided(self) -> Folders | _Opened:
        if self.form == "folder":
            return Folders(self.path, self.reading.folders)
        if self.form == "label file":
            return _Opened(self.path, self._label_file.splits)
        if self._open_stored is None:
            return _Opened(self.path, {WHOLE: _single_image(self.path)})
        found = self._open_stored()
        named: dict[str, ImageSource] = {}
        for name, source in found.items():
            split = split_of(name)  # names other than those of train, val and test stay
            if split in named:
                alike = [one for one in found if split_of(one) == split]
                raise DataError(
                    f"{self.path} has several splits for {split}: {quoted(alike, 8)}",
                    remedy="keep one of them",
                )
            named[split] = source
            source.account = account_of(self.path, {split: source})
        return _Opened(self.path, named)

    @cached_property
    def _label_file(self) -> LabelFile:
        return self._read_label_file()

    def _read_label_file(self, *, multi_label: bool = False) -> LabelFile:
        return read_label_file(self.path, self.reading.label_file, multi_label=multi_label)

    def _check_options(self) -> None:
        label_file, folders = self.reading.label_file.given, self.reading.folders.given
        if self.form == "nothing":
            return
        if label_file and self.form != "label file":
            raise self._no_option(label_file[0], "label file", ", ".join(LIST_EXTENSIONS))
        applying = {"folder": folders, "stored": FOR_STORED}.get(self.form, ())
        for option in folders:
            if option not in applying:
                raise self._no_option(option, "folder of images", _NO_FOLDER[self.form])

    def _no_option(self, option: str, kind: str, example: str) -> ConfigError:
        return ConfigError(
            f"{option} was given, and {self.path} is not a {kind}",
            remedy=f"leave --{option.replace('_', '-')} out, or name a {kind} ({example})",
        )


def open_source(path: str, reading: Reading = AS_RECOGNISED) -> ImageSource:
    """The images for training without labels, of data in any form: see `Dataset.training`."""
    return Dataset(path, reading).training()


def split_of(place: str) -> str:
    """The split that the path of a folder stands for: that of the last name in it that means a
    split, or else of the last such word in its names (`pets_train`); without any, the last name."""
    names = place.split("/")
    words = [word for name in names for word in re.split(r"[ _.-]", name)]
    roles = [role for role in map(split_called, [*words, *names]) if role]
    return roles[-1] if roles else names[-1]


def form_of(path: str) -> Form:
    """What lies at a path."""
    return _recognised(path)[0]


def reading_for(path: str, reading: Reading, other: str) -> Reading:
    """The options for one of two places that share them, without those that only the other takes.

    Args:
        path: The place that is read.
        reading: The options as given for both.
        other: The path of the other place; empty if there is none.
    """
    if not other or other == path:
        return reading
    here, there = form_of(path), form_of(other)
    folders, label_file = reading
    if there == "label file" != here:
        label_file = LabelFileConfig()
    if there == "folder" != here:
        folders = FolderConfig()
    return Reading(folders, label_file)


def _recognised(path: str) -> tuple[Form, Callable[[], Splits] | None]:
    """What lies at a path, and the function that opens it if its images are `stored`."""
    if is_hugging_face(path):
        return "stored", lambda: open_hugging_face(path)
    if (shards := shard_parts(path)) is not None:
        return "stored", lambda: {part: open_shards(each, part) for part, each in shards.items()}
    if is_label_file(path):
        return "label file", None
    place = Path(path)
    return "folder" if place.is_dir() else "file" if place.exists() else "nothing", None


def _folders_in(path: str) -> list[Path]:
    """The folders directly in a folder; empty if this is none, such as an address."""
    return [one for one in Path(path).iterdir() if one.is_dir()] if Path(path).is_dir() else []


def _single_image(path: str) -> ImageSource:
    if not Path(path).exists():
        raise no_images_at(path)
    reason = reason_to_skip(path)
    if reason:
        raise DataError(
            f"{path} is neither a folder nor a list file nor an image: {reason}",
            remedy=f"give a folder, a list ({', '.join(LIST_EXTENSIONS)}), shards (.tar), Parquet, "
            "or an image; export other tables as .csv or .jsonl",
        )
    source = FileSource(str(Path(path).parent), [Path(path).name])
    source.account = account_for(source, path, "an image")
    return source


def _check_learnable(path: str, train: ImageSource) -> None:
    """Raise DataError if no classes can be learned from the labels of a label file, or in names:
    some class has no training image, or none has two."""
    if train.targets is None or train.targets.ndim > 1:
        return
    counts = class_counts(train).tolist()
    absent = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    if absent:
        raise DataError(
            f"{path} has no training image of the classes {quoted(absent, 5)}",
            remedy="add some to the training split, or remove these classes from all splits",
        )
    if max(counts) == 1 and len(counts) > 2:
        raise DataError(
            f"each of the {len(train)} training images in {path} has a label of its own: "
            + quoted(list(train.classes)),
            remedy="a class needs several images: name the column of the classes with "
            "--label-column, or give another --label-pattern",
        )
