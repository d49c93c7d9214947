"""What the page of one kind of run says and shows: filled in by the task whose runs they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from beit.config.runs import RunConfig
from beit.report.chart_specs import Plan
from beit.report.compare_images import Contender, no_images
from beit.report.history import History
from beit.report.markup import Section
from beit.report.summary import Figure, model_facts

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True, kw_only=True)
class RunKind(Generic[Config]):
    """A kind of run as its page shows it; what is left out, the page does without."""

    verb: str
    """The verb that makes such a run again."""
    title: Callable[[Config], str]
    use: str
    """A line of Python that uses `predictor`, the loaded model."""
    next: str
    """A command that goes on from the run, with {data} and {run}."""
    charts: tuple[Plan, ...] = ()
    """Beside those that every run has; metrics in no chart get one each."""
    headline: Callable[[Config, History], list[Figure]] = lambda _config, _history: []
    """The big numbers, before the number of steps."""
    facts: Callable[[Config], Sequence[str]] = model_facts
    """Model and size, for the line below the title."""
    sections: Callable[[Path, Config], list[Section]] = lambda _run, _config: []
    """The sections with images. They may raise: the page then says why there are none."""
    contender: Callable[[Path, Config], Contender] = no_images
    """What it makes of some images, on a page that compares runs."""
