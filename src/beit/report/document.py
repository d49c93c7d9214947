"""A page in one file: what stands around its body."""

from __future__ import annotations

from importlib import resources

from beit.report.markup import Content, Markup, element


def document(title: str, body: Content) -> str:
    """The whole text of an HTML page, with its style in it."""
    style = resources.files("beit.report").joinpath("style.css").read_text("utf-8")
    head = [
        element("meta", "", {"charset": "utf-8"}),
        element("meta", "", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("title", title),
        element("style", Markup(style)),
    ]
    parts = [element("head", head), element("body", body)]
    return f"<!doctype html>\n{element('html', parts, {'lang': 'en'})}\n"
