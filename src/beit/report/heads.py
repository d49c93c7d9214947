"""Where the heads of a block look, one by one, from a patch or from the class token."""

from __future__ import annotations

from pathlib import Path

from beit.claim import claim_output
from beit.config.data import BY_HEADINGS, LabelFileConfig
from beit.data.visualize import Grid, heat, mark, to_rgb
from beit.errors import ConfigError
from beit.models.features import attention_maps
from beit.report.image_grid import Cell, Sheet, check_place, write_sheet
from beit.report.inputs import Looking, look_at

CLASS_TOKEN = "cls"  # noqa: S105 - no secret


def find_query(query: str, grid: Grid) -> int | None:
    """The patch of `ROW,COLUMN` in row-major order, None for the class token.

    Errors: ConfigError for anything else, or a place outside the grid.
    """
    if query == CLASS_TOKEN:
        return None
    if query == "centre":
        return grid[0] // 2 * grid[1] + grid[1] // 2
    row, _, column = query.partition(",")
    if row.isdecimal() and column.isdecimal() and int(row) < grid[0] and int(column) < grid[1]:
        return int(row) * grid[1] + int(column)
    raise ConfigError(
        f"query is '{query}'",
        remedy=f"use cls, centre, or ROW,COLUMN below {grid[0]},{grid[1]}",
    )


def heads(looking: Looking, *, block: int, patch: int | None) -> Sheet:
    """A row per image: the image with its query, the mean of the heads, every head."""
    config = looking.backbone.config
    [weights] = attention_maps(looking.backbone, looking.images.to(looking.device), [block])
    rows = []
    for index, key in enumerate(looking.keys):
        image = to_rgb(looking.images[index])
        maps = weights[index, :, 0 if patch is None else 1 + patch, 1:]
        framed = image if patch is None else mark(image, patch, config.grid)
        row = [Cell(framed, (key.rsplit("/", 1)[-1],))]
        row.append(Cell(heat(image, maps.mean(dim=0), config.grid), ("mean",)))
        row += [
            Cell(heat(image, one, config.grid), (f"head {number}",))
            for number, one in enumerate(maps)
        ]
        rows.append(row)
    place = "the class token looks"
    if patch is not None:
        place = f"the framed patch (row {patch // config.grid[1]}, column "
        place += f"{patch % config.grid[1]}) looks"
    lead = (
        f"Where {place} in block {block} of {config.depth} (counted from 0), dark to bright, each "
        "map up to its own largest weight. Healthy: heads differ, and follow the content."
    )
    return Sheet("Attention of the heads", lead, rows)


def show_attention(
    reference: str,
    data: str,
    out: str,
    *,
    block: int | None,
    query: str,
    images: int,
    side: int,
    device: str,
    label_file: LabelFileConfig = BY_HEADINGS,
) -> Path:
    """Write the sheet. Errors: as for `look_at` and `find_query`."""
    with claim_output(check_place(out), replaces=True) as place:
        looking = look_at(reference, data, images=images, device=device, label_file=label_file)
        config = looking.backbone.config
        patch = find_query(query, config.grid)
        write_sheet(heads(looking, block=config.block(block), patch=patch), place, side=side)
    return Path(out)
