"""Pages from templates: all that comes from outside is escaped, and numbers are easy to read."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from beit.terminal import counted, printable_lines
from beit.visualize import Rgb, data_uri

SHARP_UP_TO = 96
"""Images up to this side keep sharp pixels when a page enlarges them."""
UNKNOWN = "?"


class PageImage(NamedTuple):
    """An image of a page with its alternative text and its caption."""

    pixels: Rgb
    alt: str
    caption: str
    colours: int | None = None
    """Size of its palette, if a small one is enough; None: all colours."""

    @property
    def uri(self) -> str:
        """The image as a data URI, no larger than a page shows it."""
        return data_uri(self.pixels, self.colours)

    @property
    def is_small(self) -> bool:
        """Whether its pixels stay sharp."""
        return bool(max(self.pixels.shape[:2]) <= SHARP_UP_TO)


class LabelBar(NamedTuple):
    """A class with its probability, as an answer about one image lists it."""

    name: str
    probability: float
    threshold: float | None
    """The probability from which a multi-label model gives the class."""
    is_true: bool
    is_given: bool


class Example(NamedTuple):
    """One image: what a model is given, what it makes of it, and how good that is."""

    key: str
    given: tuple[PageImage, ...]
    made: tuple[PageImage, ...] = ()
    """The most telling one first."""
    words: str = ""
    score: float = 0.0
    labels: tuple[LabelBar, ...] = ()


class Finding(NamedTuple):
    """Something that a reader of the page should know first."""

    text: str
    is_warning: bool = False


class Section(NamedTuple):
    """A part of a page with a heading."""

    anchor: str
    title: str
    body: Markup
    finding: Finding | None = None
    """Its conclusion, for the top of the page."""


def number(value: float | None) -> str:
    """A number with four digits (three if it is tiny) and separated thousands."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 0.01 else f"{value:.3g}"


def percent(fraction: float | None) -> str:
    """A fraction in [0, 1] as a percentage."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.1f}%"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("beit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "counted": counted}
    return environment


def render(template: str, **values: object) -> Markup:
    """The text of a template.

    Values are escaped unless they are markup; invisible characters (terminal sequences, bidi marks,
    bytes that are not UTF-8) are written as escapes.
    """
    return Markup(printable_lines(_environment().get_template(template).render(values)))  # noqa: S704
