"""Which answers are right for each image of a data set, in the classes of the model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from beit.data.class_names import are_unnamed, as_numbers, wordnet_ids
from beit.data.listing import natural_key
from beit.data.sources import ImageSource, class_names_at, keys_of
from beit.errors import DataError, nearest
from beit.json_object import read_json
from beit.terminal import counted, printable, quoted

MOST_NAMED = 50
FORMAT = (
    'write {"folder or file name": class or [classes]}, or a list with the classes of each image '
    "in the order of the file names; a class is its number or its name"
)
Classes = tuple[int, ...]


class Answers(NamedTuple):
    """The right answers for the images of a source."""

    accepted: tuple[Classes, ...]
    """Per image the classes that are right; an image without any is left out."""
    among: Classes | None
    """The only classes that the model may answer with; None: all."""
    note: str
    """What was assumed about the labels, if that needs saying; may be empty."""

    @property
    def answerable(self) -> list[int]:
        """Indices of the images for which some class is right."""
        return [index for index, accepted in enumerate(self.accepted) if accepted]


def find_answers(source: ImageSource, classes: Sequence[str], labels: str = "") -> Answers:
    """The right answers: from a label map, else from the folders or the labels of a list.

    A label map is a JSON file. An object gives folders or files (by path or by name alone) a class,
    or a list of classes of which any is right; a map of folders also restricts the model's answers
    to the classes in it, as ImageNet-A and -R are measured (arXiv:1907.07174, section 4.1;
    arXiv:2006.16241). A list has one entry per image, in the order of the file names, as the
    published file of ImageNet-ReaL (arXiv:2006.07159) does. Images with an empty list are left out.
    A class is given by its number or its name.

    Without a map, folders are the model's class names, or WordNet ids if its classes are those of
    ImageNet. They may also be the numbers of all classes, if the order of the classes is known: for
    ImageNet's, and for classes that the model's file does not name. An equal count alone says
    nothing about the order.

    Args:
        source: The images, in folders or listed with labels.
        classes: The model's class names, in the order of its logits.
        labels: Path of the label map; empty: none.

    Raises:
        DataError: An image has no label, or a label is not a class of the model.
    """
    if labels:
        return _from_map(source, _Names(classes), labels)
    names = [_group(source, index) for index in range(len(source))]
    if not all(names):
        unlabelled = [source.key(index) for index, name in enumerate(names) if not name]
        raise DataError(
            f"{len(unlabelled)} of {len(names)} images have no label: {quoted(unlabelled)}",
            remedy="use one folder per class, a list file with labels, or --labels FILE",
        )
    ids, note = _match(sorted(set(names), key=natural_key), _Names(classes))
    return Answers(tuple((ids[name],) for name in names), None, note)


class _Names:
    """Finds classes by the model's names and, if they are ImageNet's, by their WordNet ids."""

    def __init__(self, classes: Sequence[str]) -> None:
        times = Counter(classes)  # ImageNet has two cranes: a shared name is ambiguous
        self.ids = {name: index for index, name in enumerate(classes) if times[name] == 1}
        self.count = len(classes)
        published = wordnet_ids(classes)
        self.ids |= {name: index for index, name in enumerate(published)}
        self.numbered = bool(published) or are_unnamed(classes)
        """Whether the order of the classes is known, so that a number can stand for a class."""

    def classes_of(self, entry: object, where: str) -> Classes:
        """The classes of an entry of a label map, which is a class or a list of classes."""
        if isinstance(entry, list):
            return tuple(self._class_of(each, where) for each in entry)
        return (self._class_of(entry, where),)

    def _class_of(self, entry: object, where: str) -> int:
        if isinstance(entry, str) and entry in self.ids:
            return self.ids[entry]
        if type(entry) is int and 0 <= entry < self.count:
            return entry
        raise DataError(
            f"{where}: {entry!r} is not a class of the model",
            remedy=f"use a number from 0 to {self.count - 1}, or "
            + nearest(str(entry), list(self.ids)[:MOST_NAMED]),
        )


def _group(source: ImageSource, index: int) -> str:
    """The label that a list gives the image, or its top-level folder; empty without either."""
    names = class_names_at(source, index)
    if len(names) == 1:
        return names[0]
    folder, slash, _ = source.key(index).partition("/")
    return folder if slash else ""


def _match(names: list[str], known: _Names) -> tuple[dict[str, int], str]:
    """The class of every label, and a note on what was assumed."""
    unknown = [name for name in names if name not in known.ids]
    if not unknown:
        return {name: known.ids[name] for name in names}, ""
    numbers = as_numbers(names, known.count) if known.numbered else None
    if numbers is not None:
        note = f"the labels {names[0]} to {names[-1]} are taken for the numbers of the classes"
        return dict(zip(names, numbers, strict=True)), note
    raise DataError(
        f"{len(unknown)} of {len(names)} labels are not classes of the model: {quoted(unknown)}",
        remedy=f"rename them (the model has {known.count} classes: "
        f"{quoted(list(known.ids))}), or say with --labels FILE which is which: "
        + json.dumps({printable(name): "CLASS" for name in unknown[:2]}),
    )


def _from_map(source: ImageSource, known: _Names, labels: str) -> Answers:
    content = read_json(Path(labels), DataError, FORMAT)
    keys = keys_of(source)
    if isinstance(content, list):
        if len(content) != len(keys):
            raise DataError(
                f"the label map {labels} has {len(content)} entries for "
                f"{counted(len(keys), 'image')}",
                remedy="give one list of classes per image, or an object with file names",
            )
        order = sorted(range(len(keys)), key=lambda index: natural_key(PurePath(keys[index]).name))
        content = {keys[index]: entry for index, entry in zip(order, content, strict=True)}
    if not isinstance(content, dict):
        raise DataError(f"the label map {labels} is neither an object nor a list", remedy=FORMAT)
    entries = {
        name: known.classes_of(entry, f"{labels}, '{name}'") for name, entry in content.items()
    }
    groups = [_group(source, index) for index in range(len(source))]
    found = [
        next((name for name in (key, PurePath(key).name, group) if name in entries), None)
        for key, group in zip(keys, groups, strict=True)
    ]
    missing = [key for key, name in zip(keys, found, strict=True) if name is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(keys)} images are not in the label map {labels}: "
            + quoted(missing),
            remedy=FORMAT,
        )
    among = None
    if found == groups:
        among = tuple(sorted({index for entry in entries.values() for index in entry}))
    note = f"answers restricted to the {len(among)} classes of {labels}" if among else ""
    return Answers(tuple(entries[name] for name in found if name is not None), among, note)
