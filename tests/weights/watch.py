"""A process that reads files under watch: `python watch.py FOLDER read|run`.

It reads every `*.file` of a folder while the interpreter reports what it does, and prints as JSON
what came of each and what was reported, but for opening the file itself to read it.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

Reader = Callable[[Path], object]


def run(file: Path) -> object:
    """What must never happen, to see that it would be noticed."""
    return pickle.loads(file.read_bytes())  # noqa: S301


def outcome(read: Reader, file: Path) -> str:
    try:
        return str(read(file))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def watch(folder: Path, read: Reader) -> dict[str, tuple[str, list[str]]]:
    events: list[str] = []
    reading: Path | None = None

    def report(event: str, arguments: tuple[object, ...]) -> None:
        to_read = (str(reading), "r", os.O_RDONLY | os.O_CLOEXEC)
        opened = event == "open" and arguments == to_read
        if reading is not None and not opened and event != "builtins.id":
            events.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(report)
    found = {}
    for file in sorted(folder.glob("*.file")):
        events.clear()
        reading = file
        what = outcome(read, file)
        reading = None
        found[file.stem] = (what, list(events))
    return found


def main(folder: Path, how: str) -> None:
    read: Reader = run
    if how == "read":
        from beit.weights.read import read_contents as read

        for file in folder.glob("*.good"):  # loads what is imported only when it is needed
            assert outcome(read, file).startswith("Contents"), outcome(read, file)
    print(json.dumps(watch(folder, read)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
