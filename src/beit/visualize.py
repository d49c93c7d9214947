"""Tensors to images: PNG data URIs, label maps, overlays, maps of tokens and of attention."""

from __future__ import annotations

import base64
import colorsys
import functools
import io

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from beit.config.segment_run import IGNORE

Grid = tuple[int, int]
Rgb = UInt8[np.ndarray, "height width 3"]

MOST_PIXELS = 128
"""Longest side of an image on a page, in pixels; larger images are shrunk."""
HIDDEN = np.array([128, 128, 140], np.uint8)
RIGHT, WRONG = np.array([38, 166, 154], np.uint8), np.array([239, 108, 0], np.uint8)
HEAT = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]])
"""Five colours of the colour map magma, dark to bright."""


def to_rgb(image: UInt8[Tensor, "channels height width"] | Float[Tensor, "channels height width"]
) -> Rgb:  # fmt: skip
    """uint8 or [0, 1] pixels as RGB: grey is repeated, two channels get an empty third one, and of
    more than three the first three are taken."""
    if image.dtype != torch.uint8:
        image = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    image = image.cpu()
    if image.shape[0] == 2:
        image = torch.cat([image, torch.zeros_like(image[:1])])
    return image[:3].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def as_png(pixels: Rgb, colours: int | None = None) -> bytes:
    """The image as a PNG file; with a palette of `colours` colours if given."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return _encoded(image.quantize(colours) if colours else image)


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def png_uri(pixels: Rgb, colours: int | None = None) -> str:
    """The image as the data URI of its PNG; `colours` is as for `as_png`."""
    return "data:image/png;base64," + base64.b64encode(as_png(pixels, colours)).decode("ascii")


def data_uri(pixels: Rgb, colours: int | None = None) -> str:
    """Like `png_uri`, of the image shrunk to the size that a page shows."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    longest = max(image.size)
    if longest > MOST_PIXELS:
        size = tuple(max(round(side * MOST_PIXELS / longest), 1) for side in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return png_uri(np.asarray(image), colours)


def per_pixel(values: np.ndarray, grid: Grid, size: tuple[int, int]) -> np.ndarray:
    """Spread one value or colour per patch over the pixels of its patch, [H, W, ...].

    Args:
        values: Of each patch, [N, ...].
        grid: Rows and columns of patches.
        size: Height and width of the result in pixels.
    """
    laid = values.reshape(*grid, *values.shape[1:])
    rows, columns = (
        np.arange(side) * cells // side for side, cells in zip(size, grid, strict=True)
    )
    spread: np.ndarray = laid[rows][:, columns]
    return spread


def hide(image: Rgb, mask: Bool[Tensor, " patches"], grid: Grid) -> Rgb:
    """The image with its hidden patches in grey.

    Args:
        image: What is shown.
        mask: True where a patch is hidden.
        grid: Rows and columns of patches.
    """
    hidden = per_pixel(mask.cpu().numpy(), grid, image.shape[:2])
    covered: Rgb = np.where(hidden[..., None], HIDDEN, image)
    return covered


def judge(
    image: Rgb, masked: Bool[Tensor, " patches"], right: Bool[Tensor, " patches"], grid: Grid
) -> Rgb:
    """Where the predictions were right (teal) and wrong (orange), over a pale grey image.

    Args:
        image: What is shown.
        masked: Patches that were predicted; only these are coloured.
        right: Patches whose prediction is right.
        grid: Rows and columns of patches.
    """
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.6 + 90
    colours = np.where(right.cpu().numpy()[:, None], RIGHT, WRONG)
    colour = per_pixel(colours, grid, image.shape[:2])
    tinted = per_pixel(masked.cpu().numpy(), grid, image.shape[:2])[..., None]
    mixed = np.where(tinted, 0.3 * grey + 0.7 * colour, grey)
    tinted_image: Rgb = mixed.clip(0, 255).astype(np.uint8)
    return tinted_image


@functools.lru_cache(maxsize=8)
def code_colours(codes: int) -> np.ndarray:
    """A colour per code, uint8 [K, 3]: hues a golden angle apart, so that neighbours differ."""
    colours = [
        colorsys.hsv_to_rgb(code * 0.618034 % 1, 0.45 + 0.2 * (code % 3), 0.95 - 0.1 * (code % 4))
        for code in range(codes)
    ]
    table: np.ndarray = (np.array(colours) * 255).round().astype(np.uint8)
    return table


def token_map(tokens: Int64[Tensor, " patches"], grid: Grid, codes: int) -> Rgb:
    """The tokens as a grid of colours, one pixel per token.

    Args:
        tokens: Code of each patch, row by row.
        grid: Rows and columns of tokens.
        codes: Size K of the vocabulary.
    """
    laid: Rgb = code_colours(codes)[tokens.cpu().numpy()].reshape(*grid, 3)
    return laid


def heat(image: Rgb, weights: Float[Tensor, " patches"], grid: Grid) -> Rgb:
    """Weights of patches over the image in grey: dark for none, bright for the largest.

    Args:
        image: What is shown.
        weights: Not negative; they are divided by the largest.
        grid: Rows and columns of patches.
    """
    values = weights.float().cpu().numpy()
    scaled = values / max(float(values.max()), 1e-12)
    places = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(scaled, places, HEAT[:, band]) for band in range(3)], axis=1)
    grey = image.mean(axis=2, keepdims=True)
    laid = per_pixel(colours, grid, image.shape[:2])
    glowing: Rgb = (0.25 * grey + 0.75 * laid).clip(0, 255).astype(np.uint8)
    return glowing


def mark(image: Rgb, patch: int, grid: Grid) -> Rgb:
    """The image with one patch in a white frame with a black edge.

    Args:
        image: What is shown; it is not changed.
        patch: Index of the patch, row by row.
        grid: Rows and columns of patches.
    """
    marked = image.copy()
    height, width = image.shape[:2]
    row, column = divmod(patch, grid[1])
    top, bottom = row * height // grid[0], (row + 1) * height // grid[0]
    left, right = column * width // grid[1], (column + 1) * width // grid[1]
    for reach, colour in ((1, 0), (0, 255)):
        for y in (max(top - reach, 0), min(bottom - 1 + reach, height - 1)):
            marked[y, max(left - reach, 0) : right + reach] = colour
        for x in (max(left - reach, 0), min(right - 1 + reach, width - 1)):
            marked[max(top - reach, 0) : bottom + reach, x] = colour
    return marked


def _palette() -> UInt8[np.ndarray, "256 3"]:
    """Pascal VOC's colours: the bits of a label in turn to red, green and blue, highest first."""
    labels = np.arange(256, dtype=np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= (labels >> bit & 1) << (7 - bit // 3)
    return colours


PALETTE = _palette()


def label_map_png(labels: UInt8[np.ndarray, "height width"]) -> bytes:
    """Labels as indexed PNG: the values are the labels, the palette is for viewing."""
    image = Image.fromarray(labels)
    image.putpalette(PALETTE.tobytes())
    return _encoded(image)


def overlay_labels(image: Rgb, labels: UInt8[np.ndarray, "height width"]) -> Rgb:
    """The image half covered by the colours of its labels; ignored pixels stay as they are."""
    mixed = (image.astype(np.uint16) + PALETTE[labels]) // 2
    covered: Rgb = np.where((labels == IGNORE)[..., None], image, mixed).astype(np.uint8)
    return covered
