"""Words into calls: a verb is a function, and its options are the function's parameters."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import os
import re
import shutil
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import tyro

from beit.cli.places import check_places
from beit.config.data import DataConfig, DividedDataConfig
from beit.errors import BeitError, ConfigError, nearest

Paths = Annotated[tuple[str, ...], tyro.conf.Positional]
Artifact = Annotated[str, tyro.conf.Positional]
AsRead = Annotated[DataConfig, tyro.conf.arg(name="")]
"""How images are read, among the options of a verb."""
AsDivided = Annotated[DividedDataConfig, tyro.conf.arg(name="")]
AS_READ, AS_DIVIDED = DataConfig(), DividedDataConfig()
Verb = Callable[[list[str]], None]
MARKS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
_WITHIN_AN_OPTION = re.compile(r"\n {8,}(?=\S)")
NARROWEST = 40
"""Fewest columns to assume: on fewer, the parser wraps its help endlessly and tables lose cells."""


def call(function: Callable[..., None], args: Sequence[str], prog: str) -> None:
    """Parse the words of a command, and call a function with what they say.

    Args:
        function: Its parameters are the options, and its docstring is their help.
        args: The words after the verb.
        prog: The name of the command in its help.

    Raises:
        ConfigError: A config refuses its options.
        CheckpointError: There is nothing at the path of a model.
        DataError: There is nothing at the path of images.
        SystemExit: The parser does not understand the words, or has printed the help.
    """
    with parsing():
        bound = tyro.cli(_binding(function), args=args, prog=prog, config=MARKS)
    check_places(bound)
    bound()


def verb(name: str, function: Callable[..., None]) -> Verb:
    """A verb of the command line; the first line of the function's docstring describes it."""

    def run(args: list[str]) -> None:
        call(function, args, f"beit {name}")

    run.__doc__ = (function.__doc__ or "").split("\n\n")[0]
    return run


def verb_with_subcommands(
    name: str, commands: Mapping[str, Callable[..., None]], description: str
) -> Verb:
    """A verb whose next word chooses one of several functions.

    Args:
        name: The verb.
        commands: The functions by the words that choose them.
        description: A sentence for the list of verbs and for the verb's own help.
    """

    def run(args: list[str]) -> None:
        check_subcommand(name, commands, args)
        with parsing():
            bound = tyro.extras.subcommand_cli_from_dict(
                {word: _binding(function) for word, function in commands.items()},
                args=args,
                prog=f"beit {name}",
                description=description,
                config=MARKS,
            )
        check_places(bound)
        bound()

    run.__doc__ = description
    return run


def _binding(function: Callable[..., None]) -> Callable[..., functools.partial[None]]:
    # The parser reads the docstring, and would keep line breaks within the help of an option.
    function.__doc__ = _WITHIN_AN_OPTION.sub(" ", inspect.cleandoc(function.__doc__ or ""))

    @functools.wraps(function)
    def bind(*values: object, **options: object) -> functools.partial[None]:
        return functools.partial(function, *values, **options)

    return bind


def check_subcommand(name: str, known: Collection[str], args: Sequence[str]) -> None:
    """Check the word after a verb, which is a subcommand or an option.

    Args:
        name: The verb, for the message.
        known: Its subcommands.
        args: The words after the verb.

    Raises:
        ConfigError: The first word is neither an option nor a known subcommand.
    """
    if args and not args[0].startswith("-") and args[0] not in known:
        raise ConfigError(f"{name} has no subcommand '{args[0]}'", remedy=nearest(args[0], known))


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Let `--size 224` stand for `--size 224 224`. If a config refuses its options, raise its error
    like any other; the parser would print it in a box of its own, and exit.

    Only for parsing: what goes to stderr is held back until the end.
    """
    printed = io.StringIO()
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    try:
        with _as_written(), contextlib.redirect_stderr(printed):
            yield
    except SystemExit as left:
        cause = left.__context__
        while cause is not None and not isinstance(cause, BeitError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        sys.stderr.write(printed.getvalue())
        raise
    sys.stderr.write(printed.getvalue())


def _as_written() -> tyro.constructors.ConstructorRegistry:
    """Rules for options that the parser would read differently, and for how their help is shown."""
    registry = tyro.constructors.ConstructorRegistry()
    asked: list[tyro.constructors.StructTypeInfo] = []

    @registry.struct_rule
    def unwrapped(
        info: tyro.constructors.StructTypeInfo,
    ) -> tyro.constructors.StructConstructorSpec | None:
        """The help of each option of a config as one paragraph."""
        if any(one is info for one in asked):
            return None
        asked.append(info)
        try:
            spec = registry.get_struct_spec(info)
        finally:
            asked.pop()
        if not isinstance(spec, tyro.constructors.StructConstructorSpec):
            return None
        fields = (
            replace(item, helptext=functools.partial(_one_paragraph, item.helptext))
            for item in spec.fields
        )
        return replace(spec, fields=tuple(fields))

    @registry.primitive_rule
    def square(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if typing.get_args(info.type) != (int, int):  # tyro writes it as typing.Tuple
            return None

        def parse(words: list[str]) -> tuple[int, int]:
            if len(words) not in (1, 2):
                raise ValueError(f"{len(words)} numbers: give one side, or height and width")
            return int(words[0]), int(words[-1])

        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="INT [INT]",
            instance_from_str=parse,
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [str(side) for side in value],
        )

    return registry


def _one_paragraph(text: str | Callable[[], str | None] | None) -> str | None:
    shown = text() if callable(text) else text
    return shown and " ".join(shown.split())


def value_of(option: str, args: Sequence[str]) -> str:
    """The value of an option that must be known before the others can be parsed."""
    for position, word in enumerate(args):
        if word == option and position + 1 < len(args):
            return args[position + 1]
        if word.startswith(option + "="):
            return word.removeprefix(option + "=")
    return ""


def gathered(option: str, args: Sequence[str]) -> list[str]:
    """The arguments, with all values of a repeated option given at once: the parser would take the
    last and drop the others."""
    values: list[str] = []
    others: list[str] = []
    into = others
    for word in args:
        name, _, value = word.partition("=")
        if name == option:
            into = values
            values += [value] if value else []
        else:
            into = others if word.startswith("-") else into
            into.append(word)
    return [*others, option, *values] if values else list(args)
