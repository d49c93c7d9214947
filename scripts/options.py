"""Write the options of every verb as types for editors: `python scripts/options.py`.

They are read from the config classes; tests/test_typed_options.py fails where the file is older
than these. `--check` only says so.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from beit import config
from beit.config.validation import field_types

FILE = Path(__file__).parents[1] / "src" / "beit" / "config" / "options.py"
AGAIN = "python scripts/options.py"
RUNS = {
    "TokenizerOptions": config.TokenizerRunConfig,
    "PretrainOptions": config.PretrainRunConfig,
    "FinetuneOptions": config.FinetuneRunConfig,
    "SegmentOptions": config.SegmentRunConfig,
}
MEASURING = {"EvaluateOptions": config.EvaluateConfig, "ProbeOptions": config.ProbeConfig}
HEAD = f'''"""The options of each verb in Python, as type checkers and editors know them.

Written by `{AGAIN}` from the config classes, which say what each option means.
"""

from __future__ import annotations

from os import PathLike
from typing import Literal, TypedDict

'''
Hints = dict[str, list[Any]]
"""What may be given for each option, as members of a union."""


def members(hint: Any) -> Iterator[Any]:
    """What an annotation allows, without the ranges."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        yield from members(typing.get_args(hint)[0])
    elif origin in (types.UnionType, typing.Union):
        for each in typing.get_args(hint):
            yield from members(each)
    else:
        yield hint


def alternatives(kind: type[Any]) -> Iterator[type[Any]]:
    """A config and those of this package that may stand in its place."""
    yield kind
    for other in kind.__subclasses__():
        if other.__module__.startswith("beit."):
            yield from alternatives(other)


def options(kind: type[Any]) -> Hints:
    """Every option of a tree of configs, and its nodes; `recipe` is a parameter of the verbs."""
    found: Hints = {}
    for name, hint in field_types(kind).items():
        found.setdefault(name, []).extend(members(hint))
        for node in (each for each in members(hint) if dataclasses.is_dataclass(each)):
            for alternative in alternatives(typing.cast("type[Any]", node)):
                for below, hints in options(alternative).items():
                    found.setdefault(below, []).extend(hints)
    found.pop("recipe", None)
    return {name: list({written(hint): hint for hint in hints}.values())
            for name, hints in found.items()}  # fmt: skip


def written(hint: Any) -> str:
    """A member as it is written; a path may stand for its text."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if typing.get_origin(hint) is tuple:
        inner = ("..." if each is Ellipsis else union(members(each)) for each in arguments)
        return f"tuple[{', '.join(inner)}]"
    if hint in (types.NoneType, str):
        return "None" if hint is types.NoneType else "str | PathLike[str]"
    return str(hint.__name__)


def union(hints: typing.Iterable[Any]) -> str:
    return " | ".join(dict.fromkeys(map(written, hints)))


def typed(name: str, base: str, found: Hints) -> str:
    lines = (f"    {option}: {union(hints)}\n" for option, hints in found.items())
    return f"class {name}({base}, total=False):\n{''.join(lines)}\n\n"


def render() -> str:
    """The whole file, formatted."""
    runs = {name: options(kind) for name, kind in RUNS.items()}
    measuring = {name: options(kind) for name, kind in MEASURING.items()}
    texts = [{option: union(hints) for option, hints in found.items()} for found in runs.values()]
    first, *others = texts
    shared = [
        name for name, text in first.items() if all(other.get(name) == text for other in others)
    ]
    every = next(iter(runs.values()))
    body = typed("RunOptions", "TypedDict", {name: every[name] for name in shared})
    for name, found in runs.items():
        own = {option: hints for option, hints in found.items() if option not in shared}
        body += typed(name, "RunOptions", own)
    for name, found in measuring.items():
        body += typed(name, "TypedDict", found)
    nodes = {
        (hint.__module__, hint.__name__)
        for found in (*runs.values(), *measuring.values())
        for hints in found.values()
        for hint in hints
        if dataclasses.is_dataclass(hint)
    }
    imports = "".join(f"from {module} import {name}\n" for module, name in sorted(nodes))
    return _by_ruff(HEAD + imports + "\n\n" + body)


def _by_ruff(text: str) -> str:
    for command in (["check", "--select=I,UP,RUF", "--fix", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            ["ruff", *command, f"--stdin-filename={FILE}", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def main() -> None:
    text = render()
    if "--check" not in sys.argv:
        FILE.write_text(text)
    elif FILE.read_text() != text:
        sys.exit(f"{FILE.name} is older than the config classes; write it again: {AGAIN}")


if __name__ == "__main__":
    main()
