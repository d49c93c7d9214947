"""The page of `beit probe`: the accuracy of every block, and the settings that were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from beit.report.document import document
from beit.report.markup import element, table
from beit.report.svg_chart import Line, chart

EXPLANATION = (
    "The best on validation, block by block; 0 is the first. BEiT's features are best in the "
    "middle: its last blocks serve the prediction of tokens, and score lower by nature."
)


def write_probe_page(
    place: Path,
    model: str,
    blocks: Mapping[str, Sequence[float]],
    rows: Sequence[tuple[str, str, str, str]],
    measure: str,
) -> Path:
    """Write one self-contained page."""
    lines = [
        Line(name, tuple((float(block), score) for block, score in enumerate(scores)), "marks")
        for name, scores in blocks.items()
    ]
    heading = f"{measure.capitalize()} per block"
    drawn = chart(heading, lines, EXPLANATION, as_share=True, along="block")
    title = f"Probes of {model}"
    settings = table(["method", "setting", "validation", "test"], rows)
    place.write_text(
        document(title, element("main", [element("h1", title), drawn, settings])), "utf-8"
    )
    return place
