"""The curves of a run as files, for a paper or a slide."""

from __future__ import annotations

import importlib
import itertools
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from beit.atomic_io import replace_file
from beit.claim import claim_folder
from beit.errors import ResourceError, RunFolderError
from beit.report.chart_specs import charts
from beit.report.history import read_history
from beit.report.run_kind import RunKind
from beit.report.svg_chart import MOST_POINTS, SMOOTH_FROM, Chart, smooth, thin
from beit.training.run_folder import read_run_config

FORMATS = ("svg", "png")
SIZE, DOTS = (5.0, 3.2), 200
COLOURS = ("#2855b8", "#c2560a", "#26845a", "#8b3fa0", "#8a6d00")
GREY, DASHES = "#62676e", ("--", ":", "-.")
STYLE = {
    "svg.hashsalt": "beit",  # names inside the file are the same every time
    "svg.fonttype": "none",  # words stay words
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _matplotlib() -> Any:
    try:
        # Not imported by name: the package works without it, with one error where it is needed.
        importlib.import_module("matplotlib.figure")
        importlib.import_module("matplotlib.ticker")
        return importlib.import_module("matplotlib")
    except ImportError as error:
        raise ResourceError(
            f"curves as files are drawn with matplotlib, which is not installed: {error}",
            remedy='pip install "beit[plots]"',
        ) from error


def _draw(one: Chart, matplotlib: Any) -> Any:
    figure = matplotlib.figure.Figure(figsize=SIZE, layout="constrained")
    axes, patterns = figure.subplots(), itertools.cycle(DASHES)
    for line, colour in zip(one.lines, COLOURS, strict=False):
        if not line.points:
            continue
        points = thin(line.points, MOST_POINTS)
        if line.role == "reference":
            dashes = next(patterns)
            axes.plot(*zip(*points, strict=True), dashes, color=GREY, lw=1, label=line.label)
            continue
        dot = "o" if line.role == "marks" or len(points) == 1 else None
        if one.noisy and line.role == "curve" and len(points) >= SMOOTH_FROM:
            axes.plot(*zip(*points, strict=True), color=colour, lw=0.8, alpha=0.3)
            points = smooth(points)
        axes.plot(
            *zip(*points, strict=True), color=colour, lw=1.6, marker=dot, ms=3, label=line.label
        )
    axes.set(title=one.title, xlabel="step")
    axes.grid(alpha=0.25, lw=0.6)
    if one.from_zero and min(value for line in one.lines for _, value in line.points) >= 0:
        axes.set_ylim(bottom=0)
    if one.as_share:
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(xmax=1))
    axes.legend(frameon=False)
    return figure


def _name(title: str) -> str:
    """`Right tokens` to `right-tokens`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def write_plots(run: Path, folder: Path, kind: RunKind[Any]) -> list[Path]:
    """Write every curve of a run to FOLDER, each as SVG and as PNG; files there are replaced.

    Errors: RunFolderError if there is no run or nothing was logged, ResourceError if matplotlib is
    not installed or nothing can be written.
    """
    read_run_config(run)  # or there is no run
    matplotlib = _matplotlib()
    drawn = [
        one
        for one in charts(kind.charts, read_history(run))
        if any(line.points for line in one.lines)
    ]
    if not drawn:
        raise RunFolderError(f"{run} has logged no step yet", remedy="wait for its first step")
    written = []
    try:
        with claim_folder(folder, "name another folder"), matplotlib.rc_context(STYLE):
            for one in drawn:
                figure = _draw(one, matplotlib)
                for form in FORMATS:
                    data = BytesIO()
                    metadata = {"Date": None} if form == "svg" else {}
                    figure.savefig(data, format=form, dpi=DOTS, metadata=metadata)
                    place = folder / f"{_name(one.title)}.{form}"
                    replace_file(place, [data.getvalue()])
                    written.append(place)
    except OSError as error:
        raise ResourceError(
            f"{folder} cannot be written: {error.strerror}", remedy="make room or permit writing"
        ) from error
    return written
