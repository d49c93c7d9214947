"""One self-contained page per run: what was learned, what to do next, how it went, how it looks."""

from __future__ import annotations

import json
import logging
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from markupsafe import Markup

from beit.atomic_io import replace_file
from beit.config.model import VisionTransformerConfig
from beit.config.runs import RunConfig
from beit.config.tree import differences, leaves
from beit.data.account import Account, account_from_json
from beit.errors import BeitError, ResourceError
from beit.recipes import RECIPES
from beit.report.charts import Chart, Line, charts, draw
from beit.report.history import History, read_history
from beit.report.markup import Picture, Section, percent, render
from beit.training.run_folder import RunFolder, read_reasons
from beit.weights.store import Described, described

Config = TypeVar("Config", bound=RunConfig)

MOST_NAMED = 50
logger = logging.getLogger(__name__)


class Figure(NamedTuple):
    """A big number with what it is, and what to compare it with."""

    value: str
    label: str
    beside: str = ""


class Finding(NamedTuple):
    """Something that a reader of the page should know first."""

    text: str
    is_warning: bool = False


class LabelBar(NamedTuple):
    """A class with its probability, as an answer about one image lists it."""

    name: str
    probability: float
    threshold: float | None
    """Of a multi-label model."""
    is_true: bool
    is_given: bool


class Answer(NamedTuple):
    """One image, with its label or mask where it has one, and what a model makes of it."""

    shown: tuple[Picture, ...]
    verdict: str = ""
    labels: tuple[LabelBar, ...] = ()
    pictures: tuple[Picture, ...] = ()


class Answers(NamedTuple):
    """The names of the images that a run's model can be asked about, and its answers to some."""

    keys: Sequence[str]
    of: Callable[[Sequence[str]], Mapping[str, Answer]]


def no_answers(_run: Path, _config: RunConfig) -> Answers:
    """Of a run whose model cannot be asked about single images."""
    return Answers((), lambda _: {})


def model_facts(config: RunConfig) -> list[str]:
    """The backbone of a run, what it started from, and the size of its images."""
    model, init = getattr(config, "model", None), getattr(config, "init", "")
    if not isinstance(model, VisionTransformerConfig):
        return []
    return [
        f"{model.depth} blocks of width {model.width}, patches of {model.patch}",
        *([f"started from {init}"] if init else []),
        f"{model.size[0]} x {model.size[1]} pixels",
    ]


@dataclass(frozen=True, kw_only=True)
class RunKind(Generic[Config]):
    """A kind of run as its page shows it; what is not given, the page does without."""

    verb: str
    """The verb that makes such a run again."""
    title: Callable[[Config], str]
    use: str
    """A line of Python that uses `predictor`, the loaded model."""
    next: str
    """A command that goes on from the run, with {data} and {run}."""
    charts: tuple[Chart, ...] = ()
    """Beside those that every run has; metrics in no chart get one each."""
    headline: Callable[[Config, History], list[Figure]] = lambda _config, _history: []
    """The big numbers, before the number of steps."""
    findings: Callable[[History], list[Finding]] = lambda _: []
    """What was learned, and what is wrong."""
    facts: Callable[[Config], Sequence[str]] = model_facts
    """Model and size, for the line below the title."""
    sections: Callable[[Path, Config], list[Section]] = lambda _run, _config: []
    """The sections with images. They may raise: the page then says why there are none."""
    answers: Callable[[Path, Config], Answers] = no_answers
    """What the model makes of some images, on a page that compares runs."""


@dataclass(frozen=True)
class RunPage:
    """A run with the kind of its page."""

    run: Path
    config: RunConfig
    kind: RunKind[Any]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.run.resolve().name

    @property
    def title(self) -> str:
        """What kind of run it is."""
        return self.kind.title(self.config)

    @cached_property
    def described(self) -> Described | None:
        """What its artifact states; None where there is none that can be read."""
        return described(self.run)

    @cached_property
    def history(self) -> History:
        """What was logged when it was first looked at."""
        return read_history(self.run)

    def charts(self) -> list[Chart]:
        """Every chart, also those without points."""
        return charts(self.kind.charts, self.history)

    def figures(self) -> list[Figure]:
        """The big numbers."""
        history, training = self.history, self.config.training
        seconds = history.seconds(training.batch)
        beside = f"about {_duration(seconds)} of training" if history.rows else ""
        steps = Figure(f"{history.step:,}", f"of {training.steps:,} steps", beside)
        return [*self.kind.headline(self.config, history), steps]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def best_figure(history: History, metric: str, label: str) -> Figure:
    """The best evaluation, whose model is published."""
    step, value = history.best(metric) or (None, None)
    beside = "" if step is None else f"validation, step {step:,.0f}; it is the one in model/"
    return Figure(percent(value), f"{label}, best", beside)


def _came_with_init(name: str, value: object, init: str) -> bool:
    """Whether an option of the architecture is what starting from that artifact brings."""
    if not init or not name.startswith("model.") or name == "model.drop_path":
        return False
    start = described(init)
    backbone = None if start is None else getattr(start.architecture, "backbone", None)
    return name != "model.size" or (backbone is not None and backbone.size == value)


def changed_options(verb: str, config: RunConfig) -> dict[str, object] | None:
    """Options by path whose values are not the recipe's, nor brought by `init`.

    None for a recipe from elsewhere: a page must not import code that a folder names.
    """
    recipe = RECIPES[verb].get(config.recipe)
    if recipe is None:
        return None
    init = getattr(config, "init", "")
    return {
        name: now
        for name, (_, now) in differences(recipe(), config).items()
        if name not in ("recipe", "data", "out") and not _came_with_init(name, now, init)
    }


def _option(name: str, value: object) -> str:
    flag = name.rsplit(".", 1)[-1].replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join([f"--{flag}", *(shlex.quote(str(entry)) for entry in values)])


def command(verb: str, config: RunConfig) -> tuple[str, str]:
    """The command that makes this run, and what it cannot express (empty: nothing)."""
    changed = changed_options(verb, config)
    # The type of a part is chosen in Python, and the options of another type go with it.
    parts = [name.removesuffix(".type") for name in changed or {} if name.endswith(".type")]
    options = {"data": config.data, "out": config.out} | {
        name: value
        for name, value in (changed or {}).items()
        if not any(name.startswith(f"{part}.") for part in parts)
    }
    start = " ".join(filter(None, ["beit", verb, shlex.quote(config.recipe)]))
    lines = [start] + [_option(name, value) for name, value in options.items() if value != ""]
    missing = ""
    if changed is None:
        missing = (
            "The recipe is not one of this package, so options that were changed from it are not "
            "listed; the table below has all values."
        )
    elif parts:
        missing = f"Chosen in Python, not by this command: {', '.join(parts)} (see the table below)"
    return " \\\n  ".join(lines), missing


def _settings(page: RunPage) -> Section:
    from beit import __version__

    again, missing = command(page.kind.verb, page.config)
    changed = changed_options(page.kind.verb, page.config) or {}
    body = render(
        "settings.html.j2",
        versions={} if page.described is None else page.described.versions,
        here=f"beit {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        command=again,
        missing=missing,
        options=[
            (name, json.dumps(value), name in changed)
            for name, value in ((".".join(path), value) for path, value in leaves(page.config))
        ],
    )
    return Section("settings", "Settings", body)


def _next(page: RunPage) -> Section:
    finished = page.history.step >= page.config.training.steps
    places = {"data": shlex.quote(page.config.data), "run": shlex.quote(str(page.run))}
    further = page.kind.next.format(**places)
    if not finished:
        further = f"{command(page.kind.verb, page.config)[0]} \\\n  --resume"
    body = render(
        "next.html.j2",
        finished=finished,
        further=further,
        run=repr(str(page.run)),
        usage=page.kind.use,
    )
    return Section("next", "What next", body)


def _account(run: Path) -> Account | None:
    """How the data was read; runs of older versions did not keep it."""
    try:
        return account_from_json(RunFolder(run).account.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def header(page: RunPage, sections: Sequence[Section]) -> Markup:
    """The run in a few numbers, what stands out, what the run noted about its images."""
    step, steps = page.history.step, page.config.training.steps
    unfinished = Finding(
        f"This run is not finished: the last step in its log is {step:,} of {steps:,}.", True
    )
    made = None if page.described is None else page.described.details.trained.get("images")
    facts = [
        f"recipe {page.config.recipe or 'from elsewhere'}",
        f"images from {page.config.data}",
        *([f"{made:,} for training"] if isinstance(made, int) else []),
        *page.kind.facts(page.config),
        f"batch {page.config.training.batch:,}",
    ]
    return render(
        "header.html.j2",
        page=page,
        facts=facts,
        figures=page.figures(),
        findings=[*([unfinished] if step < steps else []), *page.kind.findings(page.history)],
        account=_account(page.run),
        named={
            name: read_reasons(page.run / f"{name}.jsonl")
            for name in ("unreadable", "several", "shared")
        },
        most=MOST_NAMED,
        sections=sections,
    )


def curves(all_charts: Sequence[Chart], lead: str) -> Section:
    """The section with charts."""
    drawn = [figure for figure in map(draw, all_charts) if figure]
    return Section("curves", "Curves", render("curves.html.j2", charts=drawn, lead=lead))


def without_images(error: BeitError | OSError | RuntimeError, again: str) -> Section:
    """Why there are no images, and the command that adds them later."""
    logger.warning("the page has no images: %s", error)
    problem, remedy = str(error), ""
    if isinstance(error, BeitError):
        problem, remedy = error.problem, error.remedy
    body = render("no-images.html.j2", problem=problem, remedy=remedy, again=again)
    return Section("images", "Images", body)


def _sections(page: RunPage) -> list[Section]:
    """Everything below the header.

    A page closes a run that took days, so nothing outside may end it: data that have moved, a disk
    that fails, a device without memory.
    """
    try:
        images = page.kind.sections(page.run, page.config)
    except (BeitError, OSError, RuntimeError) as error:
        images = [without_images(error, f"beit report {page.run}")]
    lead = "Point at a line for its numbers. Pale: as logged, solid: smoothed, dashed: to compare."
    return [_next(page), curves(page.charts(), lead), *images, _settings(page)]


def write_page(run: Path, config: RunConfig, kind: RunKind[Any]) -> Path:
    """Write RUN/report.html, for a finished run or one that is under way.

    Errors: ResourceError if it cannot be written.
    """
    page = RunPage(run, config, kind)
    sections = _sections(page)
    title = f"{page.name} · {page.title}"
    top = header(page, sections)
    text = render("document.html.j2", title=title, header=top, sections=sections)
    place = page.run / "report.html"
    try:
        replace_file(place, [text.encode()])
    except OSError as error:
        raise ResourceError(
            f"{place} cannot be written: {error.strerror}", remedy="make room or permit writing"
        ) from error
    return place


def write_probe_page(
    place: Path,
    model: str,
    blocks: Mapping[str, Sequence[float]],
    rows: Sequence[tuple[str, str, str, str]],
    measure: str,
) -> Path:
    """Write the page of `beit probe`: the score of every block, and the settings that were chosen.

    Args:
        place: The file to write.
        model: What was probed.
        blocks: For each kind of probe its score after every block.
        rows: Method, setting, validation score, test score.
        measure: What the scores are.
    """
    chart = Chart(
        f"{measure.capitalize()} per block",
        "The best on validation, block by block; 0 is the first. BEiT's features are best in the "
        "middle: its last blocks serve the prediction of tokens, and score lower by nature.",
        tuple(
            Line(name, tuple((float(block), score) for block, score in enumerate(scores)), "marks")
            for name, scores in blocks.items()
        ),
        as_fraction=True,
        along="block",
    )
    text = render("probe.html.j2", title=f"Probes of {model}", chart=draw(chart), rows=rows)
    place.write_text(text, "utf-8")
    return place
