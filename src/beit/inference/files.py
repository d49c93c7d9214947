"""Predict, segment and embed files and folders; what cannot be read is named, never dropped."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import safetensors.numpy
from PIL import Image

from beit.atomic_io import write_file
from beit.claim import claim_output
from beit.data.dataset import form_of, open_source
from beit.data.decode import decode
from beit.data.folders import open_every_image
from beit.data.listing import LIST_EXTENSIONS, quoted
from beit.data.pixel_types import UnreadableError
from beit.data.sources import FileSource, ImageSource
from beit.data.visualize import label_map_png, overlay_labels
from beit.errors import ConfigError, DataError
from beit.inference.predictor import Predictor, as_rgb, load
from beit.terminal import TextTable, counted, print_tables, printable
from beit.weights.answering import Label

FORMATS = (".npz", ".csv", ".safetensors")
CONTAINERS = (*LIST_EXTENSIONS, ".tar", ".parquet")
"""Of files that name or hold images instead of being one."""


class Prediction(NamedTuple):
    """The classes of one image, best first; or why there are none. Of a multi-label model no
    class at all may be the answer."""

    path: str
    labels: list[Label]
    unreadable: str = ""


class Opened(NamedTuple):
    """An image with its pixels uint8 [H,W,C], or with the reason why it could not be read."""

    path: str
    pixels: np.ndarray | None
    unreadable: str = ""


def _open(path: str) -> ImageSource:
    """Every image below a folder, those of a list or of a data set, or one file of any name.

    Raises DataError if there is nothing, or no image.
    """
    place = Path(path)
    if form_of(path) == "folder":
        source: ImageSource = open_every_image(path)
        source.account.log()
        return source
    if place.is_file() and place.suffix.lower() not in CONTAINERS:
        return FileSource(str(place.parent), [place.name])
    return open_source(path)


def _read(paths: Sequence[str], predictor: Predictor) -> Iterator[Opened]:
    """All images below the paths, in their order."""
    if not paths:
        raise ConfigError("no images were given", remedy="name files or folders")
    channels, value_range = predictor.channels, predictor.value_range
    for path in paths:
        try:
            source = _open(path)
        except DataError as error:  # of one place: the others are answered
            yield Opened(path, None, error.problem)
            continue
        root = Path(path)
        for index in range(len(source)):
            name = str(root / source.key(index)) if root.is_dir() else path
            try:
                data = source.read(index).data
                yield Opened(name, decode(data, channels=channels, value_range=value_range))
            except UnreadableError as error:
                yield Opened(name, None, error.reason)


def _in_batches(
    paths: Sequence[str], predictor: Predictor, batch: int
) -> Iterator[tuple[tuple[Opened, ...], list[np.ndarray]]]:
    """All images below the paths, `batch` at a time, and the pixels of those that can be read."""
    images = _read(paths, predictor)
    while chunk := tuple(islice(images, batch)):
        yield chunk, [one.pixels for one in chunk if one.pixels is not None]


def predict_files(
    artifact: str,
    paths: Sequence[str],
    *,
    top: int | None,
    batch: int,
    device: str,
    flip: bool = False,
) -> Iterator[Prediction]:
    """The classes of every image below the paths.

    Args:
        artifact: As for `load`.
        paths: Files, folders, lists or data sets.
        top: Classes per image, as for `Predictor.predict`.
        batch: Images at a time.
        device: cpu, cuda or mps.
        flip: As for `load`.
    """
    predictor = load(artifact, device=device, flip=flip)
    for chunk, pixels in _in_batches(paths, predictor, batch):
        rows = iter(predictor.probabilities(pixels) if pixels else ())
        for one in chunk:
            labels = []
            if one.pixels is not None:
                labels = predictor.answering.labels(next(rows), top)
            yield Prediction(one.path, labels, one.unreadable)


def print_predictions(
    predictions: Iterable[Prediction], form: Literal["table", "json", "csv"]
) -> list[str]:
    """Print them; returns the images that could not be read.

    `table` is for people, `json` gives one object per image and line, `csv` one line for each class
    of each image.
    """
    unreadable: list[str] = []

    def each() -> Iterator[Prediction]:
        for one in predictions:
            if one.unreadable:
                unreadable.append(one.path)
            yield one

    {"table": _print_table, "json": _print_json, "csv": _print_csv}[form](each())
    return unreadable


def _print_json(predictions: Iterable[Prediction]) -> None:
    for one in predictions:
        answer: dict[str, object] = {"unreadable": one.unreadable}
        if not one.unreadable:
            answer = {"labels": [label.answer() for label in one.labels]}
        print(json.dumps({"image": one.path, **answer}), flush=True)


def _print_table(predictions: Iterable[Prediction]) -> None:
    table = TextTable("image", "class", "probability", "then", folded=0)
    for one in predictions:
        cells = ("unreadable", "", one.unreadable) if one.unreadable else _cells(one.labels)
        table.add_row(one.path, *cells)
    print_tables(table)


def _cells(labels: list[Label]) -> tuple[str, str, str]:
    """The answer, its probability, and the rest; of a multi-label model, all that counts."""
    independent = any(label.threshold is not None for label in labels) or not labels
    chosen = [label for label in labels if label.selected] if independent else labels[:1]
    rest = [label for label in labels if label not in chosen]
    return (
        ", ".join(label.name for label in chosen) or "no label",
        ", ".join(f"{label.probability:.1%}" for label in chosen),
        ", ".join(f"{label.name} {label.probability:.0%}" for label in rest),
    )


def _print_csv(predictions: Iterable[Prediction]) -> None:
    """An image without any class has an empty line. Names are made printable: JSON has them as
    they are."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "class", "probability", "threshold", "unreadable"])
    for one in predictions:
        path = printable(one.path)
        for name, probability, threshold in one.labels:
            writer.writerow([path, printable(name), probability, threshold, ""])
        if not one.labels:
            writer.writerow([path, "", "", "", one.unreadable])


def must_be_readable(unreadable: Sequence[str]) -> None:
    """Raises DataError, which names some, if an image could not be read: a script must not take it
    for answered."""
    if unreadable:
        raise DataError(
            f"not answered, as they cannot be read: {quoted(list(unreadable))}",
            remedy="the reason stands beside each: correct its path, repair or convert it, or "
            "leave it out; all others were answered",
        )


def _report(unreadable: Sequence[Opened], answered: int) -> str:
    """Name on stderr what could not be read; the end of a summary. Raises DataError if nothing
    could be."""
    for one in unreadable:
        print(printable(f"unreadable: {one.path}: {one.unreadable}"), file=sys.stderr)
    if not answered:
        raise DataError("no image could be read", remedy="see the reasons above")
    return f", {len(unreadable)} unreadable" if unreadable else ""


def segment_files(
    artifact: str, paths: Sequence[str], out: Path, *, device: str, flip: bool = False
) -> list[str]:
    """Write label maps and overlays of every image below the paths, and print a summary.

    Args:
        artifact: Of a segmenter, as for `load`.
        paths: Files or folders.
        out: New folder for `labels/` and `overlays/`, named and nested as the images are.
        device: cpu, cuda or mps.
        flip: As for `load`.

    Returns:
        The images that could not be read.

    Raises:
        RunFolderError: `out` holds something.
        DataError: Two images would be written to one file, or none can be read.
    """
    with claim_output(out, folder=True) as folder:
        predictor = load(artifact, device=device, flip=flip)
        written: dict[Path, str] = {}
        unreadable: list[Opened] = []
        for path in paths:
            root = Path(path) if Path(path).is_dir() else Path(path).parent
            for one in _read([path], predictor):
                if one.pixels is None:
                    unreadable.append(one)
                    continue
                place = Path(one.path).relative_to(root).with_suffix(".png")
                if place in written:
                    raise DataError(
                        f"{one.path} and {written[place]} would both be written to {place}",
                        remedy="segment them one after the other, into different folders",
                    )
                written[place] = one.path
                _segment(predictor, one.pixels, folder, place)
        suffix = _report(unreadable, len(written))
    print(printable(f"{out}: labels and overlays of {counted(len(written), 'image')}{suffix}"))
    return [one.path for one in unreadable]


def _segment(predictor: Predictor, pixels: np.ndarray, folder: Path, place: Path) -> None:
    labels, overlays = folder / "labels" / place, folder / "overlays" / place
    for file in (labels, overlays):
        file.parent.mkdir(parents=True, exist_ok=True)
    found = predictor.segment(pixels)
    labels.write_bytes(label_map_png(found))
    Image.fromarray(overlay_labels(as_rgb(pixels), found)).save(overlays)


def embed_files(
    artifact: str, paths: Sequence[str], out: Path, *, block: int | None, batch: int, device: str
) -> str:
    """Write the features of every image below the paths.

    Args:
        artifact: As for `load`.
        paths: Files, folders, lists or data sets.
        out: File to write; its ending is one of FORMATS.
        block: As for `Predictor.embed`.
        batch: Images at a time.
        device: cpu, cuda or mps.

    Returns:
        A summary in one line.

    Raises:
        RunFolderError: `out` exists.
        ConfigError: The format or the block is unknown.
        DataError: No image can be read.
    """
    if out.suffix not in FORMATS:
        raise ConfigError(
            f"features cannot be written as '{out.suffix}'", remedy=f"use one of {FORMATS}"
        )
    with claim_output(out) as place:
        predictor = load(artifact, device=device)
        keys: list[str] = []
        rows: list[np.ndarray] = []
        unreadable: list[Opened] = []
        for chunk, pixels in _in_batches(paths, predictor, batch):
            unreadable += [one for one in chunk if one.pixels is None]
            keys += [one.path for one in chunk if one.pixels is not None]
            if pixels:
                rows.append(predictor.embed(pixels, block=block).numpy())
        suffix = _report(unreadable, len(keys))
        features = np.concatenate(rows)
        _write(place, keys, features, predictor.artifact.kind)
    return f"{printable(out)}: {counted(len(keys), 'image')} x {features.shape[1]} features{suffix}"


def _write(out: Path, keys: list[str], features: np.ndarray, kind: str) -> None:
    if out.suffix == ".npz":
        with out.open("wb") as file:
            np.savez(file, features=features, keys=np.array(keys))
    elif out.suffix == ".safetensors":
        metadata = {"keys": json.dumps(keys), "kind": kind}
        write_file(out, [safetensors.numpy.save({"features": features}, metadata=metadata)])
    else:
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["image", *(f"feature_{i}" for i in range(features.shape[1]))])
            writer.writerows([key, *row] for key, row in zip(keys, features.tolist(), strict=True))
