"""Which images a backbone finds alike: some images, each with its nearest neighbours."""

from __future__ import annotations

from pathlib import Path

import torch

from beit.batch import ImageBatch
from beit.claim import claim_output
from beit.config.data import BY_HEADINGS, LabelFileConfig
from beit.data.sources import spread
from beit.data.visualize import RIGHT, WRONG, to_rgb
from beit.errors import ConfigError, DataError
from beit.evaluation.features import extract_features
from beit.evaluation.neighbours import nearest_others
from beit.report.image_grid import Cell, Sheet, check_place, write_sheet
from beit.report.inputs import Looking, look_at

BATCH = 32
HIT: tuple[int, int, int] = (int(RIGHT[0]), int(RIGHT[1]), int(RIGHT[2]))
MISS: tuple[int, int, int] = (int(WRONG[0]), int(WRONG[1]), int(WRONG[2]))


def retrieve(looking: Looking, *, block: int, queries: int, neighbours: int) -> Sheet:
    """Images spread over the data, each with those nearest to it after a block."""
    parts = zip(looking.images.split(BATCH), _parts(looking.keys), strict=True)
    table = extract_features(
        looking.backbone,
        (ImageBatch(images, keys) for images, keys in parts),
        out_indices=(block,),
        device=looking.device,
    )
    asked = spread(len(looking.keys), queries)
    found = nearest_others(table.features[:, 0], torch.tensor(asked), neighbours)
    rows = []
    for index, others, cosines in zip(
        asked, found.indices.tolist(), found.cosines.tolist(), strict=True
    ):
        mine = looking.labels[index]
        row = [Cell(to_rgb(looking.images[index]), _words(looking, index, "query"))]
        for other, cosine in zip(others, cosines, strict=True):
            frame = (HIT if looking.labels[other] == mine else MISS) if mine else None
            image = to_rgb(looking.images[other])
            row.append(Cell(image, _words(looking, other, f"{cosine:.2f}"), frame))
        rows.append(row)
    lead = (
        f"On the left an image, beside it the nearest of {len(looking.keys):,} others by the "
        f"cosine of their mean patch vectors after block {block} of {looking.backbone.config.depth}"
        " (counted from 0; standardised)."
    )
    if any(looking.labels):
        lead += " Teal frame: the same class, orange: another one."
    return Sheet("Nearest neighbours", lead, rows)


def _parts(keys: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]


def _words(looking: Looking, index: int, first: str) -> tuple[str, ...]:
    label = looking.labels[index]
    return (f"{first} · {label}" if label else first, looking.keys[index].rsplit("/", 1)[-1])


def show_neighbours(
    reference: str,
    data: str,
    out: str,
    *,
    block: int | None,
    images: int,
    queries: int,
    neighbours: int,
    side: int,
    device: str,
    label_file: LabelFileConfig = BY_HEADINGS,
) -> Path:
    """Write the sheet. Errors: as for `look_at`, and DataError for a single image."""
    with claim_output(check_place(out), replaces=True) as place:
        if min(queries, neighbours) < 1:
            raise ConfigError(
                f"queries is {queries}, neighbours is {neighbours}", remedy="use 1 or more"
            )
        looking = look_at(reference, data, images=images, device=device, label_file=label_file)
        if len(looking.keys) < 2:
            raise DataError(
                f"{data} holds a single image that can be read", remedy="give two or more"
            )
        chosen = looking.backbone.config.block(block)
        sheet = retrieve(looking, block=chosen, queries=queries, neighbours=neighbours)
        write_sheet(sheet, place, side=side)
    return Path(out)
