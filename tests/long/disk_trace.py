"""A disk that remembers only what was flushed: what was written, and what a loss of power leaves.

POSIX promises little: the bytes of a file are safe after its own fsync, a name in a folder after
that of the folder. Everything else may be there or not, in any combination, and unflushed bytes may
be cut off or zeros. (File systems promise more; nothing here relies on it.)
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = 0

CALLS = ("open", "close", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


class Linked(NamedTuple):
    """A name was given to a new file or folder, or to one that had another name before."""

    folder: int
    name: str
    node: int
    former: str | None = None


class Removed(NamedTuple):
    folder: int
    name: str


class Wrote(NamedTuple):
    node: int
    data: bytes


class Flushed(NamedTuple):
    node: int


class Told(NamedTuple):
    """It was announced that the checkpoint of a step is safe."""

    step: int


Event = Linked | Removed | Wrote | Flushed | Told
Tree = dict[str, bytes | None]
"""What lies where; None is a folder."""


class Disk:
    """Follows what a process does below a folder."""

    def __init__(self, root: Path) -> None:
        self.events: list[Event] = []
        self.folders: set[int] = {ROOT}
        self._nodes = {str(root): ROOT}
        self._open: dict[int, int] = {}
        self._made = ROOT

    def tell(self, step: int) -> None:
        self.events.append(Told(step))

    def _place(self, path: Any, folder: int | None) -> str:
        given = os.fsdecode(path)
        return given if folder is None else str(Path(f"/proc/self/fd/{folder}").readlink() / given)

    def _parent(self, place: str) -> int | None:
        return self._nodes.get(str(Path(place).parent))

    def _make(self, place: str, *, folder: bool) -> None:
        parent = self._parent(place)
        assert parent is not None
        self._made += 1
        self._nodes[place] = self._made
        if folder:
            self.folders.add(self._made)
        self.events.append(Linked(parent, Path(place).name, self._made))

    def opened(self, handle: int, path: Any, flags: int, **options: Any) -> None:
        place = self._place(path, options.get("dir_fd"))
        if flags & os.O_CREAT and self._parent(place) is not None:
            if place not in self._nodes:
                self._make(place, folder=False)
            elif flags & os.O_TRUNC:
                assert not self._holds_bytes(place), "nothing is overwritten in place"
        if place in self._nodes:
            self._open[handle] = self._nodes[place]

    def _holds_bytes(self, place: str) -> bool:
        node = self._nodes[place]
        return any(isinstance(event, Wrote) and event.node == node for event in self.events)

    def closed(self, handle: int) -> None:
        self._open.pop(handle, None)

    def wrote(self, handle: int, data: bytes) -> None:
        if handle in self._open:
            self.events.append(Wrote(self._open[handle], data))

    def flushed(self, handle: int) -> None:
        if handle in self._open:
            self.events.append(Flushed(self._open[handle]))

    def made_folder(self, path: Any) -> None:
        if self._parent(os.fsdecode(path)) is not None:
            self._make(os.fsdecode(path), folder=True)

    def renamed(self, first: Any, second: Any) -> None:
        old, new = os.fsdecode(first), os.fsdecode(second)
        if old not in self._nodes:
            return
        parent, node = self._parent(new), self._nodes[old]
        assert parent is not None
        assert parent == self._parent(old)
        self.events.append(Linked(parent, Path(new).name, node, Path(old).name))
        for place in [place for place in self._nodes if Path(place).is_relative_to(old)]:
            moved = str(Path(new) / Path(place).relative_to(old))
            self._nodes[moved] = self._nodes.pop(place)

    def removed(self, path: Any, dir_fd: int | None = None) -> None:
        place = self._place(path, dir_fd)
        parent = self._parent(place)
        if self._nodes.pop(place, None) is not None and parent is not None:
            self.events.append(Removed(parent, Path(place).name))


@contextmanager
def traced(disk: Disk) -> Iterator[None]:
    """Let the disk follow this process."""
    real = {name: getattr(os, name) for name in CALLS}

    def then(name: str, note: Callable[..., None]) -> None:
        def call(*arguments: Any, **options: Any) -> Any:
            result = real[name](*arguments, **options)
            note(result, *arguments, **options)
            return result

        setattr(os, name, call)

    then(
        "open",
        lambda handle, path, flags, *_, **options: disk.opened(handle, path, flags, **options),
    )
    then("close", lambda _, handle: disk.closed(handle))
    then("write", lambda done, handle, data: disk.wrote(handle, bytes(data)[:done]))
    then("fsync", lambda _, handle: disk.flushed(handle))
    then("mkdir", lambda _, path, *__, **___: disk.made_folder(path))
    then("rename", lambda _, first, second: disk.renamed(first, second))
    then("replace", lambda _, first, second: disk.renamed(first, second))
    then("unlink", lambda _, path, dir_fd=None: disk.removed(path, dir_fd))
    then("rmdir", lambda _, path, dir_fd=None: disk.removed(path, dir_fd))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def after_power_loss(disk: Disk, moment: int, chance: random.Random, share: float) -> Tree:
    """One of the states that the disk may be in if power is lost after that many events.

    Of what was not flushed, about `share` is there: 0 for nothing, 1 for all of it.
    """
    past = disk.events[:moment]
    names: dict[int, dict[str, int]] = {node: {} for node in disk.folders}
    data: dict[int, bytes] = {}
    for number, event in enumerate(past):
        if isinstance(event, Linked | Removed):
            safe = any(isinstance(later, Flushed) and later.node == event.folder
                       for later in past[number:])  # fmt: skip
            if safe or chance.random() < share:
                _apply(names[event.folder], event)
        elif isinstance(event, Wrote):
            safe = any(isinstance(later, Flushed) and later.node == event.node
                       for later in past[number:])  # fmt: skip
            data[event.node] = data.get(event.node, b"") + (
                event.data if safe else _remains(event.data, chance, share)
            )
    return dict(_walk(ROOT, "", names, data))


def _apply(entries: dict[str, int], event: Linked | Removed) -> None:
    if isinstance(event, Removed):
        entries.pop(event.name, None)
        return
    if event.former is not None and entries.get(event.former) == event.node:
        del entries[event.former]
    entries[event.name] = event.node


def _remains(written: bytes, chance: random.Random, share: float) -> bytes:
    """What is on the disk of bytes that nobody flushed."""
    if chance.random() < share:
        return written
    kept = chance.randrange(len(written) + 1) if share else 0
    return chance.choice([b"", written[:kept], written[:kept] + bytes(len(written) - kept)])


def _walk(
    node: int, place: str, names: dict[int, dict[str, int]], data: dict[int, bytes]
) -> Iterator[tuple[str, bytes | None]]:
    for name, child in names[node].items():
        below = f"{place}/{name}".lstrip("/")
        if child in names:
            yield below, None
            yield from _walk(child, below, names, data)
        else:
            yield below, data.get(child, b"")


def lay_out(tree: Tree, root: Path) -> None:
    """Write the tree into an empty folder."""
    for place, content in sorted(tree.items()):
        if content is None:
            (root / place).mkdir()
        else:
            (root / place).write_bytes(content)
