"""Which options of reading apply to which data: those that would change nothing are refused."""

from __future__ import annotations

from pathlib import Path

from beit.config.data import FolderConfig
from beit.config.label_file import LabelFileConfig
from beit.config.reading import Reading
from beit.data.hugging_face import is_hugging_face
from beit.data.label_files import is_label_file
from beit.data.listing import LIST_EXTENSIONS
from beit.data.shards import shard_parts
from beit.errors import ConfigError

IN_SPLITS = ("accept_missing_classes",)
"""Options of folders that apply to everything whose splits may have classes of their own."""


def _stored(path: str) -> bool:
    """Whether the images lie in shards or in a Hugging Face dataset."""
    return is_hugging_face(path) or shard_parts(path) is not None


def _refusal(option: str, path: str, kind: str, example: str) -> ConfigError:
    return ConfigError(
        f"{option} was given, and {path} is no {kind}",
        remedy=f"leave --{option.replace('_', '-')} out, or name a {kind} ({example})",
    )


def check_options_apply(path: str, reading: Reading) -> None:
    """ConfigError if options for label files or for folders were given, and the path is none.

    A path where nothing lies is not judged: what opens it says so.
    """
    if not reading.label_file.given and not reading.folders.given:
        return
    if is_label_file(path):
        if reading.folders.given:
            example = "label files have options of their own: --split-column, --validation-fold"
            raise _refusal(reading.folders.given[0], path, "folder of images", example)
        return
    stored = _stored(path)
    if not stored and not Path(path).exists():
        return
    if reading.label_file.given:
        example = ", ".join(LIST_EXTENSIONS)
        raise _refusal(reading.label_file.given[0], path, "label file", example)
    for option in reading.folders.given:
        if stored and option not in IN_SPLITS:
            example = "of shards and datasets, classes and splits are as they are stored"
            raise _refusal(option, path, "folder of images", example)
        if not stored and not Path(path).is_dir():
            raise _refusal(option, path, "folder of images", "it is a single file")


def reading_for(path: str, reading: Reading, other: str) -> Reading:
    """The options for one of two places that share them: those that only the other takes are left
    to it."""
    if not other or other == path:
        return reading
    label_file, folders = reading.label_file, reading.folders
    if is_label_file(other) and not is_label_file(path):
        label_file = LabelFileConfig()
    if _is_folder(other) and not _is_folder(path):
        folders = FolderConfig()
    return Reading(folders, label_file)


def _is_folder(path: str) -> bool:
    return Path(path).is_dir() and not _stored(path)
