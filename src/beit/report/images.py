"""An image in the page, with its caption."""

from __future__ import annotations

from beit.data.visualize import Rgb, data_uri
from beit.report.markup import Content, Markup, element, figure

PIXELATED_UP_TO = 96


def show(pixels: Rgb, alt: str, caption: Content = "", colours: int | None = None) -> Markup:
    """An image with its caption; small ones keep their pixels sharp when they are enlarged."""
    kind = "sharp" if max(pixels.shape[:2]) <= PIXELATED_UP_TO else "soft"
    attributes = {"src": data_uri(pixels, colours), "alt": alt, "class": kind, "loading": "lazy"}
    return figure(element("img", "", attributes), caption or alt, "image")
