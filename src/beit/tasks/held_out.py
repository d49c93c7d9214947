"""Which of the images for an evaluation the model has learned from, as far as that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from beit.config import RunConfig
from beit.config.data import Division, Fold
from beit.data.folder_names import split_name
from beit.data.hugging_face import PREFIX
from beit.data.sources import ImageSource, images_per_class, keys_of, select
from beit.data.storage import is_remote
from beit.errors import ConfigError, DataError, RunFolderError
from beit.training.dataset_manifest import learned_names
from beit.training.run_folder import RunFolder, read_run_config

NOTE = "measured on the images that the run held out for validation; it was trained on the others"
MEASURED = "measured"
"""What the account calls the images that are measured on, if the data has no splits."""
UNKNOWN = (
    "these may include images that the model was trained on: only the run that made it knows "
    "their names, and that run is not here"
)


class Unlearned(NamedTuple):
    """The images to measure on, and a note about them, which may be empty."""

    source: ImageSource
    note: str


Divide = Callable[[Division], tuple[ImageSource, ImageSource]]
"""Divides the data into images for training and for validation. Raises DataError or ConfigError if
they cannot be divided so."""


class _Run(NamedTuple):
    folder: RunFolder
    config: RunConfig


def unlearned(
    model: str,
    trained: Mapping[str, Any],
    place: str,
    source: ImageSource,
    *,
    split: str,
    divide: Divide,
) -> Unlearned:
    """The images that a model did not learn from, of data without splits, where that is known.

    The training data are recognised, wherever they lie, by the fingerprint of the images learned
    from, once they are divided as they were for training; the images held out then are measured. If
    they have changed since, the images whose names the run learned from are left out, provided the
    place is the same; for another place, a note only says that names are the same.

    Args:
        model: The folder of a run, of an artifact in it, or any other name of a model.
        trained: What the artifact records about its training.
        place: Where the images lie, as the user named it.
        source: All images of the data.
        split: The requested split; all images are measured unless it is the one for validation.
        divide: Divides the same data as a training would.
    """
    run = _run_of(model)
    names = None if run is None else learned_names(run.folder)
    validating = split_name(split) == "val"
    division = _stated(trained) or (None if run is None else run.config.division)
    if validating and division is not None and "data" in trained:
        held_out = _as_then(divide, division, trained["data"])
        if held_out is not None:
            # A run that went on with changed images may have learned from some of them before.
            rest = _without(held_out, names or frozenset())
            return Unlearned(_accounted(rest, source), NOTE)
    if names is None:
        return Unlearned(source, UNKNOWN if "data" in trained else "")
    assert run is not None
    below = _below(_data_of(run), place)
    keys = keys_of(source)
    learned = frozenset(key for key in keys if (below or "") + key in names)
    if not learned:
        return Unlearned(source, "")
    if below is None:
        return Unlearned(
            source,
            f"{len(learned)} of these {len(keys)} images have the names of images that "
            "the run was trained on, and may be the same",
        )
    rest = _without(source, learned)
    if validating and len(rest):
        return Unlearned(
            _accounted(rest, source),
            f"the run was trained on {len(learned)} other images here, which are left out",
        )
    return Unlearned(source, f"the run was trained on {len(learned)} of these {len(keys)} images")


def trained_on(model: str, place: str) -> RunConfig | None:
    """The config of the run that made a model, if it was trained on the data at `place`."""
    run = _run_of(model)
    return run.config if run is not None and _below(_data_of(run), place) == "" else None


def _run_of(model: str) -> _Run | None:
    """The run that made a model, if it lies in the folder of that run."""
    for folder in (Path(model), Path(model).parent):
        try:
            config = read_run_config(folder)
        except RunFolderError:
            continue
        if config.division is not None:
            return _Run(RunFolder(folder), config)
    return None


def _stated(trained: Mapping[str, Any]) -> Division | None:
    """The division that an artifact records; None for older artifacts, which record none."""
    try:
        stated = trained["division"]
        split, seed, per_class = (stated[name] for name in ("split", "seed", "per_class"))
        fold = stated.get("fold")
        return Division(
            float(split),
            int(seed),
            None if per_class is None else int(per_class),
            None if fold is None else Fold(*map(int, fold)),
            str(stated.get("groups", "")),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _as_then(divide: Divide, division: Division, fingerprint: str) -> ImageSource | None:
    """The images held out by a division, if the others are those that the model learned from."""
    try:
        train, validation = divide(division)
    except (DataError, ConfigError):  # so the data differ; what is wrong is reported elsewhere
        return None
    return validation if train.fingerprint() == fingerprint else None


def _without(source: ImageSource, names: frozenset[str]) -> ImageSource:
    return select(source, [at for at, key in enumerate(keys_of(source)) if key not in names])


def _accounted(part: ImageSource, whole: ImageSource) -> ImageSource:
    """The part, with the account of the whole and the counts of the part."""
    part.account = replace(
        whole.account,
        images={MEASURED: len(part)},
        classes={MEASURED: images_per_class(part)},
    )
    return part


def _data_of(run: _Run) -> str:
    """Where the data of a run lie. A relative path starts in the folder in which the run was
    started. If the path of the run ends as its config says, that folder is the rest of the path;
    otherwise it is taken to be the current one."""
    data, out = run.config.data, Path(run.config.out)
    if _is_address(data):
        return data
    here, length = run.folder.path.resolve(), len(out.parts)
    known = 0 < length < len(here.parts) and here.parts[-length:] == out.parts
    started = here.parents[length - 1] if known else Path()
    return str((started / data).resolve())


def _below(data: str, place: str) -> str | None:
    """The prefix that turns the name of an image at `place` into its name in `data`; None if
    `place` is neither `data` nor a folder in it."""
    if _is_address(data) or _is_address(place):
        return "" if data == place else None
    there = Path(place).resolve()
    if not there.is_relative_to(data):
        return None
    inside = there.relative_to(data).as_posix()
    return "" if inside == "." else f"{inside}/"


def _is_address(place: str) -> bool:
    return is_remote(place) or place.startswith(PREFIX)
