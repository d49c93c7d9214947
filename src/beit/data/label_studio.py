"""Exports of Label Studio: its tasks as rows of labels, and the names that it gives to masks and to
uploaded images.

An export names an image `/data/upload/PROJECT/HASH-name.jpg` and a painted mask
`task-1-annotation-2-by-3-tag-Road-0.png`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from beit.errors import DataError
from beit.json_object import parse_json, read_json
from beit.terminal import quoted

_UPLOADED = re.compile(r"/?data/upload/(\d+/)?(?P<name>[0-9a-f]{8}-(?P<own>[^/]+))")
_LOCAL = re.compile(r"/?data/local-files/\?d=(?P<own>.+)")
_MASK = re.compile(r"(?:.*/)?task-(?P<task>\d+)-annotation-\d+-by-.*?-tag-(?P<word>.+)")
BY_TASK = (
    "Label Studio calls masks by its tasks: put its JSON export beside the folders, which says the "
    "image of each"
)
_CHOICES = {"choices", "taxonomy"}
RECORDED = ("id", "annotator", "annotationid", "createdat", "updatedat", "leadtime", "agreement")
"""Headings of columns with which its tables record each annotation, `ANNOTATION` among them."""
ANNOTATION = "annotationid"


class TaskRows(NamedTuple):
    """Tasks as rows of a table: one for each annotation, and one for a task without any."""

    rows: list[tuple[int, dict[str, Any]]]
    answers: tuple[str, ...]
    """The names of the columns that annotators filled."""
    notes: tuple[str, ...]


def are_tasks(objects: Sequence[Mapping[str, Any]]) -> bool:
    """Whether objects are tasks of Label Studio, as its JSON export holds them."""
    return all(isinstance(one.get("data"), dict) and "annotations" in one for one in objects)


def rows_of_tasks(tasks: Sequence[tuple[int, dict[str, Any]]]) -> TaskRows:
    """The data of each task with what an annotator chose for the whole image, a row for each
    annotation; if a task has a ground truth, only for that. Each task comes with the line of the
    file where it begins."""
    rows: list[tuple[int, dict[str, Any]]] = []
    answers: dict[str, None] = {}
    skipped = Counter[str]()
    for line, task in tasks:
        given = [one for one in _listed(task["annotations"]) if isinstance(one, dict)]
        valid = [one for one in given if not one.get("was_cancelled")]
        skipped["annotations that were cancelled"] += len(given) - len(valid)
        for annotation in [one for one in valid if one.get("ground_truth")] or valid or [{}]:
            chosen: dict[str, list[str]] = {}
            for result in _listed(annotation.get("result")):
                held = result if isinstance(result, dict) else {}
                if labels := _chosen(held.get("value")):
                    chosen.setdefault(str(held.get("from_name")), []).extend(labels)
                else:
                    skipped[f"results of type {quoted([str(held.get('type'))])}"] += 1
            rows.append((line, task["data"] | {name: {"choices": chosen[name]} for name in chosen}))
            answers |= dict.fromkeys(chosen)
    notes = tuple(f"{what} are skipped: {count}" for what, count in skipped.items() if count)
    return TaskRows(rows, tuple(answers), notes)


def choices_in(cell: str) -> list[str]:
    """The labels in a cell that holds them as JSON, `{"choices": ["a", "b"]}`; of any other cell
    none."""
    if not cell.startswith(("{", "[{")):
        return []
    try:
        held = parse_json(cell)
    except ValueError:
        return []
    found = [*map(_chosen, held if isinstance(held, list) else [held])]
    return [label for labels in found for label in labels] if all(found) else []


def _chosen(value: object) -> list[str]:
    """The labels chosen for a whole image; of a taxonomy, whole paths. Empty for other values, and
    for those of a region, which hold its place as well."""
    if not isinstance(value, dict) or not {*value} <= _CHOICES:
        return []
    paths = [[one] if isinstance(one, str) else _listed(one)
             for chosen in value.values() for one in _listed(chosen)]  # fmt: skip
    return [" > ".join(map(str, path)) for path in paths if any(path)]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def names_before(name: str) -> tuple[str, ...]:
    """The possible file names of an image that an export names: that under which Label Studio
    stored it, and that before the upload. Empty for names that are not Label Studio's."""
    if uploaded := _UPLOADED.fullmatch(unquote(name)):
        return uploaded["name"], uploaded["own"]
    local = _LOCAL.fullmatch(unquote(name))
    return (local["own"],) if local else ()


def are_by_task(masks: Mapping[str, str]) -> bool:
    """Whether all masks, given by names without extension, are named by tasks."""
    return all(map(_MASK.fullmatch, masks))


def named_by_image(
    root: Path, masks: Mapping[str, str], images: Mapping[str, str]
) -> dict[str, str]:
    """Masks that are named by tasks, renamed: the name of the image with the label behind it.

    Args:
        root: The folder with the JSON exports, which say which image each task has.
        masks: The file of each mask, by its name without extension.
        images: The images, by path without extension.

    Returns:
        The file of each mask by its new name; empty if the image of any is unknown.
    """
    stems = dict(_tasks(root, {stem.rpartition("/")[2]: stem for stem in images}))
    found: dict[str, str] = {}
    for mask, file in masks.items():
        named = _MASK.fullmatch(mask)
        if named is None or named["task"] not in stems:
            return {}
        found[f"{stems[named['task']]}_{named['word']}"] = file
    return found


def _tasks(root: Path, images: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The id of each task in the exports with its image; `images` has these by name without
    folder."""
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
