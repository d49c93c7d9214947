"""Several runs on one self-contained page: figures, overlaid curves, images, settings."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from beit.atomic_io import write_file
from beit.claim import claim_output
from beit.config.runs import RunConfig
from beit.config.tree import leaves
from beit.errors import BeitError, ConfigError
from beit.report.charts import Chart, Line, draw
from beit.report.markup import Section, render
from beit.report.page import RunKind, RunPage, without_images
from beit.training.run_folder import read_run_config

MOST_RUNS = 8
"""As many as there are colours that are easy to distinguish."""
MOST_IMAGES = 6

KindOf = Callable[[RunConfig], RunKind[Any]]
Compared = dict[str, RunPage]
"""Runs by the names that they have on the page."""
Cells = dict[str, dict[str, tuple[str, str]]]
"""Rows of a table by their label: for each run that has one, a value and a remark on it."""


def read_runs(paths: Sequence[Path], kind_of: KindOf) -> Compared:
    """The runs by name, or by path where two have the same name.

    Raises:
        ConfigError: There are fewer than 2 runs, more than `MOST_RUNS`, or one is given twice.
        RunFolderError: One is not a run.
    """
    if not 2 <= len(paths) <= MOST_RUNS or len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(
            f"{len(paths)} runs were given to compare",
            remedy=f"give from 2 to {MOST_RUNS} different ones",
        )
    configs = map(read_run_config, paths)
    pages = [
        RunPage(path, config, kind_of(config)) for path, config in zip(paths, configs, strict=True)
    ]
    names = Counter(page.name for page in pages)
    return {page.name if names[page.name] == 1 else str(page.run): page for page in pages}


def overlaid(runs: Compared) -> list[Chart]:
    """A chart per measure, with a line per run; a reference only if it is the same for all."""
    found: dict[tuple[str, str], tuple[Chart, dict[str, Line]]] = {}
    references: dict[tuple[str, str], list[Line]] = {}
    for name, page in runs.items():
        for chart in page.charts():
            for line in chart.lines:
                if line.role == "reference":
                    references.setdefault((chart.title, line.label), []).append(line)
                else:
                    _, lines = found.setdefault((chart.title, line.label), (chart, {}))
                    lines[name] = line._replace(label=name)
    return [
        chart._replace(
            title=f"{title} · {label}",
            # The colour of a run without the measure stays unused.
            lines=(
                *(lines.get(name, Line(name)) for name in runs),
                *(
                    max(same, key=lambda line: line.points[-1][0])
                    for (other, _), same in references.items()
                    if other == title and _agree(same, len(runs))
                ),
            ),
        )
        for (title, label), (chart, lines) in found.items()
    ]


def _agree(lines: list[Line], runs: int) -> bool:
    """Whether every run has this reference, and always with the same value."""
    values = {value for line in lines for _, value in line.points}
    return len(values) == 1 and sum(bool(line.points) for line in lines) == runs


def _figures(runs: Compared) -> Cells:
    kinds = {name: (page.title, "") for name, page in runs.items()}
    rows: Cells = {"kind": kinds} if len(set(kinds.values())) > 1 else {}
    for name, page in runs.items():
        for figure in page.figures():
            rows.setdefault(figure.label, {})[name] = (figure.value, figure.beside)
    return rows


def _verdict(runs: Compared) -> str:
    """The order of the runs by the first score that all of them have, the best first."""
    scored = [{one.label: one for one in page.figures() if one.score is not None}
              for page in runs.values()]  # fmt: skip
    label = next((one for one in scored[0] if all(one in each for each in scored)), None)
    if label is None:
        return ""
    pairs = zip(runs, (each[label] for each in scored), strict=True)
    order = sorted(pairs, key=lambda pair: -(pair[1].score or 0))
    found = ", ".join(f"{name} {figure.value}" for name, figure in order)
    return (
        f"By {label}: {found}. These are single runs: a small difference may be chance, so repeat "
        "with other seeds before you rely on it."
    )


def _options(runs: Compared) -> Cells:
    rows: Cells = {}
    for name, page in runs.items():
        for path, value in leaves(page.config):
            rows.setdefault(".".join(path), {})[name] = (json.dumps(value), "")
    return rows


def _images(runs: Compared, again: str) -> Section:
    """The same images, and what each run's model makes of them."""
    try:
        found = [page.kind.examples(page.run, page.config) for page in runs.values()]
        known = [set(one.keys) for one in found]
        shared = [key for key in found[0].keys if all(key in keys for keys in known)]
        chosen = shared[:: max(1, len(shared) // MOST_IMAGES)][:MOST_IMAGES]
        examples = [one.of(chosen) for one in found] if chosen else []
    except (BeitError, OSError, RuntimeError, MemoryError) as error:
        return without_images(error, again)
    rows = {
        key: [of[key] for of in examples]
        for key in chosen
        if all(key in of for of in examples)  # the others cannot be read
    }
    title = "Images side by side" if rows else "Images"
    return Section("images", title, render("side-by-side.html.j2", runs=runs, rows=rows))


def write_comparison(
    paths: Sequence[Path],
    place: Path,
    kind_of: KindOf,
    sections: Sequence[Section] = (),
    *,
    learned: str = "",
) -> Path:
    """Write one page about several runs.

    Args:
        paths: Folders of the runs.
        place: The HTML file.
        kind_of: Gives the kind of a run.
        sections: What else is known of these runs.
        learned: What the page begins with; by default which run is the best.

    Raises:
        ConfigError: The name is not that of a page, or as `read_runs` raises.
        RunFolderError: One is not a run.
        ResourceError: The page cannot be written.
    """
    if place.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(
            f"{place} is not the name of a page", remedy="use a name that ends in .html"
        )
    with claim_output(place, replaces=True) as file:
        runs = read_runs(paths, kind_of)
        words = ["beit", "report", *map(str, paths), "--out", str(place)]
        text = render(
            "comparison.html.j2",
            runs=runs,
            verdict=learned or _verdict(runs),
            figures=_figures(runs),
            charts=[figure for figure in map(draw, overlaid(runs)) if figure],
            sections=[*sections, _images(runs, shlex.join(words))],
            options=_options(runs),
        )
        write_file(file, [text.encode()])
    return place
