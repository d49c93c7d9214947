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

from beit.atomic_io import replace_file
from beit.config.model import VisionTransformerConfig
from beit.config.runs import RunConfig
from beit.config.tree import differences, leaves, type_name
from beit.data.account import Account, account_from_json
from beit.errors import BeitError, ResourceError, on_one_line
from beit.recipes import RECIPES
from beit.report.charts import Chart, charts, draw
from beit.report.history import History, read_history
from beit.report.markup import Example, Finding, Section, percent, render
from beit.terminal import counted
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
    score: float | None = None
    """The value by which runs are compared: more is better."""


class Examples(NamedTuple):
    """The names of the images that a run's model can answer for, and its answers to some."""

    keys: Sequence[str] = ()
    of: Callable[[Sequence[str]], Mapping[str, Example]] = lambda _: {}


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
    """How the page of a kind of run is made; the page omits what is not given."""

    verb: str
    """The verb of the command that makes such a run."""
    title: Callable[[Config], str]
    use: str
    """A line of Python that uses `predictor`, the loaded model."""
    next: str
    """The command to continue with after such a run, with {data} and {run}."""
    charts: tuple[Chart, ...] = ()
    """Charts besides those that every run has; a metric in no chart gets one of its own."""
    headline: Callable[[Config, History], list[Figure]] = lambda _config, _history: []
    """The big numbers, shown before the number of steps."""
    findings: Callable[[History], list[Finding]] = lambda _: []
    """What was learned, and what is wrong."""
    facts: Callable[[Config], Sequence[str]] = model_facts
    """Model and image size, for the line below the title."""
    sections: Callable[[Path, Config], list[Section]] = lambda _run, _config: []
    """The sections with images. May raise: the page then says why there are none."""
    examples: Callable[[Path, Config], Examples] = lambda _run, _config: Examples()
    """What the model makes of some images, on a page that compares runs."""


@dataclass(frozen=True)
class RunPage:
    """A run, and what its page shows."""

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
        """What its artifact says of itself; None if there is none that can be read."""
        return described(self.run)

    @cached_property
    def history(self) -> History:
        """What the run had logged when this was first read."""
        return read_history(self.run)

    @property
    def finished(self) -> bool:
        """Whether it has taken all its steps, or ended early."""
        return self.ended_early or self.history.step >= self.config.training.steps

    @property
    def ended_early(self) -> bool:
        """Whether it ran out of patience: its score had not improved for too long."""
        left = self.history.last("evaluate", "patience_left")
        return left is not None and left <= 0

    def charts(self) -> list[Chart]:
        """Every chart, also those without points."""
        return charts(self.kind.charts, self.history)

    def figures(self) -> list[Figure]:
        """The big numbers."""
        history, training = self.history, self.config.training
        seconds = history.seconds(training.batch)
        taken = f", {duration_in_words(seconds)} of training" if history.rows else ""
        steps = Figure(f"{history.step:,}", "steps", f"of {training.steps:,}{taken}")
        return [*self.kind.headline(self.config, history), steps]

    def findings(self) -> list[Finding]:
        """What a reader should know first."""
        step, steps = self.history.step, self.config.training.steps
        text = f"This run is not finished: the last step in its log is {step:,} of {steps:,}."
        found = [] if self.finished else [Finding(text, is_warning=True)]
        if self.ended_early:
            waited = f"for {self.config.training.patience} evaluations its score was no better"
            found = [Finding(f"This run ended early, at step {step:,} of {steps:,}: {waited}.")]
        return [*found, *self.kind.findings(self.history)]

    def facts(self) -> list[str]:
        """Recipe, data, model, batch."""
        made = None if self.described is None else self.described.details.trained.get("images")
        return [
            f"recipe {self.config.recipe or 'from elsewhere'}",
            f"images from {self.config.data}",
            *([f"{made:,} for training"] if isinstance(made, int) else []),
            *self.kind.facts(self.config),
            f"batch {self.config.training.batch:,}",
        ]

    def named(self) -> dict[str, dict[str, str]]:
        """The images that the run has listed (unreadable, several, shared), with the reasons."""
        names = ("unreadable", "several", "shared")
        return {name: read_reasons(self.run / f"{name}.jsonl") for name in names}

    def account(self) -> Account | None:
        """How the data was read; runs of older versions did not keep it."""
        try:
            return account_from_json(RunFolder(self.run).account.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def duration_in_words(seconds: float) -> str:
    """A time to the nearest second, minute or tenth of an hour."""
    if round(seconds) < 1:
        return "less than a second"
    minutes = seconds / 60
    if minutes < 1:
        return f"about {counted(round(seconds), 'second')}"
    if minutes < 120:
        return f"about {counted(round(minutes), 'minute')}"
    return f"about {minutes / 60:.1f} hours"


def best_and_last(history: History, metric: str, label: str, against: str = "") -> list[Figure]:
    """The best evaluation, whose model is published, and the last one if it is another.

    Args:
        history: What the run logged.
        metric: Name of the score in the log, a fraction.
        label: Name of the score on the page.
        against: What to compare the best value with, in words.
    """
    best = history.best(metric)
    if best is None:
        return [Figure(percent(None), f"{label}, best")]
    step, value = best
    beside = "; ".join(filter(None, [f"validation, step {step:,.0f}, as in model/", against]))
    found = [Figure(percent(value), f"{label}, best", beside, value)]
    last_step, last = history.points("evaluate", metric)[-1]
    if last_step != step:
        found.append(Figure(percent(last), f"{label}, last", "validation, last step"))
    return found


def _came_with_init(name: str, value: object, init: str) -> bool:
    """Whether starting from the artifact `init` sets this option of the architecture."""
    if not init or not name.startswith("model.") or name == "model.drop_path":
        return False
    start = described(init)
    backbone = None if start is None else getattr(start.architecture, "backbone", None)
    return name != "model.size" or (backbone is not None and backbone.size == value)


def changed_options(verb: str, config: RunConfig) -> dict[str, object] | None:
    """Options by path whose values come neither from the recipe nor from `init`.

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


def command(verb: str, config: RunConfig) -> tuple[str, list[str]]:
    """The command that makes this run, and the parts of the config that it cannot express: their
    type can be chosen only in Python, so that their options are left out as well."""
    changed = changed_options(verb, config) or {}
    parts = [name.removesuffix(".type") for name in changed if name.endswith(".type")]
    options = {"data": config.data, "out": config.out} | {
        name: value
        for name, value in changed.items()
        if not any(name.startswith(f"{part}.") for part in parts)
    }
    module = type_name(type(config)).rpartition(":")[0]
    imported = f"--import {module}" if module else ""  # of a task from outside
    start = " ".join(filter(None, ["beit", imported, verb, shlex.quote(config.recipe)]))
    lines = [start] + [_option(name, value) for name, value in options.items() if value != ""]
    return " \\\n  ".join(lines), parts


def without_images(error: BeitError | OSError | RuntimeError | MemoryError, again: str) -> Section:
    """Why there are no images, and the command that adds them later."""
    logger.warning("the page has no images: %s", on_one_line(error))
    problem, remedy = str(error), ""
    if isinstance(error, BeitError):
        problem, remedy = error.problem, error.remedy
    body = render("no-images.html.j2", problem=problem, remedy=remedy, again=again)
    return Section("images", "Images", body)


def _images(page: RunPage) -> list[Section]:
    """The sections with images, or why there are none. A page ends a run that took days, so nothing
    outside may make it fail: data that have moved, a failing disk, a device without memory."""
    try:
        return page.kind.sections(page.run, page.config)
    except (BeitError, OSError, RuntimeError, MemoryError) as error:
        return [without_images(error, f"beit report {page.run}")]


def page_html(page: RunPage, images: Sequence[Section]) -> str:
    """The whole document around the sections with images."""
    from beit import __version__

    verb, config = page.kind.verb, page.config
    changed = changed_options(verb, config)
    again, in_python = command(verb, config)
    places = {"data": shlex.quote(config.data), "run": shlex.quote(str(page.run))}
    return render(
        "run.html.j2",
        page=page,
        findings=[*page.findings(), *(part.finding for part in images if part.finding)],
        most=MOST_NAMED,
        next=page.kind.next.format(**places) if page.finished else f"{again} \\\n  --resume",
        loaded=repr(str(page.run)),
        charts=[figure for figure in map(draw, page.charts()) if figure],
        sections=images,
        versions={} if page.described is None else page.described.versions,
        here=f"beit {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        command=again,
        is_foreign=changed is None,
        in_python=in_python,
        changed=changed or {},
        options={".".join(path): json.dumps(value) for path, value in leaves(config)},
    )


def write_page(run: Path, config: RunConfig, kind: RunKind[Any]) -> Path:
    """Write report.html into a run's folder, for a finished run or one that is under way.

    Args:
        run: Folder of the run.
        config: What the run was started with.
        kind: How the page of such a run is made.

    Raises:
        ResourceError: The page cannot be written.
    """
    page, place = RunPage(run, config, kind), run / "report.html"
    text = page_html(page, _images(page))
    try:
        replace_file(place, [text.encode()])
    except OSError as error:
        raise ResourceError(
            f"{place} cannot be written: {error.strerror}", remedy="make room or permit writing"
        ) from error
    return place
