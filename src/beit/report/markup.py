"""HTML and SVG from Python values: whatever is not markup already is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from beit.terminal import printable_lines

VOID = {"img", "meta"}


class Markup(str):
    """Text that is markup already and goes into a page as it is."""

    __slots__ = ()


Content = str | Sequence[str]
Attributes = Mapping[str, str | int | float]


class Section(NamedTuple):
    """A part of the page with a heading, one sentence below it, and what it shows."""

    anchor: str
    title: str
    lead: str
    body: Markup


def escape(text: str) -> Markup:
    """Text as markup; markup stays as it is. What does not show itself is written as an escape."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(printable_lines(text)))


def join(parts: Content) -> Markup:
    """Several parts, each escaped unless it is markup, one after the other."""
    return escape(parts) if isinstance(parts, str) else Markup("".join(map(escape, parts)))


def element(name: str, content: Content = "", attributes: Attributes | None = None) -> Markup:
    """An element with its attributes and its content."""
    listed = "".join(
        f' {key}="{escape(str(value) if not isinstance(value, str) else value)}"'
        for key, value in (attributes or {}).items()
    )
    if name in VOID:
        return Markup(f"<{name}{listed}>")
    return Markup(f"<{name}{listed}>{join(content)}</{name}>")


def block(kind: str, content: Content) -> Markup:
    """A `div` of a class that style.css describes."""
    return element("div", content, {"class": kind})


def figure(content: Content, caption: Content, kind: str = "") -> Markup:
    """Something to look at with the words that say what it is."""
    return element("figure", [join(content), element("figcaption", caption)], {"class": kind})


def note(text: Content, kind: str = "note") -> Markup:
    """A remark that stands out; kind `warning` stands out more."""
    return element("p", text, {"class": kind})


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> Markup:
    """A table that scrolls sideways on its own where the screen is narrow."""
    titles = element("tr", [element("th", cell, {"scope": "col"}) for cell in head])
    lines = [element("tr", [element("td", cell) for cell in row]) for row in rows]
    inner = [element("thead", titles), element("tbody", lines)]
    return block("scroll", element("table", inner, {"class": kind}))


def number(value: float) -> str:
    """A number for people: four digits (three of a tiny one), thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 0.01 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share in [0, 1] for people."""
    return f"{100 * share:.1f}%"


def count(amount: int, noun: str) -> str:
    """`1 image`, `2,000 images`; without a number for none."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"
