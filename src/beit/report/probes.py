"""The results of `beit probe`: printed as tables, and as a page."""

from __future__ import annotations

from pathlib import Path

from beit.evaluation.baselines import TRIVIAL
from beit.evaluation.metrics import wilson_interval
from beit.evaluation.sweeps import Chosen, Probes
from beit.report.charts import Chart, Line, draw
from beit.report.markup import render
from beit.terminal import TextTable, counted, print_tables, printable

HEAD = ("method", "setting", "validation", "test")


def _rows(found: Probes) -> list[tuple[str, ...]]:
    """The rows below `HEAD`: what was chosen, and the scores with few labels."""

    def score(value: float | None, part: str) -> str:
        if value is None:
            return ""
        if found.measure != "accuracy":
            return f"{value:.1%}"
        low, high = wilson_interval(value, found.images[part])
        return f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})"

    def setting(each: Chosen) -> str:
        values = [f"{name} {value:g}" for name, value in each.setting.items()]
        without_blocks = each.method.removesuffix(", linear") in TRIVIAL
        return ", ".join(values if without_blocks else [f"block {each.block}", *values])

    rows: list[tuple[str, ...]] = [
        (
            each.method,
            setting(each),
            score(each.validation, "validation"),
            score(each.test, "test"),
        )
        for each in (*found.chosen, *found.baselines)
    ]
    for few in (*found.few, *found.few_baselines):
        spread = f"{few.mean:.1%} ± {few.deviation:.1%}"
        cells = ("", spread) if "test" in found.images else (spread, "")
        rows.append((few.method, f"{counted(few.labels, 'label')} per class", *cells))
    return rows


def print_probes(found: Probes) -> None:
    """Print the best validation score of each block, what was chosen, and few labels."""
    for key, reason in found.unreadable.items():
        print(printable(f"unreadable: {key}: {reason}"))
    for key in found.several:
        print(printable(f"first of several in its file: {key}"))
    for note in found.notes:
        print(printable(f"note: {note}"))
    spreads = " (95 % interval); few labels: mean and deviation of the draws" if found.few else ""
    print(f"scores: {found.measure}{spreads}; of each block the best on validation")
    blocks = TextTable("block", *found.blocks)
    for block, scores in enumerate(zip(*found.blocks.values(), strict=True)):
        blocks.add_row(str(block), *(f"{score:.1%}" for score in scores))
    chosen = TextTable(*HEAD)
    for row in _rows(found):
        chosen.add_row(*row)
    print_tables(blocks, chosen)


def write_probes(place: Path, model: str, found: Probes) -> Path:
    """Write the page: the score of every block, and the settings that were chosen.

    Args:
        place: The HTML file.
        model: Name of the probed model, for the title.
        found: The results.
    """
    chart = Chart(
        f"{found.measure.capitalize()} per block",
        "The best on validation for each block, counted from 0. BEiT's features are best in the "
        "middle: its last blocks serve token prediction and normally score lower.",
        tuple(
            Line(name, tuple((float(block), score) for block, score in enumerate(scores)), "marks")
            for name, scores in found.blocks.items()
        ),
        as_fraction=True,
        along="block",
    )
    text = render(
        "probe.html.j2", title=f"Probes of {model}", chart=draw(chart), head=HEAD, rows=_rows(found)
    )
    place.write_text(text, "utf-8")
    return place
