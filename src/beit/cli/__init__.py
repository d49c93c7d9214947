"""The command line. This module loads fast: a request to stop may come while the rest is loaded."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from beit.process import StopRequest, end_by, failure_of, take_over

if TYPE_CHECKING:
    from beit.cli.verbs import VERBS, main

__all__ = ["VERBS", "main", "program"]

FOR_ALL = {"--traceback": 0, "--import": 1}
"""Options that stand before the verb, and how many words follow each."""
ABOUT = {"-h", "--help", "--version"}
ANSWERS = {"predict", "evaluate", "models", "doctor", "data check"}
"""Verbs whose result is what they print, unless they write files; others only print progress."""
UNPRINTED = 6
"""The exit code if the answer could not be printed, the same as for a full disk."""


def __getattr__(name: str) -> object:
    if name not in ("VERBS", "main"):
        raise AttributeError(f"module 'beit.cli' has no attribute '{name}'")
    return getattr(importlib.import_module("beit.cli.verbs"), name)


class Command(NamedTuple):
    """The words that were typed."""

    traceback: bool
    """Whether an error shows where it came from."""
    modules: list[str]
    """The user's own modules, to be imported first."""
    words: list[str]
    """The verb and its arguments."""

    @property
    def answers(self) -> bool:
        """Whether its result is what it prints."""
        verb, verb_and_next = " ".join(self.words[:1]), " ".join(self.words[:2])
        to_files = any(word.partition("=")[0] == "--out" for word in self.words)
        answered = verb in ANSWERS or verb_and_next in ANSWERS
        return not verb or bool(ABOUT.intersection(self.words)) or (answered and not to_files)


def command_of(arguments: Sequence[str]) -> Command:
    """Separate the options that stand before the verb from the rest."""
    words, traceback, modules = list(arguments), False, []
    while words and words[0] in FOR_ALL:
        if words.pop(0) == "--traceback":
            traceback = True
        else:
            modules.append(words.pop(0) if words else "")
    return Command(traceback, modules, words)


def program() -> None:
    """`beit`: run the command that was typed, then end the process.

    A request to stop interrupts the command, which leaves nothing half done, shows no stack, and
    ends the process by the signal, as a shell expects; a verb that trains saves instead. Once the
    command is done, the request is ignored: it would only change the exit code.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun while code is loaded
    answers = command_of(sys.argv[1:]).answers
    take_over(result=answers)
    threading.excepthook = _failed_thread
    from beit.cli.verbs import main

    with StopRequest(interrupts=True) as stop:
        try:
            code = _exit_code(main, answers)
            stop.ignore()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            end_by(stop.signal)
    sys.exit(code)


def _failed_thread(failed: threading.ExceptHookArgs, /) -> None:
    """Report the failure of a library's own thread. If the system refused something, as a full disk
    does to TensorBoard, no stack is shown."""
    if isinstance(failed.exc_value, OSError):
        print(f"warning: {failed.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(failed)


def _exit_code(main: Callable[[], int], answers: bool) -> int | str | None:
    """Run a command, flush what it printed, and return the exit code."""
    code: int | str | None = 0
    try:
        code = main()
    except SystemExit as left:  # of the parser, or of a library whose reader went away
        code = left.code
    except OSError as error:
        if error is not failure_of(sys.stdout):
            raise
    with suppress(OSError):
        sys.stdout.flush()
    failure = failure_of(sys.stdout)
    if failure is None or not answers:
        return code
    if isinstance(failure, BrokenPipeError):
        end_by(signal.SIGPIPE)  # as any other program whose reader has seen enough
    print(
        f"error: the answer cannot be written to standard output: {failure.strerror}\n"
        "  remedy: make room, or let it be written elsewhere",
        file=sys.stderr,
    )
    return UNPRINTED
