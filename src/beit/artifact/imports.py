"""The names that the pickles of weights may import, and what takes the place of each.

None of them is ever imported. A tensor becomes a description of where its values lie, a module of
the DALL-E files a `Module` that keeps its tensors, a `Namespace` or a NumPy value an `Opaque` that
keeps nothing.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from beit.errors import CheckpointError

LARGEST = 2**40
DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of `count` numbers that lies elsewhere in the file, under `key`."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor before it is read: a view of a storage. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (self.offset, *self.shape, *self.strides)
        if (
            not isinstance(self.storage, Storage)
            or not all(type(size) is int and 0 <= size < LARGEST for size in sizes)
            or not len(self.shape) == len(self.strides) <= DIMENSIONS
        ):
            raise CheckpointError("describes a tensor by sizes that are none")

    @classmethod
    def of_all(cls, storage: Storage, shape: tuple[int, ...]) -> StoredTensor:
        """A whole storage as one tensor, without gaps."""
        cls(storage, 0, shape, shape)  # are they sizes? Only then may they be multiplied
        strides = itertools.accumulate(shape[:0:-1], operator.mul, initial=1)
        return cls(storage, 0, shape, tuple(strides)[::-1][: len(shape)])

    @property
    def count(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """How many values of the storage lie from its first to its last."""
        steps = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in steps) if self.count else 0

    @property
    def bytes_read(self) -> int:
        """What it costs at most to read it."""
        return max(self.count, self.span) * self.storage.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object of which nothing is kept but what it was."""

    path: str


@dataclass(slots=True)
class Module:
    """A pickled module: its tensors and the modules within, and no code."""

    path: str
    members: dict[str, dict[str, object]] = field(default_factory=dict)

    def keep(self, state: dict[str, object]) -> None:
        """Take over from a module's state what holds tensors."""
        for kind in ("_parameters", "_buffers", "_modules"):
            members = state.get(kind, {})
            if not isinstance(members, dict):
                raise CheckpointError(f"holds a {self.path} whose {kind} are no dict")
            self.members[kind] = members

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, StoredTensor]]:
        """The tensors by dotted names, as in a state dict."""
        for kind, members in self.members.items():
            for name, member in members.items():
                if kind == "_modules" and isinstance(member, Module):
                    yield from member.tensors(f"{prefix}{name}.")
                elif kind != "_modules" and isinstance(member, StoredTensor):
                    yield prefix + name, member


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> StoredTensor:
    return StoredTensor(storage, offset, shape, strides)


def _parameter(tensor: StoredTensor, *_: object) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise CheckpointError("holds a parameter that is no tensor")
    return tensor


def _empty_dict(*_: object) -> dict[str, object]:
    return {}


def _itself(items: object) -> object:
    return items  # a set stays a list, and no copy is made: it could be asked for endlessly


def _module(path: str) -> Callable[[], Module]:
    return lambda: Module(path)


def _opaque(path: str) -> Callable[..., Opaque]:
    return lambda *_: Opaque(path)


MODULES = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.decoder.Decoder",
    "dall_e.decoder.DecoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
)
NOT_KEPT = (
    "_codecs.encode",
    "argparse.Namespace",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.device",
)
IMPORTS: dict[str, Callable[..., object] | torch.dtype] = {
    "__builtin__.set": _itself,  # as Python 3 writes it, so that Python 2 can read it
    "builtins.set": _itself,
    "collections.OrderedDict": _empty_dict,
    "collections.defaultdict": _empty_dict,
    "torch.Size": _itself,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
    **{path: _module(path) for path in MODULES},
    **{path: _opaque(path) for path in NOT_KEPT},
}
"""For each name what makes its stand-in from the pickled arguments; for storages, their type."""
