"""Which function each verb calls. Help is answered without importing torch."""

from __future__ import annotations

import errno
import os
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from beit.cli import FOR_ALL, command_of
from beit.cli.convert import convert, export, push
from beit.cli.data import DATA
from beit.cli.doctor import doctor
from beit.cli.evaluate import evaluate, probe
from beit.cli.models import models
from beit.cli.options import Verb, verb, verb_with_subcommands
from beit.cli.predict import embed, predict, serve
from beit.cli.report import SHEETS, report
from beit.cli.study import STUDIES, demo
from beit.cli.train import finetune, pretrain, segment, tokenizer, train
from beit.config.plugins import import_outside
from beit.errors import BeitError, ConfigError, ResourceError, nearest, system_error
from beit.process import failure_of
from beit.recipes import RECIPES
from beit.terminal import log_to_terminal

VERBS: dict[str, Verb] = {
    "data": verb_with_subcommands(
        "data",
        DATA,
        "Check images for faults, pack them into tar shards, or make some to try things on.",
    ),
    "tokenizer": tokenizer,
    "pretrain": pretrain,
    "finetune": finetune,
    "segment": segment,
    "evaluate": verb("evaluate", evaluate),
    "probe": probe,
    "predict": verb("predict", predict),
    "embed": verb("embed", embed),
    "convert": verb("convert", convert),
    "export": verb("export", export),
    "push": verb("push", push),
    "models": verb("models", models),
    "serve": verb("serve", serve),
    "report": verb("report", report),
    "show": verb_with_subcommands(
        "show",
        SHEETS,
        "Show what a model has learned: neighbours, components, attention, codebook.",
    ),
    "doctor": doctor,
    "demo": verb("demo", demo),
    "study": verb_with_subcommands(
        "study",
        STUDIES,
        "Measure whether pre-training pays: the paper's claims, or on your own images.",
    ),
}


def _help() -> str:
    verbs = "\n".join(f"  {name:<10} {run.__doc__}" for name, run in VERBS.items())
    return (
        "usage: beit VERB [OPTIONS]\n\n"
        "Pre-train a vision backbone on your own images, and use it.\n\n"
        f"{verbs}\n\n"
        "`beit VERB --help` lists the options of a verb. `beit --traceback VERB ...` shows\n"
        "where an error came from. `beit --import MODULE VERB ...` imports code of your own\n"
        "that a run or an artifact names."
    )


def _check_order(args: Sequence[str]) -> None:
    """Raise ConfigError if an option that belongs before the verb comes after it."""
    for place, word in enumerate(args):
        if word in FOR_ALL:
            option = " ".join(args[place : place + 1 + FOR_ALL[word]])
            raise ConfigError(
                f"{word} comes after the verb",
                remedy=f"put it before: beit {option} {args[0]} ...",
            )


def _check_folder() -> None:
    """Raise ResourceError if the current folder is gone: libraries that look it up would end the
    process with messages of their own."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ResourceError(
            "the folder in which this was started is gone", remedy="change to one that exists"
        ) from error


LOCAL_RANK = re.compile(r"--local[-_]rank=\d+")


def _without_local_rank(args: list[str]) -> list[str]:
    """The words of a command without the `--local-rank` that `torch.distributed.launch` puts before
    them; the environment says the same.

    Raises:
        ConfigError: The environment does not, so that the processes do not know of each other.
    """
    if not args or not LOCAL_RANK.fullmatch(args[0]):
        return args
    if "LOCAL_RANK" not in os.environ:
        raise ConfigError(
            f"{args[0]} comes without LOCAL_RANK in the environment",
            remedy="start it with torchrun: torchrun --nproc-per-node 2 -m beit.cli VERB ...",
        )
    return args[1:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of an error is that of its type (`beit.errors`)."""
    log_to_terminal()
    traceback = False
    try:
        args = list(sys.argv[1:] if arguments is None else arguments)
        command = command_of(_without_local_rank(args))
        traceback = command.traceback
        _run(command.modules, command.words)
    except BeitError as error:
        if traceback:
            raise
        return _refused(error)
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        known = _of_the_system(error)
        if known is None or traceback or error is failure_of(sys.stdout):
            raise
        return _refused(known)
    return 0


NOT_LOADED = ("failed to map segment", "annot allocate memory")
"""What the linker says if there is no memory for a library."""


def _of_the_system(error: Exception) -> BeitError | None:
    """The error if the system refused something or ran out of it; None for a fault of the
    program."""
    if isinstance(error, OSError):
        return system_error(error)
    if isinstance(error, ImportError):
        if not any(words in str(error) for words in NOT_LOADED):
            return None
        return system_error(OSError(errno.ENOMEM, "memory ran out before a library was loaded"))
    if "can't start new thread" in str(error):
        return system_error(OSError(errno.EAGAIN, "no further thread can be started"))
    from beit.hardware import is_out_of_memory

    if is_out_of_memory(error):
        return system_error(OSError(errno.ENOMEM, "memory ran out"))
    return None


def _refused(error: BeitError) -> int:
    if _first_to_print(str(error)):
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _first_to_print(message: str) -> bool:
    """Whether no other process of this `torchrun` on this machine has printed the message.

    A message of every process is printed once; that of a single process is never lost. The
    processes agree through the folder in which `torchrun` keeps the error files of one attempt.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if not error_file:
        return True
    claim = Path(error_file).parents[1] / f"{zlib.crc32(message.encode()):08x}.printed"
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # a folder that cannot be written
        return True
    return True


def _run(modules: Sequence[str], words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        from beit import __version__

        print(__version__)
        return
    for module in modules:
        import_outside(module)
    name, args = words[0], words[1:]
    if name not in VERBS and name not in RECIPES:
        raise ConfigError(f"there is no verb '{name}'", remedy=nearest(name, VERBS))
    _check_order(words)
    _check_folder()
    if name in VERBS:
        VERBS[name](args)
    else:  # of a task in a module that was imported
        train(name, args)
