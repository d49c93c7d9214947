"""The names that Label Studio gives to images that were uploaded to it, and to exported masks.

`/data/upload/PROJECT/HASH-name.jpg` in its exports, `task-1-annotation-2-by-3-tag-Road-0.png` for
what was painted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from beit.errors import DataError
from beit.json_object import read_json

_UPLOADED = re.compile(r"/?data/upload/(\d+/)?(?P<name>[0-9a-f]{8}-(?P<own>[^/]+))")
_LOCAL = re.compile(r"/?data/local-files/\?d=(?P<own>.+)")
_MASK = re.compile(r"(?:.*/)?task-(?P<task>\d+)-annotation-\d+-by-.*?-tag-(?P<word>.+)")
BY_TASK = (
    "Label Studio calls masks by its tasks: put its JSON export beside the folders, which says the "
    "image of each"
)


def names_before(name: str) -> tuple[str, ...]:
    """What an image may be called that an export of Label Studio names: as it was stored there, and
    as it was before. Of other names none."""
    if uploaded := _UPLOADED.fullmatch(unquote(name)):
        return uploaded["name"], uploaded["own"]
    local = _LOCAL.fullmatch(unquote(name))
    return (local["own"],) if local else ()


def are_by_task(masks: Mapping[str, str]) -> bool:
    """Whether masks, by names without extension, are called by tasks."""
    return all(map(_MASK.fullmatch, masks))


def named_by_image(
    root: Path, masks: Mapping[str, str], images: Mapping[str, str]
) -> dict[str, str]:
    """Such masks by the names of their images, with the label behind, as the JSON exports in a
    folder say; empty if these do not know the image of each."""
    stems = dict(_tasks(root, {stem.rpartition("/")[2]: stem for stem in images}))
    found: dict[str, str] = {}
    for mask, file in masks.items():
        named = _MASK.fullmatch(mask)
        if named is None or named["task"] not in stems:
            return {}
        found[f"{stems[named['task']]}_{named['word']}"] = file
    return found


def _tasks(root: Path, images: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each task of the exports with its image, by the names of images without folder."""
    for place in sorted(root.glob("*.json")):
        content = read_json(place, DataError, "export it anew, or move it away")
        for task in content if isinstance(content, list) else ():
            data = task.get("data") if isinstance(task, dict) else None
            for value in data.values() if isinstance(data, dict) else ():
                for name in names_before(value) if isinstance(value, str) else ():
                    stem = name.rpartition("/")[2].rpartition(".")[0]
                    if stem in images:
                        yield str(task.get("id")), images[stem]
                        break
