"""Folders of images that tests draw: their names, and what is read from them."""

from __future__ import annotations

from pathlib import Path

from beit.config.data import Division, FolderConfig, Reading
from beit.data.dataset import Dataset
from beit.data.labelled import divide
from beit.data.sources import ImageSource


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def some(*folders: str, count: int = 2) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


def labelled(root: Path, **options: object):
    return divide(Dataset(str(root), Reading(FolderConfig(**options))), Division(split=0.5, seed=0))
