"""A sheet of images with words below them, as one PNG or SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from beit.atomic_io import write_file
from beit.claim import check_name
from beit.data.visualize import Rgb, as_png, png_uri
from beit.errors import ConfigError
from beit.report.markup import Attributes, Markup, element

FORMATS = (".png", ".svg")
GAP, MARGIN, LINE, LETTERS = 8, 16, 15, 12
HEADING, LEAD = 22, 13
EDGE = (214, 216, 214)
INK, SOFT, PAPER = (28, 30, 33), (98, 103, 110), (255, 255, 255)
FONT = "ui-sans-serif, system-ui, sans-serif"


class Cell(NamedTuple):
    """An image and the lines below it."""

    pixels: Rgb
    words: tuple[str, ...] = ()
    frame: tuple[int, int, int] | None = None
    """Colour of a frame around it."""


class Sheet(NamedTuple):
    """Rows of cells below a heading and a sentence that says how to read them."""

    heading: str
    lead: str
    rows: Sequence[Sequence[Cell]]


class _Word(NamedTuple):
    x: float
    y: float
    text: str
    size: int
    colour: tuple[int, int, int]


class _Laid(NamedTuple):
    """Where everything lies, in pixels."""

    width: int
    height: int
    images: list[tuple[int, int, Rgb, tuple[int, int, int] | None]]
    words: list[_Word]


def check_place(out: str | Path) -> Path:
    """The file to write. Errors: ConfigError for another kind of file, or a folder."""
    place = Path(out)
    check_name(place)
    if place.suffix.lower() not in FORMATS or place.is_dir():
        raise ConfigError(
            f"{out} is no name of an image that can be written",
            remedy=f"use a name that ends in {' or '.join(FORMATS)}",
        )
    return place


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _length(text: str, size: int) -> float:
    return float(_font(size).getlength(text))


def fit(text: str, width: float, size: int = LETTERS) -> str:
    """The text, with its middle as an ellipsis where it is too long: both ends of a name tell."""
    if _length(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        half = (kept + 1) // 2
        shorter = f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - kept + half :]}"
        if _length(shorter, size) <= width:
            return shorter
    return text[:1]


def wrap(text: str, width: float, size: int) -> list[str]:
    """The text in lines of at most this width, where no single word is longer."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _length(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _scaled(pixels: Rgb, side: int) -> UInt8[np.ndarray, "tall wide 3"]:
    """The image with its longer side this long; small ones keep sharp pixels."""
    height, width = pixels.shape[:2]
    size = (max(1, round(width * side / max(height, width))),
            max(1, round(height * side / max(height, width))))  # fmt: skip
    how = Image.Resampling.NEAREST if max(height, width) < side else Image.Resampling.LANCZOS
    scaled: np.ndarray = np.asarray(Image.fromarray(pixels).resize(size, how)).copy()
    return scaled


def _lay(sheet: Sheet, side: int) -> _Laid:
    columns = max(len(row) for row in sheet.rows)
    width = max(2 * MARGIN + columns * side + (columns - 1) * GAP, 420)
    inner = float(width - 2 * MARGIN)
    images, words, y = [], [], float(MARGIN)
    for text, size, colour in ((sheet.heading, HEADING, INK), (sheet.lead, LEAD, SOFT)):
        for line in wrap(text, inner, size):
            words.append(_Word(float(MARGIN), y, line, size, colour))
            y += size * 1.35
        y += 4
    for row in sheet.rows:
        y += GAP
        scaled = [_scaled(cell.pixels, side) for cell in row]
        tall = max(one.shape[0] for one in scaled)
        for column, (cell, pixels) in enumerate(zip(row, scaled, strict=True)):
            x = MARGIN + column * (side + GAP)
            images.append((x, round(y), pixels, cell.frame))
            for number, text in enumerate(cell.words):
                below = y + tall + 4 + number * LINE
                colour = INK if number == 0 else SOFT
                words.append(_Word(float(x), below, fit(text, float(side)), LETTERS, colour))
        y += tall + 4 + LINE * max(len(cell.words) for cell in row)
    return _Laid(width, round(y) + MARGIN, images, words)


def _as_image(laid: _Laid) -> bytes:
    canvas = Image.new("RGB", (laid.width, laid.height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for x, y, pixels, frame in laid.images:
        canvas.paste(Image.fromarray(pixels), (x, y))
        height, width = pixels.shape[:2]
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=EDGE)
        if frame is not None:
            draw.rectangle((x - 3, y - 3, x + width + 2, y + height + 2), outline=frame, width=3)
    for word in laid.words:
        draw.text((word.x, word.y), word.text, fill=word.colour, font=_font(word.size))
    return as_png(np.asarray(canvas))


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _as_vectors(laid: _Laid) -> bytes:
    """Words and frames as vectors, the images as they are."""
    parts: list[Markup] = [
        element("rect", "", {"width": laid.width, "height": laid.height, "fill": _hex(PAPER)})
    ]
    box: Attributes
    place: Attributes
    for x, y, pixels, frame in laid.images:
        height, width = pixels.shape[:2]
        box = {"x": x, "y": y, "width": width, "height": height}
        parts.append(element("image", "", {**box, "href": png_uri(pixels)}))
        thick = 1 if frame is None else 3
        parts.append(
            element("rect", "", {
                "x": x - thick / 2, "y": y - thick / 2,
                "width": width + thick, "height": height + thick,
                "fill": "none", "stroke": _hex(frame or EDGE), "stroke-width": thick,
            })
        )  # fmt: skip
    for word in laid.words:
        place = {"x": word.x, "y": round(word.y + 0.85 * word.size, 1),
                 "font-size": word.size, "fill": _hex(word.colour)}  # fmt: skip
        parts.append(element("text", word.text, place))
    svg = element("svg", parts, {
        "xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {laid.width} {laid.height}",
        "width": laid.width, "height": laid.height, "font-family": FONT,
    })  # fmt: skip
    return svg.encode()


def write_sheet(sheet: Sheet, place: Path, *, side: int = 128) -> Path:
    """Write a sheet whose images are this long; the ending of the name says how.

    Errors: ConfigError for another ending.
    """
    check_place(place)
    laid = _lay(sheet, side)
    data = _as_vectors(laid) if place.suffix.lower() == ".svg" else _as_image(laid)
    write_file(place, [data])
    return place
