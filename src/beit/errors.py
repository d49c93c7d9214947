"""What can go wrong, as types.

    BeitError                 anything this package tells a user
    ├── ConfigError           an option or a combination of options is wrong        exit 2
    ├── DataError             images, labels or folders break a rule              exit 3
    │   └── UnreadableError   an image cannot be read
    ├── CheckpointError       a checkpoint or artifact is damaged or does not fit   exit 4
    ├── DivergedError         the loss or a gradient is no longer finite            exit 5
    ├── ResourceError         disk or memory ran out, a library is not installed    exit 6
    ├── RunFolderError        the folder holds another run, or is in use            exit 7
    ├── ExportError           an exported file does not give what the model gives   exit 8
    └── Preempted             stopped on request, after a good save                 exit 75

Every message says what was given, which rule it breaks and, as `remedy`, what to do.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from beit.terminal import printable, shown

OPTION = re.compile(r"--([a-z][a-z0-9-]*)")
COMMAND = re.compile(r"\b(?:beit|torchrun|pip) [^`]*")


class BeitError(ValueError):
    """Base of all errors meant for the user; `exit_code` is what the command line returns.

    Problem and remedy are one line each, whatever characters are in the names they quote: see
    `beit.terminal`.
    """

    exit_code = 1

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        self.problem = printable(problem)
        self.remedy = printable(remedy)
        super().__init__(
            f"{self.problem}\n  remedy: {self.remedy}" if self.remedy else self.problem
        )
        # The command line prints the error without its notes.
        options = OPTION.findall(COMMAND.sub("", f"{self.problem} {self.remedy}"))
        if options:
            named = ", ".join(dict.fromkeys(f"{name.replace('-', '_')}=" for name in options))
            self.add_note(f"  in Python: {named}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self.problem, self.remedy)


def _remade(kind: type[BeitError], problem: str, remedy: str) -> BeitError:
    """Rebuild an error that comes from another process."""
    return kind(problem, remedy=remedy)


class ConfigError(BeitError):
    exit_code = 2


class DataError(BeitError):
    exit_code = 3


class UnreadableError(DataError):
    """An image cannot be read; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the image cannot be read: {reason}", remedy="repair, convert or remove the file"
        )

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str]]:
        return type(self), (self.reason,)


class CheckpointError(BeitError):
    exit_code = 4


class DivergedError(BeitError):
    exit_code = 5


class ResourceError(BeitError):
    exit_code = 6


class RunFolderError(BeitError):
    exit_code = 7


class ExportError(BeitError):
    exit_code = 8


class Preempted(BeitError):  # noqa: N818
    exit_code = 75


Error = TypeVar("Error", bound=BeitError)


def of_another_format(
    error: type[Error], what: str, *, found: object, reads: int, made_by: object
) -> Error:
    """The error for a file or folder in a format that this version does not read.

    Args:
        error: Type of the error.
        what: The file or folder, as the message names it.
        found: Number of its format.
        reads: Number of the format that this version reads.
        made_by: Version of this package that wrote it, as far as it says so.
    """
    named = isinstance(made_by, str) and len(made_by) < 40
    maker = f"beit {made_by}" if named else "an unknown version of beit"
    return error(
        f"{what} was made by {maker} in format {shown(found)}, this version reads {reads}",
        remedy=f"install {maker}, or a later one that reads it"
        if named
        else "use the version of beit that wrote it",
    )


def no_model_at(reference: str, names: Collection[str] = ()) -> CheckpointError:
    """The error for a reference that is neither a path, nor one of the known `names`, nor anything
    else that stands for a model."""
    close = difflib.get_close_matches(reference, names, n=1, cutoff=0.8)
    return CheckpointError(
        f"there is no file or folder '{reference}', and it is not a hub id or an address",
        remedy=(f"did you mean '{close[0]}'? or " if close else "")
        + "give a path that exists, hf:org/name, timm/name, https://..., or a name that "
        "`beit models` lists",
    )


def no_images_at(path: str) -> DataError:
    """The error for a path to images at which there is nothing."""
    return DataError(
        f"there is nothing at {path}",
        remedy="check the path: a folder of images, a list file or one image",
    )


@contextmanager
def optional_library(problem: str, extra: str, *, instead: str = "") -> Iterator[None]:
    """Wrap the import of a library that may be missing, to tell the user how to install it.

    Args:
        problem: What the library is needed for; begins the message.
        extra: The extra of this package that installs it.
        instead: What the user can do instead; ends the remedy.

    Raises:
        ResourceError: The library cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise ResourceError(
            f"{problem}: {error}", remedy=f'pip install "beit[{extra}]"{instead}'
        ) from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers for a disk, a quota or a file size with no room left."""
NO_TEMPORARY = "No usable temporary directory"
"""How Python's message begins when no folder for temporary files can be written to."""
EXHAUSTED = {
    errno.EMFILE: "allow more open files (ulimit -n 4096), or use fewer --workers",
    errno.ENFILE: "end other programs, or use fewer --workers: all files of this machine are open",
    errno.EAGAIN: "allow more processes and threads (ulimit -u), or use fewer --workers",
    errno.ENOMEM: "free memory: fewer --workers, a smaller --batch or model, no other programs",
}
"""Error numbers for what a process ran out of, which say nothing about the file it was opening, and
their remedies."""
REMEDIES = {
    **dict.fromkeys(FULL, "make room, and run it again"),
    **EXHAUSTED,
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "check who may read and write there (ls -ld), or name a place of your own",
    ),
    errno.ENOENT: "check the path; `beit --traceback VERB ...` shows what needed it",
}


def system_error(error: OSError) -> ResourceError:
    """The error for the user when the operating system refused something."""
    if error.errno == errno.ENAMETOOLONG:
        name = max(Path(os.fsdecode(error.filename or "")).parts, key=len, default="")
        return ResourceError(
            f"the name {name[:40]}... of {len(os.fsencode(name))} bytes is too long for the file "
            "system",
            remedy="use a shorter one; most file systems take 255 bytes, and 4096 for a whole path",
        )
    if (error.strerror or "").startswith(NO_TEMPORARY):
        return ResourceError(
            f"no temporary files can be written: {error.strerror}",
            remedy="name a folder with room for them in the environment's TMPDIR",
        )
    what = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return ResourceError(
        f"{what}{refusal(error)}",
        remedy=REMEDIES.get(error.errno or 0, "`beit --traceback VERB ...` shows where"),
    )


def refusal(error: OSError) -> str:
    """What the operating system says, or that the folder this was started in is gone."""
    if error.errno == errno.ENOENT:
        try:
            Path.cwd()
        except FileNotFoundError:
            return "the folder in which this was started is gone: change to one that exists"
    return error.strerror or str(error)


def on_one_line(error: Exception) -> str:
    """Problem and remedy in one line, for a log."""
    if isinstance(error, BeitError) and error.remedy:
        return f"{error.problem}; {error.remedy}"
    return str(error)


def nearest(word: str, words: Iterable[str]) -> str:
    """Name the known word closest to an unknown one: `did you mean 'batch'?`, or list them."""
    known = sorted(words)
    swapped = [each for each in known if sorted(each) == sorted(word)]
    close = swapped or difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(known)
