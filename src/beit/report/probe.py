"""The page of `beit probe`: the accuracy of every block, and the settings that were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from beit.report.curves import Line, chart
from beit.report.markup import Markup, element, table

EXPLANATION = (
    "Best accuracy on validation, block by block; 0 is the first. BEiT's features are best in the "
    "middle: its last blocks serve the prediction of tokens, and score lower by nature."
)


def write_probe_page(
    place: Path,
    model: str,
    blocks: Mapping[str, Sequence[float]],
    rows: Sequence[tuple[str, str, str, str]],
) -> Path:
    """Write one self-contained page."""
    lines = [
        Line(name, tuple((float(block), score) for block, score in enumerate(scores)), "marks")
        for name, scores in blocks.items()
    ]
    drawn = chart("Accuracy per block", lines, EXPLANATION, as_share=True, along="block")
    style = resources.files("beit.report").joinpath("style.css").read_text("utf-8")
    title = f"Probes of {model}"
    head = [
        element("meta", "", {"charset": "utf-8"}),
        element("title", title),
        element("style", Markup(style)),
    ]
    settings = table(["method", "setting", "validation", "test"], rows)
    main = element("main", [element("h1", title), drawn, settings])
    parts = [element("head", head), element("body", main)]
    place.write_text(f"<!doctype html>\n{element('html', parts, {'lang': 'en'})}\n", "utf-8")
    return place
