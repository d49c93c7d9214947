"""The object scenes in memory, and random views of whole batches."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from beit.objectives.second_view import NUMBERS, second_view
from beit.studies.scenes import make_scenes

SIDE, SIZE = 80, 64
"""Pixels of a scene, and of what a backbone is given."""
SPLITS = ("train", "val", "test")


class Labelled(NamedTuple):
    """Scenes of one object each and its class."""

    images: Tensor
    """uint8 [images, 3, 80, 80]."""
    targets: Tensor

    def few(self, per_class: int, seed: int) -> Labelled:
        """So many of each class, chosen by a seed."""
        order = torch.randperm(len(self.targets), generator=torch.Generator().manual_seed(seed))
        chosen = [
            order[self.targets[order] == label][:per_class] for label in self.targets.unique()
        ]
        rows = torch.cat(chosen)
        return Labelled(self.images[rows], self.targets[rows])


def prepare(folder: Path, *, quick: bool) -> None:
    """Write the scenes, unless they are there; for a quick look noise, which takes no time."""
    if not quick:
        make_scenes(folder, side=SIDE)
        return
    chance = np.random.default_rng(0)
    places = [folder / "unlabelled"] * 24
    places += [folder / "labelled" / split / name for split in SPLITS for name in "abcd" * 2]
    for number, place in enumerate(places):
        place.mkdir(parents=True, exist_ok=True)
        noise = chance.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / f"{number}.png")


def unlabelled(folder: Path) -> Tensor:
    """All scenes without labels, uint8 [images, 3, 80, 80]."""
    return _read(sorted((folder / "unlabelled").glob("*.png")))


def labelled(folder: Path) -> dict[str, Labelled]:
    """The labelled scenes of each split."""
    found = {}
    for split in SPLITS:
        paths = sorted((folder / "labelled" / split).glob("*/*.png"))
        classes = sorted({path.parent.name for path in paths})
        targets = torch.tensor([classes.index(path.parent.name) for path in paths])
        found[split] = Labelled(_read(paths), targets)
    return found


def _read(paths: list[Path]) -> Tensor:
    images = []
    for path in paths:
        with Image.open(path) as opened:
            images.append(np.asarray(opened.convert("RGB")))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def centre(images: Tensor) -> Tensor:
    """The middle 64 x 64 pixels, in [0, 1]."""
    edge = (SIDE - SIZE) // 2
    return images[..., edge : edge + SIZE, edge : edge + SIZE].float() / 255


def crops(images: Tensor, chance: torch.Generator) -> Tensor:
    """A crop of 64 x 64 pixels of each, never resampled, half of them mirrored; in [0, 1]."""
    places = torch.randint(SIDE - SIZE + 1, (2, len(images)), generator=chance)
    rows, columns = (place[:, None] + torch.arange(SIZE) for place in places)
    mirrored = torch.rand(len(images), 1, generator=chance) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    every = torch.arange(len(images))[:, None, None]
    cut = images.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).float() / 255


def views(
    images: Tensor,
    chance: torch.Generator,
    *,
    scale: tuple[float, float],
    size: int = SIZE,
) -> Tensor:
    """The views of the contrastive methods, one per image, in [0, 1]."""
    numbers = torch.rand(len(images), NUMBERS, generator=chance)
    return second_view(images, numbers, crop=scale, jitter=0.4, size=(size, size))
