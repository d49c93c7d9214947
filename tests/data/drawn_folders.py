"""Folders of images that tests draw: their names, and what is read from them."""

from __future__ import annotations

from pathlib import Path

from beit.config.data import FolderConfig, Reading
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def some(*folders: str, count: int = 2) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


def labelled(root: Path, **options: object):
    return open_labelled(
        str(root),
        split=0.5,
        per_class=None,
        seed=0,
        reading=Reading(FolderConfig(**options)),  # type: ignore[arg-type]
    )
