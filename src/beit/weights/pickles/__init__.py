"""The pickles inside PyTorch's files, read as data: nothing in them is imported or called.

A pickle is a program for a small stack machine, and Python's reader calls whatever that program
names. This reader knows only the instructions that `torch.save` writes for state dicts and modules;
what they call is replaced by the table in `imports`. So neither Python's reader nor PyTorch's is
needed, and anything unknown is refused where it occurs.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from beit.errors import CheckpointError
from beit.weights.pickles.imports import Maker, Placeholder, Storage, find_maker

PICKLE_BYTES = 16 * 2**20
INSTRUCTIONS = 500_000
VALUES = 500_000
DEPTH = 64
LINE_BYTES = 256
TENSORS = ("torch._utils._rebuild_", "torch._tensor._rebuild_")
ELSEWHERE = (
    "if you made the file, save the weights alone: torch.save(model.state_dict(), path); if not, "
    "do not open it with other tools either"
)
PLAIN = (
    "save plain tensors: tensor.full_tensor() of those divided among processes, .dequantize(), "
    ".to_dense() or .float() of other kinds, .as_subclass(torch.Tensor) of other classes"
)
NAMES = {
    instruction.code.encode("latin-1"): instruction.name for instruction in pickletools.opcodes
}


@dataclass(frozen=True, slots=True)
class Import:
    """An imported name that is permitted, before it is called, and what replaces the call."""

    path: str
    maker: Maker


class Pickled(NamedTuple):
    """What a pickle holds, where it ends, and the storages that it refers to."""

    value: Any
    end: int
    storages: dict[str, Storage]


class Measure(NamedTuple):
    """How many values a value contains, counting each reference, and how deeply they nest."""

    values: int
    height: int


def read_pickle(data: memoryview, start: int = 0) -> Pickled:
    """Read the pickle that begins at `start`: numbers, strings, lists, tuples, dicts, stand-ins.

    Raises:
        CheckpointError: It holds something that `torch.save` does not write for weights.
    """
    machine = _Machine(data[start : start + PICKLE_BYTES])
    value = machine.run()
    _measured(value, DEPTH, {})
    return Pickled(value, start + machine.position, machine.storages)


def _measured(value: object, depth: int, known: dict[int, Measure]) -> Measure:
    """Measure a value, so that every later walk is short: a small pickle can unfold to a huge
    value.

    Raises CheckpointError for what is too large or too deep, which includes what contains itself.
    """
    if isinstance(value, Placeholder):
        value = value.members
    if not isinstance(value, dict | list | tuple):
        return Measure(1, 0)
    if id(value) not in known:
        if depth == 0:
            raise CheckpointError(f"nests more than {DEPTH} levels", remedy=ELSEWHERE)
        within = value.values() if isinstance(value, dict) else value
        measures = [_measured(item, depth - 1, known) for item in within]
        measure = Measure(
            values=1 + sum(each.values for each in measures),
            height=1 + max((each.height for each in measures), default=0),
        )
        if measure.values > VALUES or measure.height > DEPTH:
            raise CheckpointError(
                f"unfolds to more than {VALUES} values or {DEPTH} levels", remedy=ELSEWHERE
            )
        known[id(value)] = measure
    return known[id(value)]


def _is_key(key: object) -> bool:
    return type(key) is int or isinstance(key, str)


class _Machine:
    """The stack machine. A list of heights marks where open tuples and dicts begin."""

    def __init__(self, data: memoryview) -> None:
        self.position = 0
        self.storages: dict[str, Storage] = {}
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Follow the instructions to the end of the pickle."""
        if self._take(1) != pickle.PROTO or self._take(1) != b"\x02":
            raise CheckpointError(
                "holds a pickle of another protocol than 2, which torch.save writes",
                remedy="save it again with torch.save and its default protocol",
            )
        for _ in range(INSTRUCTIONS):
            instruction = self._take(1)
            if instruction == pickle.STOP:
                return self._stack.pop()
            if instruction in _LITERALS:
                self._stack.append(_LITERALS[instruction](self))
            elif instruction in _ACTIONS:
                _ACTIONS[instruction](self)
            else:
                raise CheckpointError(
                    f"uses the pickle instruction {NAMES.get(instruction, instruction)}, which "
                    "torch.save does not write for weights",
                    remedy=ELSEWHERE,
                )
        raise CheckpointError(f"holds a pickle of more than {INSTRUCTIONS} instructions")

    def _take(self, count: int) -> bytes:
        taken = self._data[self.position : self.position + count]
        if len(taken) < count:
            raise CheckpointError(f"holds a pickle that is cut, or exceeds {PICKLE_BYTES} bytes")
        self.position += count
        return bytes(taken)

    def number(self, form: str) -> Any:
        """The next bytes as a number of a `struct` format."""
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def text(self) -> str:
        """A string after its length; file names that are not UTF-8 come as surrogates."""
        return self._take(self.number("<I")).decode(errors="surrogatepass")

    def long(self) -> int:
        """An integer of up to 255 bytes."""
        return int.from_bytes(self._take(self.number("B")), "little", signed=True)

    def imported(self) -> Import:
        """An imported name; any that is not permitted is refused."""
        module, name = self._line(), self._line()
        path = f"{module}.{name}"
        maker = find_maker(module, name)
        if maker is None:
            raise CheckpointError(
                f"imports {path!a}, which is not among the names that weights need",
                remedy=PLAIN if path.startswith(TENSORS) else ELSEWHERE,
            )
        return Import(path, maker)

    def _line(self) -> str:
        length = bytes(self._data[self.position : self.position + LINE_BYTES]).find(b"\n")
        if length < 0:
            raise CheckpointError("imports a name that does not end", remedy=ELSEWHERE)
        return self._take(length + 1)[:-1].decode(errors="backslashreplace")

    def mark(self) -> None:
        """Begin a tuple, or the items of a list or dict."""
        self._marks.append(len(self._stack))

    def since_mark(self) -> list[Any]:
        """Take what was pushed since the last mark."""
        height = self._marks.pop()
        items = self._stack[height:]
        del self._stack[height:]
        return items

    def last(self, count: int) -> list[Any]:
        """Take the last values pushed."""
        items = [self._stack.pop() for _ in range(count)]
        return items[::-1]

    def remember(self, form: str) -> None:
        self._memo[self.number(form)] = self._stack[-1]

    def recall(self, form: str) -> object:
        return self._memo[self.number(form)]

    def extend(self, items: list[Any]) -> None:
        """Append items to the list below them. Placeholders stay empty."""
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise CheckpointError("appends to what is not a list", remedy=ELSEWHERE)

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values, in turns, into the dict below them. Placeholders stay empty.

        Keys that are not names, such as None or a tuple, are dropped with their values: no tensor
        is found under them, and hashing a nested one may take forever.
        """
        target = self._stack[-1]
        if type(target) is not dict and not isinstance(target, Placeholder):
            raise CheckpointError("sets an item of what is not a dict", remedy=ELSEWHERE)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(target, dict) or not _is_key(key):
                continue
            if key in target or (isinstance(key, str) and not key.isprintable()):
                raise CheckpointError("sets an item twice, or under what is not a name")
            target[key] = value

    def make(self) -> None:
        """Where a pickle calls something: push what stands in for the result."""
        target, arguments = self.last(2)
        maker = target.maker if isinstance(target, Import) else None
        if not callable(maker) or type(arguments) is not tuple:
            raise CheckpointError("calls what is not an import", remedy=ELSEWHERE)
        try:
            self._stack.append(maker(*arguments))
        except TypeError as error:
            raise CheckpointError(
                f"calls {target.path} with other arguments than torch.save"
            ) from error

    def build(self) -> None:
        """Where a pickle gives an object its state: keep the tensors of a module."""
        target, state = self.last(2)
        self._stack.append(target)
        if isinstance(target, Placeholder):
            target.keep(state)
        elif not isinstance(target, dict):  # the attributes of an OrderedDict are dropped
            raise CheckpointError("gives a state to what has none", remedy=ELSEWHERE)

    def outside(self) -> None:
        """Where a pickle refers to something outside it: a storage, or in old files a class."""
        match self._stack.pop():
            case ("storage", Import(path, dtype), str(key), str(), int(count), *view) if not any(
                view
            ):
                if not isinstance(dtype, torch.dtype) or count < 0:
                    raise CheckpointError(f"holds a storage of {count} values of {path}")
                storage = Storage(key, dtype, count)
                if self.storages.setdefault(key, storage) != storage:
                    raise CheckpointError(f"describes storage {key!a:.80} in two ways")
                self._stack.append(storage)
            case ("module", Import() as kind, _, _):
                self._stack.append(kind)
            case _:
                raise CheckpointError("refers to what is not a storage or class", remedy=ELSEWHERE)


_LITERALS: dict[bytes, Callable[[_Machine], object]] = {
    pickle.NONE: lambda _: None,
    pickle.NEWTRUE: lambda _: True,
    pickle.NEWFALSE: lambda _: False,
    pickle.BININT: lambda machine: machine.number("<i"),
    pickle.BININT1: lambda machine: machine.number("B"),
    pickle.BININT2: lambda machine: machine.number("<H"),
    pickle.LONG1: _Machine.long,
    pickle.BINFLOAT: lambda machine: machine.number(">d"),
    pickle.BINUNICODE: _Machine.text,
    pickle.EMPTY_DICT: lambda _: {},
    pickle.EMPTY_LIST: lambda _: [],
    pickle.EMPTY_TUPLE: lambda _: (),
    pickle.TUPLE: lambda machine: tuple(machine.since_mark()),
    pickle.TUPLE1: lambda machine: tuple(machine.last(1)),
    pickle.TUPLE2: lambda machine: tuple(machine.last(2)),
    pickle.TUPLE3: lambda machine: tuple(machine.last(3)),
    pickle.GLOBAL: _Machine.imported,
    pickle.BINGET: lambda machine: machine.recall("B"),
    pickle.LONG_BINGET: lambda machine: machine.recall("<I"),
}
"""The instructions that push a value."""

_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.MARK: _Machine.mark,
    pickle.BINPUT: lambda machine: machine.remember("B"),
    pickle.LONG_BINPUT: lambda machine: machine.remember("<I"),
    pickle.APPEND: lambda machine: machine.extend(machine.last(1)),
    pickle.APPENDS: lambda machine: machine.extend(machine.since_mark()),
    pickle.SETITEM: lambda machine: machine.set_items(machine.last(2)),
    pickle.SETITEMS: lambda machine: machine.set_items(machine.since_mark()),
    pickle.REDUCE: _Machine.make,
    pickle.NEWOBJ: _Machine.make,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.outside,
}
"""The instructions that work on what was pushed."""
