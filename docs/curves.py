"""The figure of curves.md and the numbers of notes/curves.md: healthy and sick runs of `tiny`.

`python -m docs.curves FOLDER` cuts satellite tiles and trains on them in FOLDER, some minutes on a
CPU. Then it writes notes/curves.json and curves.png, and the tables of notes/curves.md. Started
again, it goes on where it was.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import beit
from beit.errors import BeitError, Preempted
from beit.recipes.demo import TILE
from beit.report.history import History, Kind, read_history
from beit.studies.tiles import make_tiles
from benchmarks.machine import describe
from docs.panels import HEALTHY, figure

DOCS = Path(__file__).parent
COLLAPSED, BLIND, DEAD = "lr 0.1", "kl weight 1", "dead codes"

Options = dict[str, Any]

COMMON: Options = {
    "batch": 32,
    "warmup_steps": 20,
    "log_every": 20,
    "evaluate_every": 40,
    "precision": "fp32",
}
SILENT: Options = {"tracker": ("none",), "report": False, "quiet": True}
"""Options that change no number."""


class Images(NamedTuple):
    """Folders of those to learn a vocabulary from and to pre-train on, and of those with classes;
    and what they are, in words."""

    unlabelled: str
    labelled: str
    description: str


class Runs(NamedTuple):
    """Of one verb: what all its runs have in common, and what each of them has of its own."""

    shared: Options
    own: dict[str, Options]


def runs(folder: Path, images: Images) -> dict[str, Runs]:
    """Verb to its runs, each made with those before it."""
    unlabelled, tokenizers = images.unlabelled, folder / "tokenizer"
    return {
        "tokenizer": Runs(
            {"data": unlabelled, "steps": 600},
            {
                HEALTHY: {},
                COLLAPSED: {"lr": 0.1},
                BLIND: {"kl_weight": 1.0},
                DEAD: {"codes": 256, "kl_weight": 0.0, "revive_every": 0},
                "lr 0.5": {"lr": 0.5},
            },
        ),
        "pretrain": Runs(
            {
                "data": unlabelled,
                "steps": 400,
                "lr": 0.005,
                "evaluate_every": 0,
                "tokenizer": str(tokenizers / HEALTHY),
                "tokenizer_precision": "fp32",
                "labelled": images.labelled,
                "knn_images": 500,
            },
            {
                HEALTHY: {},
                "lr 0.00001": {"lr": 1e-5},
                "lr 0.1": {"lr": 0.1},
                "lr 1": {"lr": 1.0},
                "one hidden patch": {"mask_ratio": 0.016},
                "tokens of kl weight 1": {"tokenizer": str(tokenizers / BLIND)},
                "dead codes, refused": {"tokenizer": str(tokenizers / DEAD)},
                "one code, accepted": {
                    "tokenizer": str(tokenizers / COLLAPSED),
                    "accept_collapsed": True,
                },
                "slow reading": {"workers": 0, "cache": False},
            },
        ),
        "finetune": Runs(
            {
                "data": images.labelled,
                "steps": 400,
                "rand_augment": "",
                "smoothing": 0.0,
                "init": str(folder / "pretrain" / HEALTHY),
            },
            {
                HEALTHY: {},
                "three labels a class": {"per_class": 3},
                "RandAugment": {"rand_augment": "rand-m9-mstd0.5-inc1"},
                "lr 0.3": {"lr": 0.3},
            },
        ),
    }


def train(verb: str, place: Path, options: Options) -> str:
    """Carry out a run, or what is left of it; the error that ended it, if one did."""
    begun = (place / "config.json").exists()
    try:
        getattr(beit, verb)("tiny", out=str(place), resume=begun, **SILENT, **options)
    except Preempted:
        raise
    except BeitError as error:
        return f"{type(error).__name__}: {error.problem.split(';')[0]}"
    return ""


class Column(NamedTuple):
    """A number of each run in a table: one of the values of a metric."""

    head: str
    kind: Kind
    metric: str
    digits: int
    choose: Callable[[list[float]], float] = lambda values: values[-1]


GRADIENT = Column("`grad_norm`", "train", "grad_norm", 2)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "tokenizer": (
        Column("`reconstruction`", "train", "reconstruction", 3),
        Column("`kl`", "train", "kl", 2),
        Column("`codes_in_use`, held out", "evaluate", "codes_in_use", 0),
        Column("`perplexity`, held out", "evaluate", "perplexity", 1),
        Column("`psnr`", "evaluate", "psnr", 1),
    ),
    "pretrain": (
        Column("`loss`", "train", "loss", 2),
        Column("highest", "train", "loss", 2, max),
        Column("`token_entropy`", "train", "token_entropy", 2),
        Column("`accuracy`", "train", "accuracy", 2),
        Column("`codes_in_use`", "train", "codes_in_use", 0),
        GRADIENT,
        Column("`neighbours`", "evaluate", "neighbours", 2),
        Column("`data_wait`, median", "train", "data_wait", 2, statistics.median),
    ),
    "finetune": (
        Column("`loss`", "train", "loss", 2),
        Column("`accuracy`", "train", "accuracy", 2),
        Column("`loss`, validation", "evaluate", "loss", 2),
        Column("lowest", "evaluate", "loss", 2, min),
        Column("`top1`", "evaluate", "top1", 2),
        Column("highest", "evaluate", "top1", 2, max),
        GRADIENT,
    ),
}


def numbers(verb: str, history: History) -> dict[str, float]:
    """The numbers of a run by the heads of its columns, without what was never logged."""
    found = {}
    for column in COLUMNS[verb]:
        values = [value for _, value in history.points(column.kind, column.metric)]
        if values:
            found[column.head] = round(column.choose(values), column.digits)
    return found


def written(options: Options, folder: Path) -> str:
    """Options as the command line takes them; what lies in the folder by its name there."""
    words = []
    for name, value in options.items():
        given = f"{value:g}" if isinstance(value, float) else str(value)
        given = given.removeprefix(f"{folder}/")
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [given])
    return f"`{shlex.join(words)}`" if words else ""


def parts(record: dict[str, Any]) -> dict[str, str]:
    """What stands between the marks of the page, by their names."""
    machine = record["machine"]
    made = (
        f"Made by `python -m docs.curves FOLDER` at commit {machine['commit']}, "
        f"{machine['date'][:10]}, on {record['images']}; {machine['threads']} of "
        f"{machine['cores']} cores of an {machine['processor']}, torch "
        f"{machine['versions']['torch']}."
    )
    return {"made": made} | {verb: table(verb, found) for verb, found in record["verbs"].items()}


def table(verb: str, found: dict[str, Any]) -> str:
    """What the runs of a verb have in common; then the runs, one a row, and how some ended."""
    lines = [
        f"All with `beit {verb} tiny` and {found['shared']}.",
        "",
        f"| run | its own options | {' | '.join(column.head for column in COLUMNS[verb])} |",
        "| --- " * (2 + len(COLUMNS[verb])) + "|",
    ]
    for name, run in found["runs"].items():
        logged = run["numbers"]
        cells = [
            f"{logged[column.head]:.{column.digits}f}" if column.head in logged else ""
            for column in COLUMNS[verb]
        ]
        lines.append(f"| {name} | {' | '.join([run['options'], *cells])} |")
    for name, run in found["runs"].items():
        if run["ended"]:
            lines += ["", f"`{name}` ended: {run['ended']}."]
    return "\n".join(lines)


def fill(page: str, record: dict[str, Any]) -> str:
    """The page with what was made between its marks."""
    for name, text in parts(record).items():
        between = re.compile(rf"(<!-- {name}: begin -->\n\n).*?(\n\n<!-- {name}: end -->)", re.S)
        page = between.sub(lambda found, text=text: found[1] + text + found[2], page)
    return page


def make(folder: Path, images: Images, docs: Path, others: dict[str, Options]) -> dict[str, Any]:
    """Train in `folder`, and write what was found to `docs`. `others` are options of all runs of a
    verb."""
    record: dict[str, Any] = {
        "machine": describe(torch.device("cpu")),
        "images": images.description,
    }
    record["machine"]["threads"] = torch.get_num_threads()
    record["verbs"] = {}
    histories: dict[str, dict[str, History]] = {}
    for verb, (shared, own) in runs(folder, images).items():
        shared, found = {**COMMON, **shared, **others.get(verb, {})}, {}
        histories[verb] = {}
        for name, options in own.items():
            place = folder / verb / name
            ended = train(verb, place, {**shared, **options})
            print(f"{verb}, {name}: {ended or 'done'}", flush=True)
            histories[verb][name] = read_history(place)
            found[name] = {
                "options": written(options, folder),
                "numbers": numbers(verb, histories[verb][name]),
                "ended": ended.replace(f"{folder}/", ""),
            }
        record["verbs"][verb] = {"shared": written(shared, folder), "runs": found}
    (docs / "notes" / "curves.json").write_text(json.dumps(record, indent=1) + "\n")
    page = docs / "notes" / "curves.md"
    page.write_text(fill(page.read_text(), record))
    figure(histories, docs / "curves.png")
    return record


def tiles(folder: Path) -> Images:
    """Satellite tiles; training places are twice as dense without labels."""
    made = make_tiles(folder, stride=30, labelled_stride=43)
    counts = made["labelled"]
    assert isinstance(counts, dict)
    training, validation = (
        sum(number for name, number in counts.items() if name.startswith(part))
        for part in ("train", "val")
    )
    description = (
        f"{made['unlabelled']:,} satellite tiles of {TILE} pixels without labels, {training} "
        f"labelled ones to train on and {validation} to validate"
    )
    return Images(str(folder / "unlabelled"), str(folder / "labelled"), description)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    make(root, tiles(root / "tiles"), DOCS, {})
