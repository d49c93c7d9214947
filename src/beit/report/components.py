"""What patches have in common: the first principal components of their vectors, as colours."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from beit.claim import claim_output
from beit.config.data import BY_HEADINGS, LabelFileConfig
from beit.data.visualize import Grid, Rgb, per_pixel, to_rgb
from beit.evaluation.features import standardised
from beit.evaluation.metrics import in_float32
from beit.report.image_grid import Cell, Sheet, check_place, write_sheet
from beit.report.inputs import Looking, look_at

COMPONENTS = 3
TAIL = 0.02
"""Share of the patches at either end that may leave the range of colours."""


class Projected(NamedTuple):
    """Rows along the principal components, and the share of the variance each explains."""

    places: Float[Tensor, "rows components"]
    shares: Float[Tensor, " components"]


@in_float32
def principal_components(rows: Float[Tensor, "rows width"], number: int) -> Projected:
    """The rows, standardised, along their first components, largest first.

    The sign of a component is arbitrary; here its largest weight is positive, so that the same rows
    always get the same colours.
    """
    scaled = standardised(rows.double(), rows.double())
    variances, axes = torch.linalg.eigh(scaled.t() @ scaled / len(scaled))
    axes = axes.flip(1)[:, :number]
    largest = axes.abs().argmax(dim=0)
    axes = axes * axes[largest, torch.arange(axes.shape[1])].sign()
    shares = variances.flip(0).clamp_min(0)
    return Projected((scaled @ axes).float(), (shares[:number] / shares.sum()).float())


def as_shares(places: Float[Tensor, "rows components"]) -> Float[Tensor, "rows components"]:
    """Each component stretched to [0, 1], up to its outermost rows."""
    ends = torch.quantile(places, torch.tensor([TAIL, 1 - TAIL]), dim=0)
    return ((places - ends[0]) / (ends[1] - ends[0]).clamp_min(1e-12)).clamp(0, 1)


@torch.no_grad()
def _patches(looking: Looking, block: int) -> Float[Tensor, "images patches width"]:
    found = [
        looking.backbone(images.to(looking.device), out_indices=(block,))
        .intermediates[0][:, 1:]
        .float()
        .cpu()
        for images in looking.images.split(8)
    ]
    return torch.cat(found)


def _painted(
    shares: Float[Tensor, "patches bands"], grid: Grid, like: Rgb
) -> Rgb:  # fmt: skip
    """A colour per patch, or a grey where there is one band, over the pixels of an image."""
    colours = (shares.expand(-1, 3).numpy() * 255).round().astype(np.uint8)
    spread: Rgb = per_pixel(colours, grid, like.shape[:2])
    return spread


def components(looking: Looking, *, block: int) -> Sheet:
    """Images with their components together as colours and one by one as greys."""
    patches = _patches(looking, block)
    projected = principal_components(patches.flatten(0, 1), COMPONENTS)
    shares = as_shares(projected.places).unflatten(0, patches.shape[:2])
    grid = looking.backbone.config.grid
    rows = []
    for index, key in enumerate(looking.keys):
        image, mine = to_rgb(looking.images[index]), shares[index]
        row = [Cell(image, (key.rsplit("/", 1)[-1],))]
        row.append(Cell(_painted(mine, grid, image), ("three components",)))
        row += [
            Cell(_painted(mine[:, [band]], grid, image), (f"component {band + 1}: {share:.0%}",))
            for band, share in enumerate(projected.shares.tolist())
        ]
        rows.append(row)
    lead = (
        f"Patch vectors after block {block} of {looking.backbone.config.depth} (counted from 0) "
        f"along their three first principal components over these {len(rows)} images, as red, "
        "green and blue, and each as grey with its share of the variance. Patches of one colour "
        "are alike to the model."
    )
    return Sheet("Principal components of the patches", lead, rows)


def show_components(
    reference: str,
    data: str,
    out: str,
    *,
    block: int | None,
    images: int,
    side: int,
    device: str,
    label_file: LabelFileConfig = BY_HEADINGS,
) -> Path:
    """Write the sheet. Errors: as for `look_at`."""
    with claim_output(check_place(out), replaces=True) as place:
        looking = look_at(reference, data, images=images, device=device, label_file=label_file)
        chosen = looking.backbone.config.block(block)
        write_sheet(components(looking, block=chosen), place, side=side)
    return Path(out)
