"""A sheet of images with words below them, in one PNG or SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from beit.atomic_io import write_file
from beit.claim import check_name
from beit.errors import ConfigError
from beit.report.markup import render
from beit.visualize import Rgb, as_png, png_uri

Colour = tuple[int, int, int]

FORMATS = (".png", ".svg")
GAP, MARGIN, LINE, LETTERS = 8, 16, 15, 12
HEADING, LEAD = 22, 13
NARROWEST = 420
EDGE = (214, 216, 214)
INK, SOFT, PAPER = (28, 30, 33), (98, 103, 110), (255, 255, 255)


class Cell(NamedTuple):
    """An image and the lines below it."""

    pixels: Rgb
    words: tuple[str, ...] = ()
    frame: Colour | None = None
    """Colour of a frame around it."""


class Sheet(NamedTuple):
    """Rows of cells below a heading and a sentence that says how to read them."""

    heading: str
    lead: str
    rows: Sequence[Sequence[Cell]]


class _Image(NamedTuple):
    x: int
    y: int
    pixels: Rgb
    frame: Colour | None

    @property
    def uri(self) -> str:
        return png_uri(self.pixels)


class _Word(NamedTuple):
    x: float
    y: float
    text: str
    size: int
    colour: Colour


class _Layout(NamedTuple):
    """Where everything lies, in pixels."""

    width: int
    height: int
    images: list[_Image]
    words: list[_Word]


def check_place(out: str | Path) -> Path:
    """The file to write. Raises ConfigError for another kind of file, or a folder."""
    place = Path(out)
    check_name(place)
    if place.suffix.lower() not in FORMATS or place.is_dir():
        raise ConfigError(
            f"{out} is not the name of an image that can be written",
            remedy=f"use a name that ends in {' or '.join(FORMATS)}",
        )
    return place


def _length(text: str, size: int) -> float:
    return float(ImageFont.load_default(size).getlength(text))


def fit(text: str, width: float) -> str:
    """The text; if too long, with an ellipsis in its middle, as both ends of a name matter."""
    if _length(text, LETTERS) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        half = (kept + 1) // 2
        shorter = f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - kept + half :]}"
        if _length(shorter, LETTERS) <= width:
            return shorter
    return text[:1]


def wrap(text: str, width: float, size: int) -> list[str]:
    """Break a text into lines.

    Args:
        text: The text.
        width: Largest width of a line in pixels, which only a longer word exceeds.
        size: Size of the letters in pixels.
    """
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _length(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _scaled(pixels: Rgb, side: int) -> np.ndarray:
    """The image with its longer side this long; a smaller one keeps sharp pixels."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    size = (max(1, round(width * side / longest)), max(1, round(height * side / longest)))
    how = Image.Resampling.NEAREST if longest < side else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize(size, how)).copy()


def _lay(sheet: Sheet, side: int) -> _Layout:
    columns = max(len(row) for row in sheet.rows)
    width = max(2 * MARGIN + columns * side + (columns - 1) * GAP, NARROWEST)
    images, words, y = [], [], float(MARGIN)
    for text, size, colour in ((sheet.heading, HEADING, INK), (sheet.lead, LEAD, SOFT)):
        for line in wrap(text, float(width - 2 * MARGIN), size):
            words.append(_Word(float(MARGIN), y, line, size, colour))
            y += size * 1.35
        y += 4
    for row in sheet.rows:
        y += GAP
        scaled = [_scaled(cell.pixels, side) for cell in row]
        tall = max(one.shape[0] for one in scaled)
        for column, (cell, pixels) in enumerate(zip(row, scaled, strict=True)):
            x = MARGIN + column * (side + GAP)
            images.append(_Image(x, round(y), pixels, cell.frame))
            for number, text in enumerate(cell.words):
                below = y + tall + 4 + number * LINE
                colour = INK if number == 0 else SOFT
                words.append(_Word(float(x), below, fit(text, float(side)), LETTERS, colour))
        y += tall + 4 + LINE * max(len(cell.words) for cell in row)
    return _Layout(width, round(y) + MARGIN, images, words)


def _as_png(layout: _Layout) -> bytes:
    canvas = Image.new("RGB", (layout.width, layout.height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for x, y, pixels, frame in layout.images:
        canvas.paste(Image.fromarray(pixels), (x, y))
        height, width = pixels.shape[:2]
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=EDGE)
        if frame is not None:
            draw.rectangle((x - 3, y - 3, x + width + 2, y + height + 2), outline=frame, width=3)
    for word in layout.words:
        font = ImageFont.load_default(word.size)
        draw.text((word.x, word.y), word.text, fill=word.colour, font=font)
    return as_png(np.asarray(canvas))


def write_sheet(sheet: Sheet, place: Path, *, side: int = 128) -> Path:
    """Write a sheet as PNG or SVG.

    Args:
        sheet: What to show.
        place: The file; its ending decides the format.
        side: Longer side of an image, in pixels.

    Raises:
        ConfigError: The name has another ending, or is that of a folder.
    """
    check_place(place)
    layout = _lay(sheet, side)
    if place.suffix.lower() == ".svg":
        data = render("sheet.svg.j2", layout=layout, paper=PAPER, edge=EDGE).encode()
    else:
        data = _as_png(layout)
    write_file(place, [data])
    return place
