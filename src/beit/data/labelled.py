"""Divides labelled images into training, validation and test, by a hash of each image's key.

With one class per image, the same fraction of every class is held out. With several labels, an
image is held out for all of its labels at once; the labels are taken one after the other, the
rarest first (Sechidis et al. 2011, "On the stratification of multi-label data", in the order of a
hash instead of at random). One class per image is the case in which no image counts for two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from beit.config.data import Division, FolderConfig
from beit.data.copies import merge_copies
from beit.data.dataset import Dataset
from beit.data.folders import LAYOUTS
from beit.data.name_patterns import Groups, in_both
from beit.data.sources import (
    FileSource,
    ImageSource,
    account_of,
    class_counts,
    images_per_class,
    is_multi_label,
    keys_of,
    select,
)
from beit.errors import ConfigError, DataError
from beit.rng import drawn_order
from beit.terminal import counted, first_few, quoted


class LabelledSplits(NamedTuple):
    """The same classes with the same ids in every part."""

    train: ImageSource
    validation: ImageSource
    test: ImageSource | None


def divide(
    data: Dataset, division: Division, *, multi_label: bool = False, use: str = ""
) -> LabelledSplits:
    """Divide data into training, validation and test.

    Args:
        data: Class folders, also in splits or folds, a label file, tar shards or a Hugging Face
            dataset.
        division: What is held out if there is no validation split, and how many images are trained
            on. A test split is never trained on.
        multi_label: Whether the same file under several classes, as a link or as a copy, or an
            image that a list names several times, is one image with several labels.
        use: What requires one class per image, for the message that refuses several labels; empty
            if they are accepted.

    Returns:
        The splits, all with the same account, which is that of all of them.

    Raises:
        DataError: If the path, images or labels are missing, or if classes are empty, differ
            between the splits, have too few images, or are ambiguous.
        ConfigError: If the fraction or the number per class is out of range, or options do not fit
            the data.
    """
    path, found = data.path, data.labelled(multi_label=multi_label)
    split, seed, per_class, fold, groups = division
    if multi_label:
        found = _with_several_labels(path, found)
    accounts = [source.account for source in found.values()]
    train, decided = found["train"], list[str]()
    if len(train.classes) < 2 and not is_multi_label(train):
        raise DataError(
            f"{path} has only one class, {quoted(list(train.classes))}",
            remedy=f"a classifier needs at least two; use {LAYOUTS}",
        )
    if is_multi_label(train) and train.targets is not None and train.targets.all():
        raise DataError(
            f"every training image of {path} has all labels: {quoted(list(train.classes), 8)}",
            remedy="add images that lack some; lists of 0 and 1 are read as the numbers of labels, "
            "so write their names",
        )
    for name in ("val", "test"):
        if name in found:
            found[name], notes = _with_classes_of(
                path, train, found[name], name, data.reading.folders
            )
            decided += notes
    grouped = Groups.of_source(train, groups) if groups else None
    divided = "val" not in found
    if fold is not None:
        if not divided:
            raise ConfigError(
                f"folds were requested, and {path} has a part for validation",
                remedy="leave --folds out, or take the folder of the images to divide",
            )
        held = fold_numbers(train, fold.of, seed, grouped) == fold.number
        train, found["val"] = _parted(train, held)
        decided.append(f"fold {fold.number + 1} of {fold.of} is held out for validation")
    elif divided:
        train, found["val"] = hold_out(train, split, seed, grouped)
        percent = f"{100 * split:g} % of each class"
        decided.append(f"{percent} is held out for validation (--split {split:g})")
    if grouped is not None and divided:
        decided[-1] += f", {grouped.words(keys_of(found['val']), groups)}"
    elif grouped is not None:
        decided.append(in_both(keys_of(train), keys_of(found["val"]), groups))
    found["train"] = train if per_class is None else select(train, few(train, per_class, seed))
    found = {name: found[name] for name in ("train", "val", "test") if name in found}
    account = account_of(path, found, accounts, decided)
    for source in found.values():
        source.account = account
    if use and is_multi_label(train):
        raise DataError(
            f"the images of {path} may have several labels each, and {use} takes one class for "
            "each image",
            remedy="several labels are learned by `beit finetune` and measured by `beit evaluate`",
        )
    return LabelledSplits(found["train"], found["val"], found.get("test"))


def _with_several_labels(path: str, found: dict[str, ImageSource]) -> dict[str, ImageSource]:
    """The same splits, with each image once and all of its labels.

    Raises ConfigError for stored images with one class each, as they are stored only once.
    """
    merged = {
        name: merge_copies(source) if isinstance(source, FileSource) else source
        for name, source in found.items()
    }
    if not is_multi_label(merged["train"]):
        raise ConfigError(
            f"multi_label was given, and every image of {path} has one class there",
            remedy="write a list of labels for each image, or leave --multi-label out: it is for "
            "class folders and lists that name an image several times",
        )
    return merged


def _with_classes_of(
    path: str, train: ImageSource, other: ImageSource, part: str, options: FolderConfig
) -> tuple[ImageSource, list[str]]:
    """The other split with the class ids of training, and notes on what was decided.

    Raises DataError if its classes differ and the options do not accept that, or it has none of
    those of training.
    """
    if train.classes == other.classes:
        return other, []
    lacks = [name for name in train.classes if name not in other.classes]
    extra = [name for name in other.classes if name not in train.classes]
    named = (("lacks", lacks), ("has besides", extra))
    differences = " and ".join(f"{word} {quoted(names, 5)}" for word, names in named if names)
    if differences and not options.accept_missing_classes:
        raise DataError(
            f"{path}: the classes of {part}/ differ from those of train/: it {differences}",
            remedy="use the same classes in every part, spelled alike; or go on without these "
            "with --accept-missing-classes",
        )
    known = {name: number for number, name in enumerate(train.classes)}
    ids = np.array([known.get(name, -1) for name in other.classes], np.int64)
    kept, targets = _known_labels(other, ids, len(train.classes))
    if not len(kept):
        raise DataError(
            f"{path}: {part}/ has none of the classes of train/", remedy="spell them alike"
        )
    notes = [f"{part} {differences} (--accept-missing-classes)"] if differences else []
    if len(kept) < len(other):
        notes.append(
            f"{counted(len(other) - len(kept), 'image')} of {part} skipped: of other classes"
        )
    return select(other, kept, targets=targets[kept], classes=train.classes), notes


def _known_labels(
    source: ImageSource, ids: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images that have a label with an id, or no label at all; and the labels of all images by
    these ids, int64 [n] or bool [n, classes]. `ids` has the new id of each class, or -1."""
    targets = source.targets
    assert targets is not None
    if targets.ndim == 1:
        return np.flatnonzero(ids[targets] >= 0), ids[targets]
    labels = np.zeros((len(targets), classes), np.bool_)
    labels[:, ids[ids >= 0]] = targets[:, ids >= 0]
    return np.flatnonzero(labels.any(axis=1) | ~targets.any(axis=1)), labels


def _parted(source: ImageSource, held: np.ndarray) -> tuple[ImageSource, ImageSource]:
    """Training and validation images; `held`, bool [n], is true for the latter."""
    return select(source, np.flatnonzero(~held)), select(source, np.flatnonzero(held))


def hold_out(
    source: ImageSource, split: float, seed: int, groups: Groups | None = None
) -> tuple[ImageSource, ImageSource]:
    """Divide images into training and validation.

    With several labels per image, somewhat more than the fraction of a class may be held out, as
    its images are also held out for other labels. Images without any label are divided like a
    class.

    Args:
        source: The labelled images.
        split: The fraction of each class that is held out; of a class with two images or more, at
            least one is on either side.
        seed: Decides which images are held out.
        groups: Groups of images, which are held out as a whole.

    Raises:
        ConfigError: If `split` is not between 0 and 1.
        DataError: If nothing is left for validation.
    """
    if not 0 < split < 1:
        raise ConfigError(
            f"split is {split}, and there is no val/ folder",
            remedy="use a fraction between 0 and 1, such as 0.2, or provide train/ and val/",
        )
    if groups is not None:
        return _parted(source, groups.hold_out(split, seed))
    targets, left = source.targets, class_counts(source)  # left for training
    assert targets is not None
    held = np.zeros(len(source), np.bool_)
    for members, labelled in _classes(source, seed, "split"):
        quota = min(max(round(len(members) * split), 1), len(members) - 1)
        missing = quota - int(held[members].sum())
        if targets.ndim == 1:
            held[members[: max(missing, 0)]] = True
            continue
        for index in members[~held[members]].tolist():
            if missing < 1:
                break
            # The last training image of a class is never held out for another of its labels.
            if not labelled or (left[targets[index]] > 1).all():
                held[index] = True
                left[targets[index]] -= 1
                missing -= 1
    if not held.any():
        raise DataError(
            "every class has a single image: none is left for validation",
            remedy="add images, or provide train/ and val/",
        )
    return _parted(source, held)


def fold_numbers(
    source: ImageSource, folds: int, seed: int, groups: Groups | None = None
) -> np.ndarray:
    """The fold that holds each image out, int64 [n].

    Folds have about the same number of images in all, and of every class.

    Args:
        source: The labelled images.
        folds: How many folds there are.
        seed: Decides which images are in which fold.
        groups: Groups of images; the images of a group are all in one fold.

    Raises:
        DataError: If there are fewer images than folds, or a class has a single image, of which one
            fold would learn nothing.
    """
    if groups is not None:
        return groups.folds(folds, seed)
    counts = dict(zip(source.classes, class_counts(source).tolist(), strict=True))
    single = [name for name, count in counts.items() if count < 2]
    if single or len(source) < folds:
        raise DataError(
            f"{len(source)} images cannot be divided into {folds} folds; classes with fewer than "
            f"2: {quoted(single, 5) or 'none'}",
            remedy="add images, merge classes, or use fewer folds",
        )
    numbers = np.full(len(source), -1, np.int64)
    sizes = np.zeros(folds, np.int64)
    for members, _ in _classes(source, seed, "fold"):
        known = numbers[members]  # of images that a rarer label has placed already
        have = np.bincount(known[known >= 0], minlength=folds)
        for index in members[known < 0].tolist():
            place = int(np.lexsort((sizes, have))[0])
            numbers[index] = place
            have[place] += 1
            sizes[place] += 1
    return numbers


def few(
    source: ImageSource, per_class: int, seed: int, *, option: str = "--per-class"
) -> np.ndarray:
    """The indices of exactly `per_class` images of each class, int64, in ascending order.

    With several labels per image, as few images as give each class that many: an image counts for
    each of its labels, so frequent classes may have more. Of images without any label, as many are
    added.

    Args:
        source: The labelled images.
        per_class: Images of each class, at least 1.
        seed: Decides which images are selected.
        option: The option that sets `per_class`, for messages.

    Raises:
        ConfigError: If `per_class` is below 1.
        DataError: If a class has fewer images.
    """
    if per_class < 1:
        raise ConfigError(f"per_class is {per_class}", remedy="use 1 or more, or leave it out")
    counts = images_per_class(source)
    short = [f"{quoted([name])} ({count})" for name, count in counts.items() if count < per_class]
    if short:
        raise DataError(
            f"classes with fewer than {per_class} images for training: {first_few(short, 5)}",
            remedy=f"add images, or use {option} {min(counts.values())} or less",
        )
    chosen = np.zeros(len(source), np.bool_)
    for members, _ in _classes(source, seed, "few"):
        missing = max(per_class - int(chosen[members].sum()), 0)
        chosen[members[~chosen[members]][:missing]] = True
    return np.flatnonzero(chosen)


def _classes(source: ImageSource, seed: int, purpose: str) -> Iterator[tuple[np.ndarray, bool]]:
    """The images of each class, the rarest class first, and last those without any label; with
    each group, whether it is of a class.

    Within a group the order is random but depends on each key alone, so that adding or removing an
    image leaves the others on their side of a split.
    """
    assert source.targets is not None
    order = drawn_order(map(source.key, range(len(source))), purpose, seed)
    targets = source.targets[order]
    several = targets.ndim == 2
    for target in np.argsort(class_counts(source), kind="stable"):
        yield order[targets[:, target] if several else targets == target], True
    if several and not targets.any(axis=1).all():
        yield order[~targets.any(axis=1)], False
