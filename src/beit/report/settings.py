"""The foot of the page: the command that makes the run again, how to use it, every option."""

from __future__ import annotations

import json
import platform
import shlex
from pathlib import Path
from typing import Any

import torch

from beit.config.runs import RunConfig
from beit.config.tree import differences, leaves
from beit.recipes import RECIPES
from beit.report.markup import Markup, Section, element, join, note, table
from beit.report.run_kind import RunKind
from beit.weights.store import described


def _comes_from_init(name: str, value: object, init: str) -> bool:
    """Whether an option of the architecture is what starting from that artifact brings."""
    if not init or not name.startswith("model.") or name == "model.drop_path":
        return False
    start = described(init)
    backbone = None if start is None else getattr(start.architecture, "backbone", None)
    return name != "model.size" or (backbone is not None and backbone.size == value)


def changed_options(verb: str, config: RunConfig) -> dict[str, object] | None:
    """Options by path whose values are not the recipe's, nor brought by `init`.

    None for a recipe of somebody's own: a page must not import code that a folder names.
    """
    recipe = RECIPES[verb].get(config.recipe)
    if recipe is None:
        return None
    init = getattr(config, "init", "")
    return {
        name: now
        for name, (_, now) in differences(recipe(), config).items()
        if name not in ("recipe", "data", "out") and not _comes_from_init(name, now, init)
    }


def _words(value: object) -> list[str]:
    """A value as the command line takes it."""
    values = value if isinstance(value, list | tuple) else [value]
    return [str(entry) for entry in values]


def _option(name: str, value: object) -> str:
    flag = name.rsplit(".", 1)[-1].replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return " ".join([f"--{flag}", *map(shlex.quote, _words(value))])


def command(verb: str, config: RunConfig) -> tuple[str, str]:
    """The command that makes this run, and what it cannot say (empty: nothing)."""
    changed = changed_options(verb, config)
    # The type of a part is chosen in Python, and the options of another type go with it.
    parts = [name.removesuffix(".type") for name in changed or {} if name.endswith(".type")]
    named = {"data": config.data, "out": config.out} | {
        name: value
        for name, value in (changed or {}).items()
        if not any(name.startswith(f"{part}.") for part in parts)
    }
    start = " ".join(filter(None, ["beit", verb, shlex.quote(config.recipe)]))
    lines = [start] + [_option(name, value) for name, value in named.items() if value != ""]
    missing = ""
    if changed is None:
        missing = (
            "The recipe is not one of this package, so options that were changed beside it are not "
            "listed; all values stand in the table below."
        )
    elif parts:
        missing = (
            f"Chosen in Python, not by this command: {', '.join(parts)} (see the table below)."
        )
    return " \\\n  ".join(lines), missing


def _options(verb: str, config: RunConfig) -> Markup:
    changed = changed_options(verb, config) or {}
    rows = []
    for path, value in leaves(config):
        name = ".".join(path)
        shown = json.dumps(value)
        rows.append([element("code", name), element("b", shown) if name in changed else shown])
    return table(["option", "value"], rows)


def _versions(run: Path) -> str:
    from beit import __version__

    model = described(run)
    versions = {} if model is None else model.versions
    made = ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"
    return (
        f"Trained with {made}. Page written with beit {__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}."
    )


def settings(run: Path, config: RunConfig, kind: RunKind[Any]) -> Section:
    """How to make the run again, how to use it, what every option was."""
    again, missing = command(kind.verb, config)
    place = shlex.quote(str(run))
    further = kind.next.format(data=shlex.quote(config.data), run=place)
    use = f"import beit\n\npredictor = beit.load({str(run)!r})\n{kind.use}"
    body = [
        element("h3", "Make it again"),
        element("pre", again),
        note(missing) if missing else "",
        element("h3", "Use it"),
        element("pre", use),
        element("h3", "Go on"),
        element("pre", further),
        element("details", [element("summary", "Every option"), _options(kind.verb, config)]),
    ]
    return Section("settings", "Settings", _versions(run), join(body))
