"""The sheets of `beit show`: which images a model finds alike, what patches have in common, where
heads look, and the codes of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from beit.batch import ImageBatch
from beit.claim import claim_output
from beit.data.augment import EvaluationView
from beit.data.sources import spread
from beit.errors import ConfigError, DataError
from beit.evaluation.features import extract_features, standardised
from beit.evaluation.metrics import in_float32
from beit.evaluation.neighbours import nearest_others
from beit.hardware import find_device
from beit.models.features import attention_maps
from beit.report.image_grid import Cell, Sheet, check_place, write_sheet
from beit.report.inputs import Inputs, Request, read_all, read_inputs
from beit.report.tokenizer import Encoded, encode, vocabulary
from beit.tokenizers.base import VisualTokenizer
from beit.visualize import RIGHT, WRONG, Grid, Rgb, heat, mark, per_pixel, to_rgb
from beit.weights.load import open_tokenizer, value_range_of

BATCH = 32
HIT: tuple[int, int, int] = (int(RIGHT[0]), int(RIGHT[1]), int(RIGHT[2]))
MISS: tuple[int, int, int] = (int(WRONG[0]), int(WRONG[1]), int(WRONG[2]))
COMPONENTS = 3
TAIL = 0.02
"""Fraction of the patches at either end that may be clipped to the range of colours."""
CLASS_TOKEN = "cls"  # noqa: S105 - no secret
CODES_A_ROW = 16


def show(sheet: Callable[[], Sheet], out: str, side: int) -> Path:
    """Make a sheet and write it; its place is claimed before the work begins.

    Args:
        sheet: Makes the sheet.
        out: File to write, .png or .svg.
        side: Longer side of an image in the sheet, in pixels.

    Raises:
        ConfigError: `out` is another kind of file.
        BeitError: As making the sheet raises.
    """
    with claim_output(check_place(out), replaces=True) as place:
        write_sheet(sheet(), place, side=side)
    return Path(out)


def _words(inputs: Inputs, index: int, first: str) -> tuple[str, ...]:
    label = inputs.labels[index]
    return (f"{first} · {label}" if label else first, inputs.keys[index].rsplit("/", 1)[-1])


def neighbours(request: Request, *, block: int | None, queries: int, neighbours: int) -> Sheet:
    """Images spread over the data, each with its nearest neighbours.

    Args:
        request: Model and images.
        block: Block whose features are compared, counted from 0; None: the last.
        queries: Number of images whose neighbours are shown.
        neighbours: Neighbours shown for each.

    Raises:
        ConfigError: A number is below 1, or as `read_inputs` raises.
        DataError: There is only one image, or as `read_inputs` raises.
        CheckpointError: As `read_inputs` raises.
    """
    if min(queries, neighbours) < 1:
        raise ConfigError(
            f"queries is {queries}, neighbours is {neighbours}", remedy="use 1 or more"
        )
    inputs = read_inputs(request)
    if len(inputs.keys) < 2:
        raise DataError(
            f"{request.data} holds a single image that can be read", remedy="give two or more"
        )
    config = inputs.backbone.config
    block = config.block(block)
    parts = (
        ImageBatch(inputs.images[start : start + BATCH], inputs.keys[start : start + BATCH])
        for start in range(0, len(inputs.keys), BATCH)
    )
    table = extract_features(inputs.backbone, parts, out_indices=(block,), device=inputs.device)
    chosen = spread(len(inputs.keys), queries)
    found = nearest_others(table.features[:, 0], torch.tensor(chosen), neighbours)
    rows = []
    for query, *nearest in zip(chosen, found.indices.tolist(), found.cosines.tolist(), strict=True):
        label = inputs.labels[query]
        row = [Cell(to_rgb(inputs.images[query]), _words(inputs, query, "query"))]
        for other, cosine in zip(*nearest, strict=True):
            frame = (HIT if inputs.labels[other] == label else MISS) if label else None
            words = _words(inputs, other, f"{cosine:.2f}")
            row.append(Cell(to_rgb(inputs.images[other]), words, frame))
        rows.append(row)
    lead = (
        f"On the left an image, beside it the nearest of {len(inputs.keys):,} others by the cosine "
        f"of their mean patch vectors after block {block} of {config.depth} (counted from 0; "
        "standardised)."
    )
    if any(inputs.labels):
        lead += " Teal frame: the same class, orange: another one."
    return Sheet("Nearest neighbours", lead, rows)


class Projected(NamedTuple):
    """Rows projected on principal components, and the fraction of the variance each explains."""

    places: Float[Tensor, "rows components"]
    fractions: Float[Tensor, " components"]


@in_float32
def principal_components(rows: Float[Tensor, "rows width"], number: int) -> Projected:
    """The rows, standardised, projected on their first `number` components, largest first.

    The sign of a component is arbitrary; here its largest weight is positive, so that the same rows
    always get the same colours.
    """
    scaled = standardised(rows.double(), rows.double())
    variances, axes = torch.linalg.eigh(scaled.t() @ scaled / len(scaled))
    axes = axes.flip(1)[:, :number]
    largest = axes.abs().argmax(dim=0)
    axes = axes * axes[largest, torch.arange(axes.shape[1])].sign()
    explained = variances.flip(0).clamp_min(0)
    return Projected((scaled @ axes).float(), (explained[:number] / explained.sum()).float())


def stretched(places: Float[Tensor, "rows components"]) -> Float[Tensor, "rows components"]:
    """Each component scaled to [0, 1]; its outermost rows are clipped."""
    ends = torch.quantile(places, torch.tensor([TAIL, 1 - TAIL]), dim=0)
    return ((places - ends[0]) / (ends[1] - ends[0]).clamp_min(1e-12)).clamp(0, 1)


def _coloured(values: Float[Tensor, "patches bands"], grid: Grid, like: Rgb) -> Rgb:
    """A colour per patch (a grey if there is one band), over the pixels of an image."""
    colours = (values.expand(-1, 3).numpy() * 255).round().astype(np.uint8)
    spread_out: Rgb = per_pixel(colours, grid, like.shape[:2])
    return spread_out


@torch.no_grad()
def components(request: Request, *, block: int | None) -> Sheet:
    """Images with the principal components of their patch vectors, together as colours and one by
    one as greys; raises as `read_inputs` does."""
    inputs = read_inputs(request)
    backbone, config = inputs.backbone, inputs.backbone.config
    block = config.block(block)
    patches = torch.cat([
        backbone(images, out_indices=(block,)).intermediates[0][:, 1:].float().cpu()
        for images in inputs.images.to(inputs.device).split(8)
    ])  # fmt: skip
    projected = principal_components(patches.flatten(0, 1), COMPONENTS)
    values = stretched(projected.places).unflatten(0, patches.shape[:2])
    rows = []
    for key, pixels, mine in zip(inputs.keys, inputs.images, values, strict=True):
        image = to_rgb(pixels)
        together = _coloured(mine, config.grid, image)
        rows.append([
            Cell(image, (key.rsplit("/", 1)[-1],)),
            Cell(together, ("three components",)),
            *(
                Cell(_coloured(mine[:, [band]], config.grid, image),
                     (f"component {band + 1}: {fraction:.0%}",))
                for band, fraction in enumerate(projected.fractions.tolist())
            ),
        ])  # fmt: skip
    lead = (
        f"Patch vectors after block {block} of {config.depth} (counted from 0) along their three "
        f"first principal components over these {len(rows)} images, as red, green and blue, and "
        "each as grey with its fraction of the variance. Patches of one colour are alike to the "
        "model."
    )
    return Sheet("Principal components of the patches", lead, rows)


def find_query(query: str, grid: Grid) -> int | None:
    """Index of the patch `ROW,COLUMN` or `centre` in row-major order; None for the class token.

    Raises:
        ConfigError: The query is anything else, or outside the grid.
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


def attention(request: Request, *, block: int | None, query: str) -> Sheet:
    """A row per image: the image with its query, the mean of the heads, every head.

    Args:
        request: Model and images.
        block: Block whose attention is shown, counted from 0; None: the last.
        query: Token whose attention is shown: see `find_query`.

    Raises:
        BeitError: As `read_inputs` and `find_query` raise.
    """
    inputs = read_inputs(request)
    config, grid = inputs.backbone.config, inputs.backbone.config.grid
    block, patch = config.block(block), find_query(query, grid)
    [weights] = attention_maps(inputs.backbone, inputs.images.to(inputs.device), [block])
    rows = []
    for key, pixels, of in zip(inputs.keys, inputs.images, weights, strict=True):
        image = to_rgb(pixels)
        maps = of[:, 0 if patch is None else 1 + patch, 1:]
        shown = {"mean": maps.mean(dim=0)} | {f"head {head}": one for head, one in enumerate(maps)}
        rows.append([
            Cell(image if patch is None else mark(image, patch, grid), (key.rsplit("/", 1)[-1],)),
            *(Cell(heat(image, one, grid), (name,)) for name, one in shown.items()),
        ])  # fmt: skip
    looks = "the class token looks"
    if patch is not None:
        row, column = divmod(patch, grid[1])
        looks = f"the framed patch (row {row}, column {column}) looks"
    lead = (
        f"Where {looks} in block {block} of {config.depth} (counted from 0), dark to bright, each "
        "map up to its own largest weight. Healthy: heads differ, and follow the content."
    )
    return Sheet("Attention of the heads", lead, rows)


@torch.no_grad()
def decoded_codes(tokenizer: VisualTokenizer, codes: Sequence[int]) -> list[Rgb]:
    """For each code, the middle patch of the decoded image that has this code everywhere."""
    device = next(tokenizer.parameters()).device
    height, width = tokenizer.grid
    stride = tokenizer.config.downsampling
    top, left = height // 2 * stride, width // 2 * stride
    found = []
    for some in torch.tensor(codes, device=device).split(BATCH):
        images = tokenizer.draw(some[:, None].expand(-1, height * width))
        found += [to_rgb(one) for one in images[:, :, top : top + stride, left : left + stride]]
    return found


def codebook(request: Request, *, most: int) -> Sheet:
    """The `most` most used codes, each with its mean patch and what it decodes to.

    Raises:
        ConfigError: `most` or the number of images is below 1.
        CheckpointError: The model is not a tokenizer.
        DataError: No image can be read.
    """
    if min(request.images, most) < 1:
        raise ConfigError(f"images is {request.images}, most is {most}", remedy="use 1 or more")
    device = find_device(request.device)
    tokenizer = open_tokenizer(request.model)
    tokenizer.to(device)
    stride, channels = tokenizer.config.downsampling, tokenizer.config.channels
    view = EvaluationView(tokenizer.size, 1.0, labelled=False)
    value_range = value_range_of(request.model)
    encoded: list[Encoded] = []
    for batch in read_all(request.source(), view, channels, value_range):
        encoded += encode(tokenizer, batch._replace(images=batch.images.to(device)))
    found = vocabulary(encoded, tokenizer.codes, stride)
    order, total = found.most_used(most), int(found.counts.sum())
    images = [to_rgb(found.means[code].reshape(channels, stride, stride)) for code in order]
    shown_as = "Image: the mean of the patches with this code."
    if tokenizer.can_decode:
        halves = zip(images, decoded_codes(tokenizer, order), strict=True)
        images = [np.concatenate(pair, axis=1) for pair in halves]
        shown_as = "Left: the mean of the patches with this code; right: what it decodes to."
    cells = [
        Cell(image, (f"{code}", f"{part:.1%}" if part >= 0.001 else "<0.1%"))
        for code, image in zip(order, images, strict=True)
        for part in [int(found.counts[code]) / total]
    ]
    shown = f"the {len(order):,} most used" if len(order) < found.used else "all of them"
    lead = (
        f"{found.used:,} of {tokenizer.codes:,} codes occur in {len(encoded):,} images ({total:,} "
        f"tokens); they carry as much information as {found.perplexity:,.1f} evenly used ones. "
        f"Here are {shown}, each with its number and its fraction of the tokens. {shown_as}"
    )
    rows = [cells[start : start + CODES_A_ROW] for start in range(0, len(cells), CODES_A_ROW)]
    return Sheet("Codebook", lead, rows)
