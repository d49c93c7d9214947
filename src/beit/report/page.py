"""One self-contained page per run: what came out, how it went, how it looks, how to repeat it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from beit.atomic_io import replace_file
from beit.config.runs import RunConfig
from beit.data.account import account_from_json
from beit.errors import BeitError, ResourceError
from beit.report.chart_specs import curves
from beit.report.document import document
from beit.report.history import History, read_history
from beit.report.markup import Markup, Section, block, count, element, join, note
from beit.report.run_kind import RunKind
from beit.report.settings import settings
from beit.report.summary import facts, findings, steps_figure
from beit.training.run_folder import RunFolder, read_reasons

NAMED = 50
logger = logging.getLogger(__name__)


def _images(run: Path, config: RunConfig, kind: RunKind[Any]) -> list[Section]:
    """The sections with images, or one that says why there are none.

    A report closes a run that took days, so nothing it meets outside may end it: data that have
    moved, a disk that fails, a device without memory.
    """
    try:
        return kind.sections(run, config)
    except (BeitError, OSError, RuntimeError) as error:
        return [without_images(error, f"beit report {run}")]


def without_images(error: BeitError | OSError | RuntimeError, again: str) -> Section:
    """Why there are no images, and the command that adds them later."""
    logger.warning("the page has no images: %s", error)
    problem = error.problem if isinstance(error, BeitError) else str(error)
    remedy = error.remedy if isinstance(error, BeitError) else ""
    words: list[str] = [element("b", "No images: "), problem]
    words += [f" ({remedy})"] if remedy else []
    words += [". Once that is mended, ", element("code", again), " adds them."]
    return Section("images", "Images", "", note(join(words), "warning"))


NOTED = {
    "unreadable": ("image", "could not be read and had no part in the training"),
    "several": ("file", "held several images, of which the first was taken"),
    "shared": (
        "image",
        "to learn from came again for validation: the scores are higher than they should be",
    ),
}
"""Files of a run that name images, and what is to be said of those."""


def _noted(run: Path, name: str) -> list[Markup]:
    """How many images the run named for one reason, and which."""
    found = read_reasons(run / f"{name}.jsonl")
    if not found:
        return []
    lines = [
        element("li", [element("code", key), f": {reason}"])
        for key, reason in list(found.items())[:NAMED]
    ]
    if len(found) > NAMED:
        lines.append(element("li", f"and {len(found) - NAMED} more, in {name}.jsonl"))
    noun, said = NOTED[name]
    words = f"{count(len(found), noun)} {said}"
    listed = element("details", [element("summary", words), element("ul", lines)])
    return [element("div", listed, {"class": "note"})]


def _account(run: Path) -> list[Markup]:
    """What was understood of the data; runs of older versions did not keep it."""
    try:
        account = account_from_json(RunFolder(run).account.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    title, *lines = account.lines()
    skipped = sum(one.count for one in account.skipped)
    title += f"; {count(skipped, 'file')} skipped" if skipped else ""
    listed = [element("li", line.strip()) for line in lines]
    details = element("details", [element("summary", title), element("ul", listed)])
    return [element("div", details, {"class": "note"})]


def _notices(run: Path, config: RunConfig, history: History) -> list[Markup]:
    warnings = [note(words, "warning") for words in findings(config, history)]
    named = [lines for name in NOTED for lines in _noted(run, name)]
    return [*warnings, *_account(run), *named]


def _header(
    run: Path, config: RunConfig, history: History, kind: RunKind[Any], sections: list[Section]
) -> Markup:
    figures = [
        element(
            "div",
            [
                element("b", figure.value),
                element("span", figure.label),
                element("i", figure.beside),
            ],
        )
        for figure in [*kind.headline(config, history), steps_figure(config, history)]
    ]
    links = [element("a", part.title, {"href": f"#{part.anchor}"}) for part in sections]
    notices = _notices(run, config, history)
    return element(
        "header",
        [
            element("p", kind.title(config), {"class": "kind"}),
            element("h1", run.resolve().name),
            element("p", facts(run, config, kind.facts(config)), {"class": "facts"}),
            block("numbers", figures),
            block("notices", notices) if notices else "",
            element("nav", links, {"aria-label": "Sections"}),
        ],
    )


def section(part: Section) -> Markup:
    lead = element("p", part.lead, {"class": "lead"}) if part.lead else ""
    return element("section", [element("h2", part.title), lead, part.body], {"id": part.anchor})


def page(run: Path, config: RunConfig, history: History, kind: RunKind[Any]) -> str:
    """The whole document."""
    sections = [
        curves(kind.charts, history),
        *_images(run, config, kind),
        settings(run, config, kind),
    ]
    body = [
        _header(run, config, history, kind, sections),
        element("main", [section(part) for part in sections]),
    ]
    return document(f"{run.resolve().name} · {kind.title(config)}", body)


def write_page(run: Path, config: RunConfig, kind: RunKind[Any]) -> Path:
    """Write RUN/report.html, for a finished run or one that is under way.

    Errors: ResourceError if it cannot be written to.
    """
    place = run / "report.html"
    try:
        replace_file(place, [page(run, config, read_history(run), kind).encode()])
    except OSError as error:
        raise ResourceError(
            f"{place} cannot be written: {error.strerror}", remedy="make room or permit writing"
        ) from error
    return place
