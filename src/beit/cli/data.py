"""The verb that prepares images: data pack, data check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import tyro

from beit.cli.options import LabelFile
from beit.config.data import BY_HEADINGS, FolderConfig, Reading
from beit.terminal import print_lines

Data = Annotated[str, tyro.conf.Positional]


def check(
    data: Data,
    format: Literal["table", "json"] = "table",  # noqa: A002 (the name of the option)
    channels: int = 3,
    few: int = 10,
    class_level: int | None = None,
    label_file: LabelFile = BY_HEADINGS,
    value_range: tuple[float, float] | None = None,
) -> None:
    """Read every image: which cannot be read, are there twice, in two classes or parts, or odd?

    The exit code is 3 if one cannot be read.

    Args:
        data: A folder, a list, tar shards, hf:NAME, as for every other verb.
        format: A table for people, or JSON with every finding.
        channels: How many channels the images will be read with.
        value_range: The values that will be black and white in images of more than 8 bits.
        few: Name the classes that have fewer images for training.
        class_level: Which folders are the classes: 1 those at the top, 2 those inside of them.
        label_file: How a label file is read, where its headings do not say it.
    """
    from beit.data.check import check as look_through
    from beit.data.check import must_be_readable, print_json, print_table

    found = look_through(
        data,
        channels=channels,
        few=few,
        reading=Reading(FolderConfig(class_level=class_level), label_file),
        value_range=value_range,
    )
    (print_json if format == "json" else print_table)(found)
    must_be_readable(found)


def pack(
    data: Data,
    out: Annotated[str, tyro.conf.Positional],
    shard_size: int = 500,
    label_file: LabelFile = BY_HEADINGS,
) -> None:
    """Write images as tar shards in the layout of WebDataset, each with an index.

    The same command goes on with what was stopped.

    Args:
        data: A folder with or without classes, a list, hf:NAME.
        out: Folder to write: name it to the other verbs as --data.
        shard_size: Megabytes at which a shard is closed.
        label_file: How a label file is read, where its headings do not say it.
    """
    from beit.data.account import numbered
    from beit.data.pack import pack as write

    done = write(data, out, shard_size=shard_size, reading=Reading(label_file=label_file))
    written = f"{numbered(done.images, 'image')} in {numbered(done.shards, 'shard')}"
    print_lines(f"{written}: {done.folder}")


DATA: Mapping[str, Callable[..., None]] = {"check": check, "pack": pack}
