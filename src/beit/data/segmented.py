"""Images with masks: finds them in any layout, reads every mask once, checks and counts it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beit.config.data import Division
from beit.config.segment_run import IGNORE, MaskConfig
from beit.data.account import Account
from beit.data.class_names import spelled_alike
from beit.data.folder_names import split_called
from beit.data.labelled import few
from beit.data.layout import WHOLE
from beit.data.mask_classes import (
    CLASS_LISTS,
    LEGENDS,
    are_numbers,
    check_labels,
    check_same,
    check_two_classes,
    find_beside,
    label_counts,
    masks_per_class,
    numbered,
    read_classes,
    read_legend,
    unusual,
    without_unlabelled,
)
from beit.data.mask_files import written
from beit.data.mask_labels import BINARY_CLASSES, Legend, MaskReading, Values, decide
from beit.data.mask_layouts import find_masks
from beit.data.mask_pairs import Pairs, Search, inside_wrappers
from beit.data.name_patterns import Groups, in_both
from beit.data.segmented_source import SegmentedSource
from beit.data.sources import FileSource, select
from beit.errors import ConfigError, DataError, no_images_at
from beit.rng import derive_seed
from beit.terminal import counted, quoted

logger = logging.getLogger(__name__)

_SAYING = (".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml")


class SegmentedSplits(NamedTuple):
    """Images for training and for validation, with the same classes and ids in both."""

    train: SegmentedSource
    validation: SegmentedSource
    masks: MaskConfig
    """The config with everything decided that it left to the masks."""
    pixels: np.ndarray
    """How many pixels of each training mask have each class, int64 [n, C]; n is 0 if no mask was
    read."""

    @property
    def account(self) -> Account:
        """How the data were read, and what they hold."""
        return self.train.account


class SegmentationData:
    """Images with masks below a folder, in any layout: found once, then opened as often as needed.

    Args:
        path: The folder.
        config: The options for masks.
        extra_split: The name of a folder that is a split besides the usual ones; empty for none.

    Raises:
        DataError: Nothing is there, images or masks lack their partner, or the folder fits no
            layout, or two.
    """

    def __init__(self, path: str, config: MaskConfig, *, extra_split: str = "") -> None:
        if not Path(path).exists():
            raise no_images_at(path)
        if not Path(path).is_dir():
            raise DataError(
                f"{path} is a file, and images with masks are read from a folder",
                remedy="give the folder that holds both; COCO files are named with --annotations",
            )
        self.path, self.config = path if config.annotations else inside_wrappers(path), config
        self._search = Search(self.path, config, extra_split)
        self._found = find_masks(self._search)
        if self._found.ignored and not config.ignore_values:
            self.config = replace(self.config, ignore_values=self._found.ignored)
        if self.path != path:
            self._search.note(f"{self.path} is the only folder there: its contents are read")

    @property
    def undivided(self) -> FileSource | None:
        """All images, without masks, if the data have no splits; None if they do."""
        pairs = self._found.splits.get(WHOLE)
        return None if pairs is None else FileSource(self.path, [image for image, _ in pairs])

    def divide(self, division: Division, *, known: tuple[str, ...] = ()) -> SegmentedSplits:
        """The images for training and for validation. Every mask is read once, to be checked.

        Data without images for validation are divided: a fraction is held out, the same for the
        same seed, and images of one group together. With `division.per_class` only as few images
        are trained on as show each class that often (see `few`).

        Args:
            division: How the images are divided.
            known: The classes of an earlier opening, whose returned config must be given again.
                Then masks are read only if `per_class` needs them.

        Raises:
            DataError: A mask cannot be read or has another size than its image, labels exceed the
                class list, the classes are not the known ones, or two readings are plausible.
            ConfigError: An option does not suit the data, such as a fraction to hold out that is
                not between 0 and 1.
        """
        parts, held_out = self._divided(division)
        per_class, seed = division.per_class, division.seed
        names, legend = self._names_and_legend(known)
        if known and names and names != known:
            raise DataError(
                f"{self.path} has other classes than the run was trained on",
                remedy="bring back the class list of that time",
            )
        reading = MaskReading.configured(self.config, legend, known or names)
        if known:
            train, validation = (SegmentedSource(self.path, part, reading) for part in parts)
            none = np.zeros((0, len(known)), np.int64)
            pixels = none if per_class is None else label_counts(train.survey(), reading)
            train, pixels = self._few(train, pixels, per_class, seed)
            return SegmentedSplits(train, validation, self.config, pixels)
        named = dict(zip(("train", "val"), parts, strict=True))
        (train, validation), reading, counts = self._checked(
            named, reading, training=True, note=held_out
        )
        train, pixels = self._few(train, counts["train"], per_class, seed)
        if per_class is not None:
            whole, classes = train.account, train.classes
            shown = masks_per_class(classes, pixels)
            train.account = validation.account = replace(
                whole,
                images={**whole.images, "train": len(train)},
                classes={**whole.classes, "train": shown},
            )
        colours = reading.legend or self._found.drawn
        resolved = replace(
            self.config,
            layout=self._found.layout,
            several_masks=self._found.several,
            mask_values="auto" if colours else reading.values,
            ignore_values=self.config.ignore_values or tuple(map(written, reading.ignored)),
        )
        return SegmentedSplits(train, validation, resolved, pixels)

    def _few(
        self, source: SegmentedSource, counts: np.ndarray, per_class: int | None, seed: int
    ) -> tuple[SegmentedSource, np.ndarray]:
        """The training images and their pixels of each class, given those of each label [n, 256].

        Raises DataError if fewer images than `per_class` show a class.
        """
        pixels = counts[:, : len(source.classes)]
        if per_class is None:
            return source, pixels
        shown = np.flatnonzero(pixels.any(axis=0))
        classes = tuple(source.classes[label] for label in shown)
        every = select(source, range(len(source)), targets=pixels[:, shown] > 0, classes=classes)
        kept = few(every, per_class, seed)
        return source.only(kept), pixels[kept]

    def part(
        self, name: str, *, classes: tuple[str, ...], only: Collection[str] | None = None
    ) -> SegmentedSource:
        """One split for a model with these classes. Every mask is read once, to be checked.

        Args:
            name: The split; data without splits are used as a whole.
            classes: The classes of the model. Their names must be those of the data, in this order;
                where one side has numbers in place of names, only their count must agree.
            only: The names of the images to use; by default all.

        Raises:
            DataError: As `divide`; or the split is not there, or the classes differ, of which the
                message names the first.
        """
        splits = self._found.splits
        pairs = splits.get(WHOLE, splits.get(name, splits.get(split_called(name) or name)))
        if pairs is None:
            raise DataError(
                f"{self.path} has the splits {quoted(list(splits))}, and none called {name}"
                + "".join(f"; {note}" for note in self._search.notes if f"{name}/" in note),
                remedy=f"choose one of them, as with --split {list(splits)[-1]}",
            )
        names, legend = self._names_and_legend(() if are_numbers(classes) else classes)
        check_same(self.path, names, classes)
        if only is not None:
            pairs = [pair for pair in pairs if pair[0] in only]
        reading = MaskReading.configured(self.config, legend, classes)
        (source,), _, _ = self._checked({name: pairs}, reading, training=False)
        return source

    def splits(self) -> dict[str, SegmentedSource]:
        """Every split as it is there. Every mask is read once, to be checked.

        Raises:
            DataError: As `divide`, except for what only training needs.
        """
        names, legend = self._names_and_legend(())
        reading = MaskReading.configured(self.config, legend, names)
        sources, _, _ = self._checked(self._found.splits, reading, training=False)
        return dict(zip(self._found.splits, sources, strict=True))

    def _divided(self, division: Division) -> tuple[tuple[Pairs, Pairs], str]:
        """The pairs for training and for validation, and a note on how they were divided."""
        splits, split, groups = self._found.splits, division.split, division.groups
        if {"train", "val"} <= splits.keys():
            train, validation = splits["train"], splits["val"]
            shared = in_both(_names(train), _names(validation), groups) if groups else ""
            return (train, validation), shared
        pairs = splits.get("train", splits.get(WHOLE))
        if pairs is None:
            raise DataError(
                f"of train/ and val/ there is only {' and '.join(splits)}/",
                remedy="provide train/ and val/, train/ alone, or neither",
            )
        if not 0 < split < 1 or len(pairs) < 2:
            raise ConfigError(
                f"split is {split} of {counted(len(pairs), 'image')}, and there is no val/ folder",
                remedy="use a fraction between 0 and 1, such as 0.2, or provide train/ and val/",
            )
        names, among = _names(pairs), ""
        if groups:
            grouped = Groups.of_names(names, groups)
            held = {names[at] for at in np.flatnonzero(grouped.hold_out(split, division.seed))}
            among = f", {grouped.words([*held], groups)}"
        else:
            ranked = sorted(names, key=lambda name: derive_seed("split", division.seed, name))
            held = {*ranked[: min(max(round(len(pairs) * split), 1), len(pairs) - 1)]}
        parts: tuple[Pairs, Pairs] = ([], [])
        for pair in pairs:
            parts[pair[0] in held].append(pair)
        return parts, (
            f"{len(held)} of {counted(len(pairs), 'image')} {'is' if len(held) == 1 else 'are'} "
            f"held out for validation (--split {split:g}){among}"
        )

    def _names_and_legend(self, known: tuple[str, ...]) -> tuple[tuple[str, ...], Legend | None]:
        """The classes, empty if only the masks can tell, and what the colours of masks mean.

        A legend does not determine the order of its classes, so `known` classes keep theirs.
        """
        path, config, found = self.path, self.config, self._found
        names, legend = found.classes, None
        if found.drawn:
            self._refuse_options_of_files()
        else:
            listed = find_beside(config.class_names, path, CLASS_LISTS, "--class-names")
            names = read_classes(listed) if listed else names
            place = find_beside(config.legend, path, LEGENDS, "--legend")
            legend = self._read_legend(place, named=bool(listed)) if place else None
            self._note_unread_files({listed, place, *self._search.read})
        in_legend = tuple(dict.fromkeys(name for name in (legend or {}).values() if name))
        if legend and not names:
            names = known or in_legend
        if config.mask_values != "auto":
            legend = None  # values are labels, and the legend only names them
        if legend and config.ignore_values:
            raise DataError(
                f"the masks are read by the colours of {place}, and ignore_values names values",
                remedy="let legend.json give ignored colours the class null, or add --mask-values "
                "labels",
            )
        foreign = sorted({*in_legend} - {*names}) if legend else []
        if foreign:
            raise DataError(
                f"the legend {place} has classes that the class list lacks: {quoted(foreign)}",
                remedy="spell them alike in both files",
            )
        if config.mask_values == "binary":
            if len(names) > len(BINARY_CLASSES):
                logger.info("%d classes are named in %s: binary masks have two", len(names), path)
                names = BINARY_CLASSES
            elif len(names) == 1:
                names = (BINARY_CLASSES[0], *names)
        for note in spelled_alike(names):
            self._search.note(note)
        if len(names) > IGNORE or len(set(names)) != len(names):
            raise DataError(
                f"{path} has {len(names)} class names, {len(set(names))} of them different",
                remedy=f"use up to {IGNORE} names, each of them once",
            )
        return names, legend

    def _read_legend(self, place: Path, *, named: bool) -> Legend:
        """Read the legend, and note in the account that it is used and what it ignores."""
        legend, ignored = read_legend(place), list[str]()
        if self.config.mask_values != "auto":
            if not named:
                self._search.note(f"labels are named in the order of {place.name}")
            return legend
        if place.suffix.lower() == ".csv":  # such a table has no other way to mark them
            legend, ignored = without_unlabelled(legend)
        also = f"; {quoted(ignored)} ignored" if ignored else ""
        self._search.note(f"masks are read by the colours of {place.name}{also}")
        return legend

    def _note_unread_files(self, read: Collection[Path | None]) -> None:
        """Note files beside the folders that may be meant for the data: names, colours, splits."""
        files = (one for one in Path(self.path).iterdir() if one.suffix.lower() in _SAYING)
        names = sorted(one.name for one in files if one.is_file() and one not in read)
        if names:
            self._search.note(f"files beside the folders that are not read: {quoted(names)}")

    def _refuse_options_of_files(self) -> None:
        config, layout = self.config, self._found.layout
        names = ["legend", "ignore_values", "reduce_zero_label", "mask_suffix", "image_suffix"]
        names += ["class_names"] if layout == "coco" else []
        these = f"these are shapes ({layout})"
        if self._found.several == "classes":
            names, these = names[:3], "each of these shows one class, whatever its values"
        given = [name for name in names if getattr(config, name)]
        given += ["mask_values"] if config.mask_values == "binary" else []
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(
                f"{options} is for masks in image files, and {these}",
                remedy="leave it out",
            )

    def _checked(
        self, parts: Mapping[str, Pairs], reading: MaskReading, *, training: bool, note: str = ""
    ) -> tuple[list[SegmentedSource], MaskReading, Mapping[str, np.ndarray]]:
        """The sources of some splits; how masks are read, decided over all of these splits; and the
        pixels of each label in each mask of a split, int64 [n, 256]."""
        empty = [name or "data" for name, part in parts.items() if not part]
        if empty:
            raise DataError(
                f"no image of {empty[0]} in {self.path} has a mask",
                remedy="give images masks of the same names, or say that they are all background "
                "(--unmasked background)",
            )
        surveyed = [SegmentedSource(self.path, part, reading).survey() for part in parts.values()]
        values = Values([mask for masks in surveyed for mask in masks])
        reading, remarks = decide(values, reading, self.config, self.path)
        counts = dict(zip(parts, (label_counts(each, reading) for each in surveyed), strict=True))
        if not reading.classes:
            reading = replace(reading, classes=numbered(reading, counts))
        classes = reading.classes
        for masks, each in zip(surveyed, counts.values(), strict=True):
            check_labels(masks, each, len(classes))
        if training:
            check_two_classes(self.path, reading, counts["train"])
        splits = self._found.splits.items() if training else ()
        unused = {name: len(part) for name, part in splits if name not in (*counts, WHOLE)}
        words = {"train": "training", "val": "validation"} if training else {}
        notes = [*self._search.notes, *filter(None, [note])]
        notes += [f"{split}: not used here" for split in unused]
        notes += remarks
        for split, each in counts.items():
            notes += unusual(words.get(split, split), each, classes)
        account = Account(
            data=self.path,
            layout=self._found.description,
            images={split: len(part) for split, part in parts.items()} | unused,
            classes={split: masks_per_class(classes, each) for split, each in counts.items()},
            skipped=self._search.skipped.found(),
            notes=tuple(notes),
        )
        sources = [SegmentedSource(self.path, part, reading) for part in parts.values()]
        for source in sources:
            source.account = account
        return sources, reading, counts


def _names(pairs: Pairs) -> list[str]:
    return [image for image, _ in pairs]
