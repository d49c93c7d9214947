"""The verbs that train: tokenizer, pretrain, finetune, segment."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import tyro

from beit.cli.options import AS_DIVIDED, AsDivided, call, gathered, parsing, value_of
from beit.cli.places import OPTIONS, check_options
from beit.config import RunConfig
from beit.config.following import LEADERS
from beit.config.tree import by_name, override
from beit.errors import ConfigError
from beit.recipes import DEFAULT, RECIPES, find_recipe
from beit.terminal import print_lines

Config = TypeVar("Config", bound=RunConfig)
ELSEWHERE = {
    "masks": "annotations", "epochs": "steps", "batch_size": "batch", "learning_rate": "lr",
    "image_size": "size", "weights": "init", "checkpoint": "init", "output": "out",
    "output_dir": "out",
}  # fmt: skip
"""Names of options in other programs or of another verb, and what they are called here."""


@dataclasses.dataclass(frozen=True)
class Training(Generic[Config]):
    """What the command line adds to a run's config."""

    config: Config
    resume: bool = False
    """Continue the run in `out` instead of starting a new one."""
    quiet: bool = False
    """Write the log, but print nothing."""


def train(verb: str, args: list[str]) -> None:
    """Carry out a run whose config is the recipe, changed by the architecture of `--init`, then by
    every option."""
    known = RECIPES[verb]
    default = DEFAULT if DEFAULT in known else next(iter(known))
    kind = type(known[default]())
    recipe = value_of("--recipe", args)
    if args and not args[0].startswith("-"):
        recipe, args = args[0], args[1:]
    inputs = None
    if "--help" in args or "-h" in args:
        base = find_recipe(verb, recipe or default, kind)
    else:
        check_options({name: value_of(f"--{name}", args) for name in OPTIONS})
        from beit.tasks import TASKS, Inputs, base_config

        inputs = Inputs()
        known_first = {"init": value_of("--init", args), "out": value_of("--out", args)}
        resume = "--resume" in args
        base = base_config(TASKS[verb], recipe or None, known_first, inputs, resume=resume)
    recipes = "\n".join(
        f"  {each}: {(function.__doc__ or '').strip().splitlines()[0]}"
        for each, function in known.items()
    )
    parse = partial(
        tyro.cli,
        Training[kind],  # type: ignore[valid-type]
        default=Training(override(base, _parsed_first(args, by_name(base)))),
        args=gathered("--tracker", args),
        prog=f"beit {verb} [RECIPE]",
        description=f"{kind.__doc__}\n\nRecipes ({base.recipe} is shown below):\n{recipes}",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    with parsing():
        command, unknown = parse(return_unknown_args=True)
        for word in unknown:
            if word in known:
                raise ConfigError(
                    f"the recipe {word} comes after the options",
                    remedy=f"a recipe comes first: beit {verb} {word} --data ...",
                )
            name = word.partition("=")[0]
            here = ELSEWHERE.get(name.removeprefix("--").replace("-", "_"))
            if here in by_name(base):
                raise ConfigError(
                    f"{verb} has no option {name}",
                    remedy=f"use --{here} (see `beit {verb} --help`)",
                )
        if unknown:
            parse()  # exits, naming the unknown options and similar ones
    from beit.tasks import TASKS
    from beit.tasks.folds import run_folds

    run = run_folds(
        TASKS[verb],
        recipe or None,
        _given(command.config, args),
        resume=command.resume,
        quiet=command.quiet,
        inputs=inputs,
    )
    leads = os.environ.get("RANK", "0") == "0"  # of the processes torchrun started
    if leads and not command.quiet:
        one_of_folds = run.artifact.parent != run.folder  # measured, not for use
        model = () if one_of_folds else (f"model   {run.artifact}",)
        print_lines(*model, f"report  {run.folder / 'report.html'}")


def _typed(args: list[str]) -> set[str]:
    """The names of the options that were typed."""
    words = (word.partition("=")[0] for word in args if word.startswith("--"))
    return {word.removeprefix("--").replace("-", "_") for word in words}


def _parsed_first(args: list[str], known: Mapping[str, object]) -> dict[str, object]:
    """Options that must be known before the rest is parsed: those that others follow, and flags,
    which are spelt `--x` or `--no-x` depending on their default. A value that is not a number is
    left to the parser."""
    first: dict[str, object] = {}
    for name, kind in LEADERS.items():
        word = value_of(f"--{name}", args)
        if word and name in known:
            with suppress(ValueError):
                first[name] = kind(word)
    for name in _typed(args):
        off = name.removeprefix("no_")
        if isinstance(known.get(off), bool):
            first[off] = off != name
    return first


def _given(config: RunConfig, args: list[str]) -> dict[str, object]:
    """The options that were typed, with their values."""
    names = {name.removeprefix("no_") for name in _typed(args)}
    return {name: value for name, value in by_name(config).items() if name in names}


def compare(
    tokenizers: tyro.conf.Positional[tuple[str, ...]],
    data: str,
    out: str,
    images: int = 512,
    device: str = "auto",
    options: AsDivided = AS_DIVIDED,
) -> None:
    """Compare tokenizers: codes in use, perplexity, reconstruction, stability, neighbours.

    Args:
        tokenizers: Runs of `beit tokenizer`, artifacts or released tokenizers.
        data: Images; if they have classes, the tokens are also measured by nearest neighbours.
        out: Folder for tokenizers.json and tokenizers.html.
        images: At most this many images, spread evenly over the data; with classes, of each split.
        device: cpu, cuda, mps, or auto: a GPU if there is one.
        options: How images are read, if they leave it open.
    """
    from beit.report.tokenizer import HEAD
    from beit.tasks.comparing import compare_tokenizers

    rows = compare_tokenizers(
        tokenizers,
        data=data,
        out=out,
        images=images,
        device=device,
        reading=options.reading,
    )
    for line in (HEAD, ("---",) * len(HEAD), *(row.row() for row in rows)):
        print_lines(f"| {' | '.join(line)} |")
    print_lines("", f"page   {Path(out) / 'tokenizers.html'}")


def tokenizer(args: list[str]) -> None:
    """Train a visual tokenizer on your images; `tokenizer compare` measures several."""
    if args[:1] == ["compare"]:
        call(compare, args[1:], "beit tokenizer compare")
    else:
        train("tokenizer", args)


def pretrain(args: list[str]) -> None:
    """Pre-train a backbone: predict the visual tokens of masked patches."""
    train("pretrain", args)


def finetune(args: list[str]) -> None:
    """Train a classifier from a pre-trained artifact, or from scratch."""
    train("finetune", args)


def segment(args: list[str]) -> None:
    """Train a segmenter on images and masks: a class for each pixel."""
    train("segment", args)
