"""The charts of a run as files, drawn by matplotlib for a paper or a slide."""

from __future__ import annotations

import importlib
import itertools
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from beit.atomic_io import replace_file
from beit.claim import claim_folder
from beit.errors import ResourceError, RunFolderError, optional_library
from beit.report.charts import Chart, charts, strokes
from beit.report.history import read_history
from beit.report.page import RunKind

FORMATS = ("svg", "png")
SIZE, DOTS = (5.0, 3.2), 200
COLOURS = ("#2855b8", "#c2560a", "#26845a", "#8b3fa0", "#8a6d00")
GREY, DASHES = "#62676e", ("--", ":", "-.")
STYLE = {
    "svg.hashsalt": "beit",  # names inside the file are the same every time
    "svg.fonttype": "none",  # text stays text
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _matplotlib() -> Any:
    with optional_library("plots are drawn with matplotlib, which is not installed", "plots"):
        importlib.import_module("matplotlib.figure")
        importlib.import_module("matplotlib.ticker")
        return importlib.import_module("matplotlib")


def _draw(chart: Chart, matplotlib: Any) -> Any:
    figure = matplotlib.figure.Figure(figsize=SIZE, layout="constrained")
    axes, patterns = figure.subplots(), itertools.cycle(DASHES)
    for line, colour in zip(chart.lines, COLOURS, strict=False):
        looks: dict[str, Any] = {"color": colour, "lw": 1.6}
        if line.role == "reference":
            looks = {"color": GREY, "lw": 1, "ls": next(patterns) if line.points else ""}
        elif line.role == "marks" or len(line.points) == 1:
            looks |= {"marker": "o", "ms": 3}
        drawn = strokes(line, chart.noisy) or []
        for stroke in drawn[:-1]:  # the pale one
            axes.plot(*zip(*stroke.points, strict=True), color=colour, lw=0.8, alpha=0.3)
        points = drawn[-1].points if drawn else line.points
        if points:
            axes.plot(*zip(*points, strict=True), label=line.label, **looks)
    axes.set(title=chart.title, xlabel=chart.along)
    axes.grid(alpha=0.25, lw=0.6)
    if chart.from_zero and min(value for line in chart.lines for _, value in line.points) >= 0:
        axes.set_ylim(bottom=0)
    if chart.as_fraction:
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(xmax=1))
    axes.legend(frameon=False)
    return figure


def write_plots(run: Path, folder: Path, kind: RunKind[Any]) -> list[Path]:
    """Write every chart of a run, each as SVG and as PNG.

    Args:
        run: Folder of the run.
        folder: Where to write; files of the same names are replaced.
        kind: Says which charts such a run has.

    Returns:
        The files.

    Raises:
        RunFolderError: The run has not logged anything yet.
        ResourceError: matplotlib is not installed, or the folder cannot be written.
    """
    matplotlib = _matplotlib()
    shown = [
        chart
        for chart in charts(kind.charts, read_history(run))
        if any(line.points for line in chart.lines)
    ]
    if not shown:
        raise RunFolderError(f"{run} has logged no step yet", remedy="wait for its first step")
    written = []
    try:
        with claim_folder(folder, "name another folder"), matplotlib.rc_context(STYLE):
            for chart in shown:
                figure = _draw(chart, matplotlib)
                for form in FORMATS:
                    data = BytesIO()
                    metadata = {"Date": None} if form == "svg" else {}
                    figure.savefig(data, format=form, dpi=DOTS, metadata=metadata)
                    name = re.sub(r"[^a-z0-9]+", "-", chart.title.lower()).strip("-")
                    written.append(folder / f"{name}.{form}")
                    replace_file(written[-1], [data.getvalue()])
    except OSError as error:
        raise ResourceError(
            f"{folder} cannot be written: {error.strerror}", remedy="make room or permit writing"
        ) from error
    return written
