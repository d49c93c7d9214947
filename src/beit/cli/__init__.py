"""The command line: verbs to functions. Help is answered without importing torch."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

from beit.cli import (
    data,
    doctoring,
    measuring,
    serving,
    sharing,
    showing,
    studying,
    training,
    using,
)
from beit.config.outside import import_outside
from beit.errors import BeitError, ConfigError, nearest
from beit.terminal import let_any_name_be_printed, log_to_terminal

VERBS: dict[str, Callable[[list[str]], None]] = {
    "data": data.data,
    "tokenizer": training.tokenizer,
    "pretrain": training.pretrain,
    "finetune": training.finetune,
    "segment": training.segment,
    "evaluate": measuring.evaluate,
    "probe": measuring.probe,
    "predict": using.predict,
    "embed": using.embed,
    "convert": using.convert,
    "export": using.export,
    "push": sharing.push,
    "serve": serving.serve,
    "report": showing.report,
    "show": showing.show,
    "doctor": doctoring.doctor,
    "demo": studying.demo,
    "study": studying.study,
}

FOR_ALL = {"--traceback": 0, "--import": 1}
"""Options that stand before the verb, and how many words follow each."""


def _help() -> str:
    verbs = "\n".join(f"  {name:<10} {verb.__doc__}" for name, verb in VERBS.items())
    return (
        "usage: beit VERB [OPTIONS]\n\n"
        "Pre-train a vision backbone on your own pictures, and use it.\n\n"
        f"{verbs}\n\n"
        "`beit VERB --help` lists the options of a verb. `beit --traceback VERB ...` shows\n"
        "where an error came from. `beit --import MODULE VERB ...` imports code of your own\n"
        "that a run or an artifact names."
    )


def _check_order(args: Sequence[str]) -> None:
    """Raise ConfigError for an option of all verbs that stands behind the verb."""
    for place, word in enumerate(args):
        if word in FOR_ALL:
            option = " ".join(args[place : place + 1 + FOR_ALL[word]])
            raise ConfigError(
                f"{word} stands behind the verb",
                remedy=f"put it before: beit {option} {args[0]} ...",
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of an error is that of its type (`beit.errors`)."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    let_any_name_be_printed()
    traceback, modules = False, []
    while args and args[0] in FOR_ALL:
        if args.pop(0) == "--traceback":
            traceback = True
        else:
            modules.append(args.pop(0) if args else "")
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    if args[0] == "--version":
        from beit import __version__

        print(__version__)
        return 0
    log_to_terminal()
    try:
        for module in modules:
            import_outside(module)
        if args[0] not in VERBS:
            raise ConfigError(f"there is no verb '{args[0]}'", remedy=nearest(args[0], VERBS))
        _check_order(args)
        VERBS[args[0]](args[1:])
    except BeitError as error:
        if traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def program() -> None:
    """`beit`: the command that was typed, then the end of the process.

    Who interrupts it sees no stack, and the shell is told as by any other program. Once the command
    is done a request to stop would only break off the end, and with it change the exit code.
    """
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
