"""What the verbs share: positional arguments, sizes in pixels, subcommands, errors of configs."""

from __future__ import annotations

import contextlib
import io
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import tyro

from beit.config.data import LabelFileConfig
from beit.errors import BeitError, ConfigError, nearest

Paths = Annotated[tuple[str, ...], tyro.conf.Positional]
Artifact = Annotated[str, tyro.conf.Positional]
LabelFile = Annotated[LabelFileConfig, tyro.conf.arg(name="")]
"""How a label file is read, among the options of a verb."""


def pixels() -> tyro.constructors.ConstructorRegistry:
    """Let `--size 224` stand for `--size 224 224`."""
    registry = tyro.constructors.ConstructorRegistry()

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


def value_of(option: str, args: Sequence[str]) -> str:
    """The value of an option that must be known before the others can be parsed."""
    for position, word in enumerate(args):
        if word == option and position + 1 < len(args):
            return args[position + 1]
        if word.startswith(option + "="):
            return word.removeprefix(option + "=")
    return ""


def gathered(option: str, args: Sequence[str]) -> list[str]:
    """The arguments with an option of several values given once, where it was repeated: the parser
    would take the last and drop the others."""
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


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Let out the error of a config that refuses its options, as every other error: the parser
    prints it in a box of its own, and leaves. Only for parsing: nothing is printed before its end.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as left:
        cause = left.__context__
        while cause is not None and not isinstance(cause, BeitError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        sys.stderr.write(said.getvalue())
        raise
    sys.stderr.write(said.getvalue())


def check_subcommand(verb: str, known: Collection[str], args: Sequence[str]) -> None:
    """Raise ConfigError if the first word is no option and none of the known."""
    if args and not args[0].startswith("-") and args[0] not in known:
        raise ConfigError(f"{verb} has no subcommand '{args[0]}'", remedy=nearest(args[0], known))


def run_subcommand(
    verb: str, commands: Mapping[str, Callable[..., None]], args: list[str], description: str
) -> None:
    """Run one of the commands of a verb. Raises ConfigError for an unknown one."""
    check_subcommand(verb, commands, args)
    tyro.extras.subcommand_cli_from_dict(
        dict(commands), args=args, prog=f"beit {verb}", description=description
    )
