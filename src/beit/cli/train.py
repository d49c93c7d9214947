"""The verbs that train: tokenizer, pretrain, finetune, segment."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import tyro

from beit.cli.options import LabelFile, call, gathered, parsing, value_of
from beit.config import RunConfig
from beit.config.data import BY_HEADINGS
from beit.errors import ConfigError
from beit.recipes import DEFAULT, RECIPES, find_recipe
from beit.terminal import print_lines

Config = TypeVar("Config", bound=RunConfig)


@dataclasses.dataclass(frozen=True)
class Training(Generic[Config]):
    """What the command line adds to a run's config."""

    config: Config
    resume: bool = False
    """Go on with the run in `out` instead of starting one."""
    quiet: bool = False
    """Write the log, but print nothing."""


def train(verb: str, args: list[str]) -> None:
    """Recipe, then the architecture of `--init`, then every option over it; then the run."""
    known = RECIPES[verb]
    first = DEFAULT if DEFAULT in known else next(iter(known))
    name, kind = value_of("--recipe", args) or first, type(known[first]())
    if args and not args[0].startswith("-"):
        name, args = args[0], args[1:]
    config = find_recipe(verb, name, kind)
    init, inputs = value_of("--init", args), None
    if init and "--help" not in args and "-h" not in args:
        from beit.tasks import Inputs, starting_from

        inputs = Inputs()
        config = starting_from(config, init, inputs)
    recipes = "\n".join(
        f"  {each}: {(function.__doc__ or '').strip().splitlines()[0]}"
        for each, function in known.items()
    )
    parse = partial(
        tyro.cli,
        Training[kind],  # type: ignore[valid-type]
        default=Training(config),
        args=gathered("--tracker", args),
        prog=f"beit {verb} [RECIPE]",
        description=f"{kind.__doc__}\n\nRecipes ({name} is shown below):\n{recipes}",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    with parsing():
        command, unknown = parse(return_unknown_args=True)
        for word in unknown:
            if word in known:
                raise ConfigError(
                    f"the recipe {word} stands behind the options",
                    remedy=f"a recipe comes first: beit {verb} {word} --data ...",
                )
        if unknown:
            parse()  # ends with what is unknown, and what it is like
    from beit.tasks import TASKS
    from beit.tasks import run as carry_out

    run = carry_out(
        TASKS[verb],
        command.config,
        {},
        resume=command.resume,
        quiet=command.quiet,
        inputs=inputs,
    )
    leads = os.environ.get("RANK", "0") == "0"  # of the processes torchrun started
    if leads and not command.quiet:
        print_lines(f"model   {run.artifact}", f"report  {run.folder / 'report.html'}")


def compare(
    tokenizers: tyro.conf.Positional[tuple[str, ...]],
    data: str,
    out: str,
    images: int = 512,
    device: str = "auto",
    label_file: LabelFile = BY_HEADINGS,
) -> None:
    """Codes in use, perplexity, reconstruction, steadiness, neighbours: one table, one page.

    Args:
        tokenizers: Runs of `beit tokenizer`, artifacts or released tokenizers.
        data: Images; with classes, the tokens are also measured by nearest neighbours.
        out: Folder for tokenizers.json and tokenizers.html.
        images: At most so many of them, spread evenly; with classes, as many of each part.
        device: cpu, cuda, or auto: a GPU where there is one.
        label_file: How a label file is read, where its headings do not say it.
    """
    from beit.report.tokenizer import HEAD
    from beit.tasks.comparing import compare_tokenizers

    rows = compare_tokenizers(
        tokenizers,
        data=data,
        out=out,
        images=images,
        device=device,
        label_file=label_file,
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
