"""Several runs on one self-contained page: figures, curves over each other, settings, images."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from beit.atomic_io import write_file
from beit.claim import claim_output
from beit.config.runs import RunConfig
from beit.config.tree import leaves
from beit.errors import BeitError, ConfigError
from beit.report.chart_specs import charts, draw
from beit.report.document import document
from beit.report.history import History, read_history
from beit.report.markup import Markup, Section, block, element, join, note, table
from beit.report.page import section, without_images
from beit.report.run_kind import RunKind
from beit.report.summary import steps_figure
from beit.report.svg_chart import Chart, Line
from beit.training.run_folder import read_run_config

MOST_RUNS = 8
"""As many as there are colours that can be told apart."""
MOST_IMAGES = 6
KindOf = Callable[[RunConfig], RunKind[Any]]


class Compared(NamedTuple):
    """A run with the name it has on the page."""

    name: str
    path: Path
    kind: RunKind[Any]
    config: RunConfig
    history: History


def read_runs(paths: Sequence[Path], kind_of: KindOf) -> list[Compared]:
    """The runs by name; by path, where two have the same name.

    Errors: ConfigError for more than can be told apart, RunFolderError if one is no run.
    """
    if not 2 <= len(paths) <= MOST_RUNS or len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(
            f"{len(paths)} runs were given to compare",
            remedy=f"give from 2 to {MOST_RUNS} different ones",
        )
    names = Counter(path.resolve().name for path in paths)
    configs = [read_run_config(path) for path in paths]
    return [
        Compared(
            path.resolve().name if names[path.resolve().name] == 1 else str(path),
            path,
            kind_of(config),
            config,
            read_history(path),
        )
        for path, config in zip(paths, configs, strict=True)
    ]


def overlaid(runs: Sequence[Compared]) -> list[Chart]:
    """A chart per measure, with a line per run; a reference only if it is the same for all."""
    found: dict[tuple[str, str], Chart] = {}
    references: dict[str, list[Line]] = {}
    for place, run in enumerate(runs):
        for one in charts(run.kind.charts, run.history):
            for line in one.lines:
                if line.role == "reference":
                    references.setdefault(one.title, []).append(line)
                    continue
                title = f"{one.title} · {line.label}"
                empty = [Line(other.name, (), line.role) for other in runs]
                chart = found.setdefault((one.title, line.label), one._replace(
                    title=title, lines=empty))  # fmt: skip
                chart.lines[place] = Line(run.name, line.points, line.role)
    for (title, _), chart in found.items():
        chart.lines.extend(_common(references.get(title, []), len(runs)))
    return list(found.values())


def _common(references: list[Line], runs: int) -> list[Line]:
    by_label: dict[str, list[Line]] = {}
    for line in references:
        if line.points:
            by_label.setdefault(line.label, []).append(line)
    return [
        max(lines, key=lambda line: line.points[-1][0])
        for lines in by_label.values()
        if len(lines) == runs and len({value for line in lines for _, value in line.points}) == 1
    ]


def _table_of(runs: Sequence[Compared], rows: dict[str, dict[str, str]]) -> Markup:
    """A row per thing, a column per run."""
    lines = [
        [element("b", label), *(values.get(run.name, "–") for run in runs)]  # noqa: RUF001
        for label, values in rows.items()
    ]
    return table(["", *(run.name for run in runs)], lines)


def _figures(runs: Sequence[Compared]) -> Section:
    rows: dict[str, dict[str, str]] = {
        "kind": {run.name: run.kind.title(run.config) for run in runs}
    }
    for run in runs:
        figures = run.kind.headline(run.config, run.history)
        for one in [*figures, steps_figure(run.config, run.history)]:
            beside = element("i", f" {one.beside}", {"class": "none"}) if one.beside else ""
            rows.setdefault(one.label, {})[run.name] = join([one.value, beside])
    return Section("figures", "Figures", "The newest of each run.", _table_of(runs, rows))


def _curves(runs: Sequence[Compared]) -> Section:
    drawn = [draw(one) for one in overlaid(runs)]
    if not any(drawn):
        drawn = [note("No step has been logged yet: there is nothing to draw.", "warning")]
    lead = "A run has the same colour everywhere. Dashed: the same for all of them."
    return Section("curves", "Curves", lead, block("curves", drawn))


def _settings(runs: Sequence[Compared]) -> Section:
    rows: dict[str, dict[str, str]] = {}
    for run in runs:
        for path, value in leaves(run.config):
            rows.setdefault(".".join(path), {})[run.name] = json.dumps(value)
    differing = {
        name: values
        for name, values in rows.items()
        if len(values) < len(runs) or len(set(values.values())) > 1
    }
    lead = f"{len(differing)} of {len(rows)} options are not the same in all of them."
    return Section("settings", "Settings that differ", lead, _table_of(runs, differing))


def _images(runs: Sequence[Compared], again: str) -> Section:
    """The same images, and what each run makes of them."""
    try:
        found = [run.kind.contender(run.path, run.config) for run in runs]
        known = [set(one.keys) for one in found]
        shared = [key for key in found[0].keys if all(key in keys for keys in known)]
        chosen = shared[:: max(1, len(shared) // MOST_IMAGES)][:MOST_IMAGES]
        answers = [one.answers(chosen) for one in found] if chosen else []
    except (BeitError, OSError, RuntimeError) as error:
        return without_images(error, again)
    rows = [
        [
            join([block("beside", answers[0][key].image), element("code", key)]),
            *(block("beside", answered[key].answer) for answered in answers),
        ]
        for key in chosen
        if all(key in answered for answered in answers)  # others cannot be read
    ]
    if not rows:
        words = (
            "None: these runs share no images. Tokenizers and pre-trainings with tokens are "
            "asked about images of their data, classifiers and segmenters about held-out ones."
        )
        return Section("images", "Images", "", note(words))
    lead = "Images that all of these runs look at, and what each makes of them."
    shown = table(["image", *(run.name for run in runs)], rows)
    return Section("images", "Images side by side", lead, shown)


def write_comparison(paths: Sequence[Path], place: Path, kind_of: KindOf) -> Path:
    """Write one page about several runs, each of the kind that `kind_of` says.

    Errors: as for `read_runs`, and ResourceError if the page cannot be written.
    """
    if place.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{place} is no name of a page", remedy="use a name that ends in .html")
    with claim_output(place, replaces=True) as page:
        write_file(page, [_page(read_runs(paths, kind_of), place).encode()])
    return place


def _page(runs: Sequence[Compared], place: Path) -> str:
    again = " ".join(["beit report", *(shlex.quote(str(run.path)) for run in runs)])
    sections = [
        _figures(runs),
        _curves(runs),
        _images(runs, f"{again} --out {shlex.quote(str(place))}"),
        _settings(runs),
    ]
    names = ", ".join(run.name for run in runs)
    links = [element("a", part.title, {"href": f"#{part.anchor}"}) for part in sections]
    header = element("header", [
        element("p", "Comparison", {"class": "kind"}),
        element("h1", names),
        element("nav", links, {"aria-label": "Sections"}),
    ])  # fmt: skip
    body = [header, element("main", [section(part) for part in sections])]
    return document(f"{names} · comparison", body)
