"""Predict and embed files and folders; what cannot be read is named, never left out silently."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

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
from beit.inference.predictor import Predictor, load
from beit.terminal import TextTable, print_tables, printable
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


def _pixels(images: Sequence[Opened]) -> list[np.ndarray]:
    """Of those that could be read."""
    return [one.pixels for one in images if one.pixels is not None]


def _opened(path: str) -> ImageSource:
    """Every image below a folder, those of a list or of a data set, or one file of any name.

    Errors: DataError if there is nothing, or no image.
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
    for path in paths:
        try:
            source = _opened(path)
        except DataError as error:  # of one place: the others are answered
            yield Opened(path, None, error.problem)
            continue
        root = Path(path)
        for index in range(len(source)):
            name = str(root / source.key(index)) if root.is_dir() else path
            try:
                pixels = decode(
                    source.read(index).data,
                    channels=predictor.channels,
                    value_range=predictor.value_range,
                )
            except UnreadableError as error:
                yield Opened(name, None, error.reason)
            else:
                yield Opened(name, pixels)


def _in_batches(
    paths: Sequence[str], predictor: Predictor, batch: int
) -> Iterator[tuple[Opened, ...]]:
    """All images below the paths, `batch` at a time."""
    images = _read(paths, predictor)
    while chunk := tuple(islice(images, batch)):
        yield chunk


def predict_files(
    artifact: str, paths: Sequence[str], *, top: int | None, batch: int, device: str
) -> Iterator[Prediction]:
    """The classes of every image below the paths; `top` as in `Predictor.predict`."""
    predictor = load(artifact, device=device)
    for chunk in _in_batches(paths, predictor, batch):
        pixels = _pixels(chunk)
        rows = iter(predictor.probabilities(pixels) if pixels else ())
        for one in chunk:
            if one.pixels is None:
                yield Prediction(one.path, [], one.unreadable)
            else:
                yield Prediction(one.path, predictor.answering.labels(next(rows), top))


def print_json(predictions: Iterator[Prediction]) -> list[str]:
    """One JSON object per image and line. Returns the images that could not be read."""
    lost = []
    for prediction in predictions:
        row: dict[str, object] = {"image": prediction.path}
        if prediction.unreadable:
            row["unreadable"] = prediction.unreadable
            lost.append(prediction.path)
        else:
            row["labels"] = [label.answer() for label in prediction.labels]
        print(json.dumps(row), flush=True)
    return lost


def print_table(predictions: Iterator[Prediction]) -> list[str]:
    """A table for people. Returns the images that could not be read."""
    lost = []
    table = TextTable("image", "class", "probability", "then", folded=0)
    for prediction in predictions:
        if prediction.unreadable:
            table.add_row(prediction.path, "unreadable", "", prediction.unreadable)
            lost.append(prediction.path)
            continue
        table.add_row(prediction.path, *_cells(prediction.labels))
    print_tables(table)
    return lost


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


def print_csv(predictions: Iterator[Prediction]) -> list[str]:
    """One line for each class of each image, best first; an image without any has an empty one.
    Names are made printable: JSON has them as they are. Returns the images that could not be
    read."""
    lost = []
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "class", "probability", "threshold", "unreadable"])
    for prediction in predictions:
        path = printable(prediction.path)
        if prediction.unreadable:
            lost.append(prediction.path)
        for name, probability, threshold in prediction.labels:
            writer.writerow([path, printable(name), probability, threshold, ""])
        if not prediction.labels:
            writer.writerow([path, "", "", "", prediction.unreadable])
    return lost


def must_be_readable(lost: Sequence[str]) -> None:
    """DataError, which names some, if an image could not be read: whoever asks in a script must
    not take it for answered."""
    if lost:
        raise DataError(
            f"not answered, as they cannot be read: {quoted(list(lost))}",
            remedy="repair or convert these files, or leave them out; all others were answered",
        )


def segment_files(artifact: str, paths: Sequence[str], out: Path, *, device: str) -> list[str]:
    """Write label maps and overlays of every image below the paths, and say what was written.
    Returns the images that could not be read.

    They lie in OUT/labels and OUT/overlays, named and nested as the images are.
    Errors: RunFolderError if OUT holds something, DataError for two images that would be written
    to one file, or if none can be read.
    """
    with claim_output(out, folder=True) as folder:
        written, unreadable = _segmented(artifact, paths, folder, device)
    lost = f", {len(unreadable)} unreadable" if unreadable else ""
    images = "1 image" if written == 1 else f"{written} images"
    print(printable(f"{out}: labels and overlays of {images}{lost}"))
    return unreadable


def _segmented(
    artifact: str, paths: Sequence[str], out: Path, device: str
) -> tuple[int, list[str]]:
    """How many images were written to a new folder, and those that could not be read."""
    predictor = load(artifact, device=device)
    written: dict[Path, str] = {}
    unreadable: list[tuple[str, str]] = []
    for path in paths:
        root = Path(path) if Path(path).is_dir() else Path(path).parent
        for name, pixels, reason in _read([path], predictor):
            if pixels is None:
                unreadable.append((name, reason))
                continue
            place = Path(name).relative_to(root).with_suffix(".png")
            if place in written:
                raise DataError(
                    f"{name} and {written[place]} would both be written to {place}",
                    remedy="segment them one after the other, into different folders",
                )
            written[place] = name
            labels = predictor.segment(pixels)
            # One channel is shown as grey; of more than three the first are.
            colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., [0, 0, 0]]
            for folder in ("labels", "overlays"):
                (out / folder / place).parent.mkdir(parents=True, exist_ok=True)
            (out / "labels" / place).write_bytes(label_map_png(labels))
            Image.fromarray(overlay_labels(colours, labels)).save(out / "overlays" / place)
    for name, reason in unreadable:
        print(printable(f"unreadable: {name}: {reason}"), file=sys.stderr)
    if not written:
        raise DataError("no image could be read", remedy="name files or folders of images")
    return len(written), [name for name, _ in unreadable]


def embed_files(
    artifact: str, paths: Sequence[str], out: Path, *, block: int | None, batch: int, device: str
) -> str:
    """Write the features of every image below the paths; what was written, in a sentence.

    Errors: RunFolderError if OUT exists, ConfigError for an unknown format or block, DataError if
    no image can be read.
    """
    if out.suffix not in FORMATS:
        raise ConfigError(
            f"features cannot be written as '{out.suffix}'", remedy=f"use one of {FORMATS}"
        )
    with claim_output(out) as place:
        written = _embedded(artifact, paths, place, block, batch, device)
    return f"{printable(out)}: {written}"


def _embedded(
    artifact: str, paths: Sequence[str], out: Path, block: int | None, batch: int, device: str
) -> str:
    """Write the features to a new file; what was written."""
    predictor = load(artifact, device=device)
    keys: list[str] = []
    rows: list[np.ndarray] = []
    unreadable: list[tuple[str, str]] = []
    for chunk in _in_batches(paths, predictor, batch):
        unreadable += [(one.path, one.unreadable) for one in chunk if one.pixels is None]
        keys += [one.path for one in chunk if one.pixels is not None]
        if pixels := _pixels(chunk):
            rows.append(predictor.embed(pixels, block=block).numpy())
    for name, reason in unreadable:
        print(printable(f"unreadable: {name}: {reason}"), file=sys.stderr)
    if not rows:
        raise DataError("no image could be read", remedy="see the reasons above")
    features = np.concatenate(rows)
    _write(out, keys, features, predictor)
    lost = f", {len(unreadable)} unreadable" if unreadable else ""
    return f"{len(keys)} images x {features.shape[1]} features{lost}"


def _write(out: Path, keys: list[str], features: np.ndarray, predictor: Predictor) -> None:
    if out.suffix == ".npz":
        with out.open("wb") as file:
            np.savez(file, features=features, keys=np.array(keys))
    elif out.suffix == ".safetensors":
        metadata = {"keys": json.dumps(keys), "kind": predictor.artifact.kind}
        write_file(out, [safetensors.numpy.save({"features": features}, metadata=metadata)])
    else:
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["image", *(f"feature_{i}" for i in range(features.shape[1]))])
            writer.writerows([key, *row] for key, row in zip(keys, features.tolist(), strict=True))
