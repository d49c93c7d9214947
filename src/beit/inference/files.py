"""Answers for few images: classes are printed, features and tokens are written to one file."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import safetensors.numpy

from beit.atomic_io import write_file
from beit.claim import claim_output
from beit.config.bulk import EmbedConfig, PredictConfig
from beit.errors import ConfigError, DataError
from beit.inference.bulk import Job, Progress, open_job
from beit.inference.outputs import NO_LABEL
from beit.terminal import TextTable, counted, print_tables, printable, quoted
from beit.weights.store import Label

FORMATS = (".npz", ".csv", ".safetensors")


class Prediction(NamedTuple):
    """The classes of one image, best first, or why there are none. The answer of a multi-label
    model may be no class at all."""

    path: str
    labels: list[Label]
    unreadable: str = ""


def predict(artifact: str, images: Sequence[str], config: PredictConfig) -> Iterator[Prediction]:
    """The classes of every image, in order.

    Args:
        artifact: A run, an artifact, or any released model that classifies.
        images: Files, folders or lists; empty if `config.data` is given.
        config: Options; only one process may be asked for.

    Raises:
        ConfigError: The config asks for several processes, or the model does not classify.
        BeitError: As `bulk.open_job` raises.
    """
    job = open_job(artifact, images, config)
    _only_one(config)
    for rows in job.rows([range(len(job.images))]):
        labels = rows.cells.get("labels", [[]] * len(rows.keys))
        for path, found, error in zip(rows.keys, labels, rows.errors, strict=True):
            yield Prediction(path, [] if error else list(found), error)


def _only_one(config: EmbedConfig | PredictConfig) -> None:
    """Raise ConfigError if several processes, or one elsewhere, would write one file."""
    if config.own_part().total > 1 or config.engine != "local":
        raise ConfigError(
            "several processes cannot write one answer",
            remedy="name a folder: --out FOLDER, without an ending",
        )


def print_predictions(
    predictions: Iterable[Prediction], form: Literal["table", "json", "csv"]
) -> list[str]:
    """Print predictions; returns the images that could not be read.

    `table` is for people, `json` prints one object per image and line, `csv` one line for each
    class of each image.
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
    table = TextTable("image", "class", "probability", "others", folded=0)
    for one in predictions:
        cells = ("unreadable", "", one.unreadable) if one.unreadable else _cells(one.labels)
        table.add_row(one.path, *cells)
    print_tables(table)


def _cells(labels: list[Label]) -> tuple[str, str, str]:
    """The answer (all that count, from a multi-label model), its probability, and the rest."""
    independent = any(label.threshold is not None for label in labels) or not labels
    chosen = [label for label in labels if label.selected] if independent else labels[:1]
    rest = [label for label in labels if label not in chosen]
    return (
        ", ".join(label.name for label in chosen) or NO_LABEL,
        ", ".join(f"{label.probability:.1%}" for label in chosen),
        ", ".join(f"{label.name} {label.probability:.0%}" for label in rest),
    )


def _print_csv(predictions: Iterable[Prediction]) -> None:
    """An image without any class has a line with empty cells. Names are made printable; JSON has
    them as they are."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "class", "probability", "threshold", "unreadable"])
    for one in predictions:
        path = printable(one.path)
        for name, probability, threshold in one.labels:
            writer.writerow([path, printable(name), probability, threshold, ""])
        if not one.labels:
            writer.writerow([path, "", "", "", one.unreadable])


def must_be_readable(unreadable: Sequence[str]) -> None:
    """Raise DataError, naming some of them, if images could not be read: a script must not take
    them for answered."""
    if unreadable:
        raise DataError(
            f"not answered, as they cannot be read: {quoted(list(unreadable))}",
            remedy="the reason stands beside each: correct its path, repair or convert it, or "
            "leave it out; all others were answered",
        )


def single_file(config: EmbedConfig) -> Path | None:
    """The file to write; None if `config.out` is a folder.

    Raises:
        ConfigError: Nothing or another format is named, or several processes would share the file.
    """
    if not config.out:
        raise ConfigError("out was not given", remedy="add --out FOLDER or --out FILE.npz")
    out = Path(config.out)
    if out.suffix in FORMATS:
        _only_one(config)
        return out
    if out.suffix and not out.is_dir():
        raise ConfigError(
            f"features cannot be written as '{out.suffix}'",
            remedy=f"use {', '.join(FORMATS)}, or a folder, whose name has no ending",
        )
    return None


def embed(artifact: str, images: Sequence[str], config: EmbedConfig, out: Path) -> str:
    """Write features or tokens to one file; returns a summary.

    Args:
        artifact: A run, an artifact, or any released model with features or tokens.
        images: Files, folders or lists; empty if `config.data` is given.
        config: Options.
        out: The file, with one of `FORMATS`; see `single_file`.

    Raises:
        RunFolderError: The file exists.
        DataError: No image can be read.
        BeitError: As `bulk.open_job` raises.
    """
    with claim_output(out) as place:
        return _embed(open_job(artifact, images, config), place, printable(out))


def _embed(job: Job, place: Path, called: str) -> str:
    """Write one file; all its rows are in memory until then."""
    (column,) = job.output.columns
    keys: list[str] = []
    batches: list[np.ndarray] = []
    unreadable = 0
    progress = Progress(len(job.images))
    for rows in job.rows([range(len(job.images))]):
        for key, error in zip(rows.keys, rows.errors, strict=True):
            if error:
                print(printable(f"unreadable: {key}: {error}"), file=sys.stderr)
        good = np.array([not error for error in rows.errors])
        unreadable += int((~good).sum())
        if good.any():
            batches.append(np.asarray(rows.cells[column])[good])
            keys += [key for key, error in zip(rows.keys, rows.errors, strict=True) if not error]
        progress.add(len(rows.keys), unreadable)
    if not keys:
        raise DataError("no image could be read", remedy="see the reasons above")
    values = np.concatenate(batches)
    _write(place, keys, values, column, job.artifact.kind)
    suffix = f", {unreadable} unreadable" if unreadable else ""
    return f"{called}: {counted(len(keys), 'image')} x {values.shape[1]} {column}{suffix}"


def _write(out: Path, keys: list[str], values: np.ndarray, column: str, kind: str) -> None:
    if out.suffix == ".npz":
        arrays: dict[str, np.ndarray] = {column: values, "keys": np.array(keys)}
        with out.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    elif out.suffix == ".safetensors":
        metadata = {"keys": json.dumps(keys), "kind": kind}
        write_file(out, [safetensors.numpy.save({column: values}, metadata=metadata)])
    else:
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            name = column.removesuffix("s")
            writer.writerow(["image", *(f"{name}_{i}" for i in range(values.shape[1]))])
            writer.writerows([key, *row] for key, row in zip(keys, values.tolist(), strict=True))
