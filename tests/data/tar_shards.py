"""Tar files, and what is read from them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from beit.data.sources import ImageSource

NAMES = [
    f"{part}/{name}/{number}.png"
    for part in ("train", "val")
    for name in ("cat", "9")
    for number in range(6)
]
"""Images in class folders, for training and validation."""


def tar(place: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(place, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(place)


def contents(source: ImageSource) -> list[tuple[str, int | None, bytes]]:
    records = [source.read(index) for index in range(len(source))]
    return [(record.key, record.target, record.data) for record in records]
