"""Where chosen patches look: the attention weights inside a backbone."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, UInt8
from torch import Tensor

from beit.data.visualize import Rgb, heat, mark, to_rgb
from beit.models.features import attention_maps
from beit.models.vit import VisionTransformer
from beit.report.images import show
from beit.report.markup import Markup, Section, block, element, join

SINGLE_HEADS = 3
QUERIES = ((0.3, 0.3), (0.5, 0.7), (0.8, 0.45))
"""Places of the query patches, as shares of height and width."""


def queries(grid: tuple[int, int]) -> list[int]:
    """The patches whose attention is shown."""
    places = [(int(row * grid[0]), int(column * grid[1])) for row, column in QUERIES]
    return list(dict.fromkeys(row * grid[1] + column for row, column in places))


def _row(
    image: Rgb,
    maps: Sequence[Float[Tensor, "heads tokens tokens"]],
    blocks: Sequence[int],
    patch: int,
    grid: tuple[int, int],
) -> Markup:
    """The image with one query patch, and where that patch looks."""
    cells = [show(mark(image, patch, grid), "Image, query patch framed", "query")]
    for index, weights in zip(blocks, maps, strict=True):
        mean = weights[:, 1 + patch, 1:].mean(dim=0)
        shown = heat(image, mean, grid)
        cells.append(
            show(shown, f"Attention in block {index}, mean of heads", f"block {index}", 64)
        )
    last = maps[-1][:, 1 + patch, 1:]
    for head in range(min(SINGLE_HEADS, len(last))):
        name = f"head {head}"
        cells.append(show(heat(image, last[head], grid), f"Attention of {name}", name, 64))
    return block("strip", cells)


def attention_section(
    backbone: VisionTransformer, images: UInt8[Tensor, "batch channels height width"]
) -> Section:
    """Attention of a few patches of a few images, from a middle block and the last."""
    config = backbone.config
    blocks = sorted({config.depth // 2, config.depth - 1})
    maps = attention_maps(backbone, images, blocks)
    rows = [
        _row(to_rgb(images[index]), [each[index] for each in maps], blocks, patch, config.grid)
        for index in range(len(images))
        for patch in queries(config.grid)
    ]
    lead = (
        "Where the framed patch looks, dark to bright, without a mask: the mean over the heads of "
        "a middle and of the last block (blocks count from 0), then single heads of block "
        f"{blocks[-1]}."
    )
    explanation = element(
        "p",
        "Healthy: bright places follow the content (the same river, coast or organ), and heads "
        "differ. The same pattern whatever the query and the image is position, not content: "
        "train longer or on more images.",
        {"class": "explain"},
    )
    return Section("attention", "Attention", lead, join([explanation, *rows]))
