"""Which of the images to be measured a model has learned from, as far as that is known."""

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
"""What the part of undivided data is called that a model did not learn from."""
UNKNOWN = (
    "these may include images that the model was trained on: only the run that made it knows "
    "their names, and that run is not here"
)


class Unlearned(NamedTuple):
    """The images to measure on, and what to say of them; may be empty."""

    source: ImageSource
    note: str


Divide = Callable[[Division], tuple[ImageSource, ImageSource]]
"""Data to the part for training and the part for validation. Errors: DataError, ConfigError."""


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
    """Of images without parts those that a model did not learn from, where that is known.

    `model` is the folder of a run, of an artifact in it, or anything else; `trained` is what its
    artifact says of its training. The images of its training are recognised, wherever they lie,
    by their fingerprint once they are divided as they were then: the fraction held out is left. If
    they have changed since, those whose names the run learned from are left out, where it is the
    same place; of other places only a note says that names are the same. Where another part than
    the one for validation was requested, all are measured.
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
    """The config of the run that made a model, if its data are those at `place`."""
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
    """The division that an artifact carries; older ones carry none."""
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
    """The fraction held out, if the rest is what the model learned from."""
    try:
        train, validation = divide(division)
    except (DataError, ConfigError):  # so these are others; what is wrong is reported elsewhere
        return None
    return validation if train.fingerprint() == fingerprint else None


def _without(source: ImageSource, names: frozenset[str]) -> ImageSource:
    return select(source, [at for at, key in enumerate(keys_of(source)) if key not in names])


def _accounted(part: ImageSource, whole: ImageSource) -> ImageSource:
    """The part with the account of the whole, which counts only what is in the part."""
    part.account = replace(
        whole.account,
        images={MEASURED: len(part)},
        classes={MEASURED: images_per_class(part)},
    )
    return part


def _data_of(run: _Run) -> str:
    """Where the data of a run lie. A relative path counts from where the run was started, which
    the end of its own path tells, or else from here."""
    data, out = run.config.data, Path(run.config.out)
    if _is_address(data):
        return data
    here, length = run.folder.path.resolve(), len(out.parts)
    known = 0 < length < len(here.parts) and here.parts[-length:] == out.parts
    started = here.parents[length - 1] if known else Path()
    return str((started / data).resolve())


def _below(data: str, place: str) -> str | None:
    """What goes before the name of an image at `place` to name it as in `data`; None if `place`
    is neither `data` nor a folder in it."""
    if _is_address(data) or _is_address(place):
        return "" if data == place else None
    there = Path(place).resolve()
    if not there.is_relative_to(data):
        return None
    inside = there.relative_to(data).as_posix()
    return "" if inside == "." else f"{inside}/"


def _is_address(place: str) -> bool:
    return is_remote(place) or place.startswith(PREFIX)
