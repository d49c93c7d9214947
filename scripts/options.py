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
from collections.abc import Iterator, Mapping
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
SHARED = {
    "LoaderOptions": config.LoaderConfig,
    "ModelOptions": config.VisionTransformerConfig,
    "ViewOptions": config.ViewConfig,
    "FolderOptions": config.FolderConfig,
    "LabelFileOptions": config.LabelFileConfig,
    "AdaptationOptions": config.AdaptationConfig,
    "BalanceOptions": config.BalanceConfig,
    "MaskOptions": config.MaskConfig,
}
"""What several verbs have in common, written once."""
HEAD = f'''"""The options of each verb in Python, as type checkers and editors know them.

Written by `{AGAIN}` from the config classes, which say what each option means.
"""

from __future__ import annotations

from os import PathLike
from typing import Literal, TypedDict

'''
Hints = dict[str, list[Any]]
"""What may be given for each option, as members of a union."""
Texts = dict[str, str]
"""The same as it is written."""


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


def _texts(kind: type[Any]) -> Texts:
    return {option: union(hints) for option, hints in options(kind).items()}


def union(hints: typing.Iterable[Any]) -> str:
    return " | ".join(dict.fromkeys(map(written, hints)))


def typed(name: str, found: Texts, shared: Mapping[str, Texts], *bases: str) -> str:
    """A class with these options, those of the shared classes that it has whole by inheritance."""
    whole = {base: texts for base, texts in shared.items() if texts.items() <= found.items()}
    inherited = set().union(*whole.values())
    own = [f"    {option}: {text}\n" for option, text in found.items() if option not in inherited]
    ancestors = ", ".join([*bases, *whole]) or "TypedDict"
    return f"class {name}({ancestors}, total=False):\n{''.join(own)}\n\n"


def render() -> str:
    """The whole file, formatted."""
    verbs = RUNS | MEASURING
    texts = {name: _texts(kind) for name, kind in verbs.items()}
    first, *others = (texts[name].items() for name in RUNS)
    of_runs = dict(entry for entry in first if all(entry in other for other in others))

    def beside(found: Texts) -> Texts:
        return {option: text for option, text in found.items() if option not in of_runs}

    shared = {name: _texts(kind) for name, kind in SHARED.items()}
    for name, found in shared.items():
        if not found.items() <= of_runs.items():
            shared[name] = beside(found)
    body = "".join(typed(name, found, {}) for name, found in shared.items())
    body += typed("RunOptions", of_runs, shared)
    body += "".join(typed(name, beside(texts[name]), shared, "RunOptions") for name in RUNS)
    body += "".join(typed(name, texts[name], shared) for name in MEASURING)
    nodes = {
        (hint.__module__, hint.__name__)
        for kind in verbs.values()
        for hints in options(kind).values()
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
