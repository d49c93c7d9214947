"""Images with masks: opened in any layout, every mask read once, checked, and accounted for."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from beit.config.segment_run import MaskConfig
from beit.data.account import Account
from beit.data.images import cores
from beit.data.label_maps import IGNORE
from beit.data.layout import WHOLE, split_called
from beit.data.legends import (
    CLASS_LISTS,
    LEGENDS,
    Legend,
    find_beside,
    read_classes,
    read_legend,
)
from beit.data.listing import quoted
from beit.data.mask_files import written
from beit.data.mask_labels import (
    BINARY_CLASSES,
    MaskReading,
    Surveyed,
    Values,
    decide,
    given_values,
    label_counts,
    labels_shown,
    rarely_meant,
)
from beit.data.mask_layouts import FoundMasks, find_masks
from beit.data.mask_pairs import Notes, Pairs
from beit.data.segmented_source import SegmentedSource
from beit.data.sources import FileSource, must_exist
from beit.errors import ConfigError, DataError
from beit.printable import printable
from beit.rng import derive_seed

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"(class )?\d+")


class SegmentedSplits(NamedTuple):
    """The same classes with the same ids in both splits."""

    train: SegmentedSource
    validation: SegmentedSource
    masks: MaskConfig
    """The config with all that it left to the masks decided."""

    @property
    def account(self) -> Account:
        """What was understood of the data."""
        return self.train.account


class _Meaning(NamedTuple):
    """What is known of the masks before they are read."""

    names: tuple[str, ...]
    """The classes; none if only the masks can tell."""
    legend: Legend | None


def _meaning(path: str, config: MaskConfig, found: FoundMasks, known: tuple[str, ...]) -> _Meaning:
    """What files beside the masks say of them.

    A legend says nothing of the order of its classes: that is the one of `known`, if there are any.
    """
    shapes = found.layout in ("coco", "labelme")
    if shapes:
        _refuse_options_of_files(config, found.layout)
    listed = find_beside(config.class_names, path, CLASS_LISTS, "--class-names")
    names = found.classes if shapes or not listed else read_classes(listed)
    place = None if shapes else find_beside(config.legend, path, LEGENDS, "--legend")
    legend = read_legend(place) if place else None
    if legend and not names:
        names = known or tuple(dict.fromkeys(name for name in legend.values() if name))
    if legend and config.mask_values != "auto":
        legend = None  # which only names the labels then
    if legend and config.ignore_values:
        raise DataError(
            f"the masks are read by the colours of {place}, and ignore_values names values",
            remedy="let legend.json give ignored colours the class null, or add --mask-values "
            "labels",
        )
    foreign = sorted({name for name in (legend or {}).values() if name} - {*names})
    if foreign:
        raise DataError(
            f"the legend {place} has classes that the class list lacks: {quoted(foreign)}",
            remedy="spell them alike in both files",
        )
    if len(names) == 1 and config.mask_values == "binary":
        names = (BINARY_CLASSES[0], *names)
    if len(names) > IGNORE or len(set(names)) != len(names):
        raise DataError(
            f"{path} has {len(names)} class names, {len(set(names))} of them different",
            remedy=f"use up to {IGNORE} names, each of them once",
        )
    return _Meaning(names, legend)


def _refuse_options_of_files(config: MaskConfig, layout: str) -> None:
    given = [
        option
        for option, value in (
            ("--legend", config.legend),
            ("--mask-values", config.mask_values == "binary"),
            ("--ignore-values", config.ignore_values),
            ("--reduce-zero-label", config.reduce_zero_label),
            ("--mask-suffix", config.mask_suffix),
            ("--image-suffix", config.image_suffix),
            ("--class-names", config.class_names if layout == "coco" else ""),
        )
        if value
    ]
    if given:
        raise ConfigError(
            f"{', '.join(given)} is for masks in image files, and these are shapes ({layout})",
            remedy="leave it out",
        )


def _survey(source: SegmentedSource) -> list[Surveyed]:
    """What every mask holds, each read once."""
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(source.survey, range(len(source))))


def _counted(source: SegmentedSource, surveyed: list[Surveyed], reading: MaskReading) -> np.ndarray:
    """How many pixels of each mask have each label, int64 [n,256]."""
    plain = MaskReading()
    return np.stack(
        [
            label_counts(one.counts, plain if drawn else reading)
            for one, drawn in zip(surveyed, source.drawn, strict=True)
        ]
    )


def _files(source: SegmentedSource, surveyed: list[Surveyed]) -> list[Surveyed]:
    """Those of masks in files, whose values are still to be understood."""
    return [one for one, drawn in zip(surveyed, source.drawn, strict=True) if not drawn]


def _check_labels(source: SegmentedSource, counts: np.ndarray, classes: int) -> None:
    """DataError, naming file and label, for labels beyond the class list."""
    beyond = np.argwhere(counts[:, classes:IGNORE])
    if len(beyond):
        index, label = int(beyond[0, 0]), int(beyond[0, 1]) + classes
        raise DataError(
            f"the mask {source.mask(index)} holds label {label} on {counts[index, label]} pixels, "
            f"and the {classes} classes end with {classes - 1}",
            remedy="complete the class list, ignore these pixels "
            f"(--ignore-values {label}), or use --reduce-zero-label where classes are counted "
            "from 1",
        )


def _divided(found: FoundMasks, split: float, seed: int, notes: Notes) -> tuple[Pairs, Pairs]:
    """The pairs of training and of validation, for which a fraction may have to be held out."""
    splits = found.splits
    if "train" in splits and "val" in splits:
        return splits["train"], splits["val"]
    if "train" not in splits and WHOLE not in splits:
        raise DataError(
            f"of train/ and val/ there is only {' and '.join(splits)}/",
            remedy="provide train/ and val/, train/ alone, or neither",
        )
    pairs = splits.get("train", splits.get(WHOLE, []))
    if not 0 < split < 1 or len(pairs) < 2:
        raise ConfigError(
            f"split is {split} of {len(pairs)} images, and there is no val/ folder",
            remedy="use a fraction between 0 and 1, such as 0.2, or provide train/ and val/",
        )
    ranked = sorted(pairs, key=lambda pair: derive_seed("split", seed, pair[0]))
    chosen = ranked[: min(max(round(len(pairs) * split), 1), len(pairs) - 1)]
    held = {image for image, _ in chosen}
    verb = "is" if len(held) == 1 else "are"
    notes.add(
        f"{len(held)} of {len(pairs)} images {verb} held out for validation (--split {split:g})"
    )
    return [pair for pair in pairs if pair[0] not in held], [
        pair for pair in pairs if pair[0] in held
    ]


def open_segmented(
    path: str, config: MaskConfig, *, split: float, seed: int, known: tuple[str, ...] = ()
) -> SegmentedSplits:
    """Images with masks in one of the layouts; every mask is read once, to be checked.

    Without images for validation a fraction `split` is held out, the same for the same seed. With
    `known`, the classes of an earlier opening, no mask is read, and the config must be the one
    that was returned then.
    Errors: DataError for an image without a mask or the reverse, a mask of another size or that
    cannot be read, labels beyond the class list, other classes than the known ones, and wherever
    two readings are plausible.
    """
    must_exist(path)
    notes = Notes()
    found = find_masks(path, config, notes)
    pairs = _divided(found, split, seed, notes)
    names, legend = _meaning(path, config, found, known)
    if known:
        if names and names != known:
            raise DataError(
                f"{path} has other classes than the run was trained on",
                remedy="bring back the class list of that time",
            )
        reading = _as_configured(config, legend, known)
        sources = [SegmentedSource(path, part, reading, known) for part in pairs]
        return SegmentedSplits(sources[0], sources[1], config)
    plain = MaskReading(legend=legend, classes=names)
    sources = [SegmentedSource(path, part, plain, names) for part in pairs]
    surveyed = [_survey(source) for source in sources]
    masks = [one for source, part in zip(sources, surveyed, strict=True)
             for one in _files(source, part)]  # fmt: skip
    reading, remarks = decide(Values(masks), config, names, legend, path)
    counts = [_counted(*part, reading) for part in zip(sources, surveyed, strict=True)]
    names = names or _numbered(reading, counts)
    sources = [SegmentedSource(path, part, reading, names) for part in pairs]
    for source, part in zip(sources, counts, strict=True):
        _check_labels(source, part, len(names))
    _check_two_classes(path, names, reading, counts[0])
    for split_name, part in zip(("training", "validation"), counts, strict=True):
        remarks = (*remarks, *rarely_meant(split_name, part, names))
    account = _account(
        path, found, notes, remarks, dict(zip(("train", "val"), counts, strict=True)), names
    )
    for source in sources:
        source.account = account
    return SegmentedSplits(sources[0], sources[1], _resolved(config, found, reading, legend))


def _check_two_classes(
    path: str, names: tuple[str, ...], reading: MaskReading, counts: np.ndarray
) -> None:
    """DataError where there is nothing to tell apart, by the pixels int64 [n,256] of training."""
    shown = [name for name, pixels in zip(names, counts.sum(axis=0), strict=False) if pixels]
    if len(names) < 2:
        raise DataError(
            f"{path} has a single class, {quoted(list(names))}",
            remedy="segmenting takes two: a background and an object, for example",
        )
    marked = _are_numbers(names) and counts[:, IGNORE].any()
    if len(shown) == 1 and (reading.ignored or marked):
        raise DataError(
            f"all pixels of {path} to learn from that are not ignored are of one class, "
            f"{quoted(shown)}",
            remedy="if the ignored values are the background, write it into the masks as label 0",
        )


def _numbered(reading: MaskReading, counts: list[np.ndarray]) -> tuple[str, ...]:
    """Classes for want of names."""
    if reading.values == "binary":
        return BINARY_CLASSES
    largest = max(np.flatnonzero(part.sum(axis=0)[:IGNORE]).max(initial=0) for part in counts)
    return tuple(str(label) for label in range(largest + 1))


def _as_configured(
    config: MaskConfig, legend: Legend | None, classes: tuple[str, ...]
) -> MaskReading:
    """The reading that a config says, if masks are not to be looked at."""
    return MaskReading(
        values="binary" if config.mask_values == "binary" else "labels",
        ignored=given_values(config),
        reduce_zero_label=config.reduce_zero_label or config.layout == "ade20k",
        legend=legend,
        classes=classes,
    )


def _resolved(
    config: MaskConfig, found: FoundMasks, reading: MaskReading, legend: Legend | None
) -> MaskConfig:
    """The config with what was decided by the masks."""
    drawn = found.layout in ("coco", "labelme")
    return replace(
        config,
        layout=found.layout,
        mask_values="auto" if legend or drawn else reading.values,
        ignore_values=config.ignore_values or tuple(map(written, reading.ignored)),
    )


def _account(
    path: str,
    found: FoundMasks,
    notes: Notes,
    remarks: tuple[str, ...],
    counts: dict[str, np.ndarray],
    classes: tuple[str, ...],
) -> Account:
    images = {split: len(part) for split, part in counts.items()}
    unused = {split: len(part) for split, part in found.splits.items()
              if split not in (*counts, WHOLE)}  # fmt: skip
    for split in unused:
        notes.add(f"{split}: not used here")
    numbers = _are_numbers(classes)
    shown = {split: dict(labels_shown(classes, part, numbers=numbers))
             for split, part in counts.items()}  # fmt: skip
    return Account(
        data=path,
        layout=found.description,
        images=images | unused,
        classes=shown,
        skipped=notes.skipped.found(),
        notes=(*notes.remarks, *remarks),
    )


def undivided_images(path: str, config: MaskConfig) -> FileSource | None:
    """All images with masks of data without splits; None if there are splits."""
    must_exist(path)
    pairs = find_masks(path, config, Notes()).splits.get(WHOLE)
    return None if pairs is None else FileSource(path, [image for image, _ in pairs])


def open_segmented_part(
    path: str,
    config: MaskConfig,
    *,
    part: str,
    classes: tuple[str, ...],
    only: Collection[str] | None = None,
) -> SegmentedSource:
    """One split of images with masks, for a model with these classes; every mask is read once, to
    be checked.

    Where there are no splits it is all images. With `only`, those of these names.
    Names are compared where both sides have them: a model or data with numbers for names only has
    to have as many classes.
    Errors: as `open_segmented`; DataError for other classes, naming the first that differs, and
    for a split that is not there.
    """
    must_exist(path)
    notes, usual = Notes(), split_called(part)
    found = find_masks(path, config, notes, extra="" if usual else part)
    pairs = found.splits.get(WHOLE, found.splits.get(usual or part))
    if pairs is None:
        raise DataError(
            f"{path} has the splits {quoted(list(found.splits))}, and none called {part}"
            + "".join(f"; {remark}" for remark in notes.remarks if f"{part}/" in remark),
            remedy=f"choose one of them, as with --split {list(found.splits)[-1]}",
        )
    names, legend = _meaning(path, config, found, () if _are_numbers(classes) else classes)
    _check_same(path, names, classes)
    source = SegmentedSource(path, pairs, MaskReading(legend=legend, classes=classes), classes)
    if only is not None:
        pairs = [pair for index, pair in enumerate(pairs) if source.key(index) in only]
        source = SegmentedSource(path, pairs, MaskReading(legend=legend, classes=classes), classes)
    surveyed = _survey(source)
    values = Values(_files(source, surveyed))
    reading, remarks = decide(values, config, classes, legend, path)
    counts = _counted(source, surveyed, reading)
    source = SegmentedSource(path, pairs, reading, classes)
    _check_labels(source, counts, len(classes))
    remarks = (*remarks, *rarely_meant(part, counts, classes))
    chosen = found._replace(splits={part: pairs})
    source.account = _account(path, chosen, notes, remarks, {part: counts}, classes)
    return source


def _are_numbers(names: tuple[str, ...]) -> bool:
    """Whether classes were given numbers for want of names."""
    return all(NUMBER.fullmatch(name) for name in names)


def _check_same(path: str, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """DataError for classes of the data that are not those of the model, in its order."""
    if not names:
        return  # the masks hold the model's labels, or `_check_labels` says so
    remedy = "measure on data with the model's classes, or give their list with --class-names"
    if len(names) != len(classes):
        raise DataError(f"{path} has {len(names)} classes, the model {len(classes)}", remedy=remedy)
    if _are_numbers(names) or _are_numbers(classes):
        return
    for label, (name, own) in enumerate(zip(names, classes, strict=True)):
        if name.strip() != own.strip():  # a published list has "bed "
            raise DataError(
                f"label {label} is '{printable(name)}' in {path}, and '{printable(own)}' in the "
                "model",
                remedy=remedy,
            )
