"""The names that the pickles of weights may import, and what stands in for each.

None of them is ever imported. A tensor becomes a description of where its values lie, every other
object a `Placeholder`: inert, and empty unless it is a module, whose tensors it keeps. Of Python,
PyTorch and NumPy only the names listed here pass; classes of other libraries and of users all pass,
as they only ever become placeholders.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
import sys
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
        """How many values of the storage lie between the tensor's first and last, both included."""
        steps = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in steps) if self.count else 0

    @property
    def bytes_read(self) -> int:
        """How many bytes reading it takes at most."""
        return max(self.count, self.span) * self.storage.dtype.itemsize


MODULE_STATE = ("_parameters", "_buffers", "_modules")


@dataclass(slots=True)
class Placeholder:
    """Stands in for an object of any class: what the object was, and of a module its tensors."""

    path: str
    members: dict[str, dict[str, object]] = field(default_factory=dict)

    def keep(self, state: object) -> None:
        """Keep what holds tensors in the state of a module; of any other state, nothing."""
        kinds = {kind: state.get(kind) for kind in MODULE_STATE} if isinstance(state, dict) else {}
        if isinstance(state, dict) and all(isinstance(each, dict) for each in kinds.values()):
            transient = state.get("_non_persistent_buffers_set")
            dropped = transient if isinstance(transient, list) else []
            self.members = {
                kind: {name: each for name, each in members.items() if name not in dropped}
                for kind, members in kinds.items()
                if isinstance(members, dict)
            }

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, StoredTensor]]:
        """The tensors of a module by dotted names, as in a state dict."""
        for kind, members in self.members.items():
            for name, member in members.items():
                if kind == "_modules" and isinstance(member, Placeholder):
                    yield from member.tensors(f"{prefix}{name}.")
                elif kind != "_modules" and isinstance(member, StoredTensor):
                    yield f"{prefix}{name}", member


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> StoredTensor:
    return StoredTensor(storage, offset, shape, strides)


def _parameter(tensor: StoredTensor, *_: object) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise CheckpointError("holds a parameter that is not a tensor")
    return tensor


def _empty_dict(*_: object) -> dict[str, object]:
    return {}


def _itself(items: object) -> object:
    return items  # a set stays a list, and no copy is made: a pickle could ask for endless ones


def _placeholder(path: str) -> Callable[..., Placeholder]:
    return lambda *_: Placeholder(path)


PLAIN_TYPES = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object",
    "range", "slice", "str", "tuple",
)  # fmt: skip
OLD_TYPES = (*PLAIN_TYPES, "long", "unicode", "xrange")  # Python 2, whose names pickles keep
STANDARD = (
    "_codecs.encode", "argparse.Namespace", "collections.Counter", "collections.deque",
    "copy_reg._reconstructor", "copyreg._reconstructor", "datetime.date", "datetime.datetime",
    "datetime.time", "datetime.timedelta", "datetime.timezone", "decimal.Decimal",
    "fractions.Fraction", "functools.partial", "logging.getLogger", "pathlib.Path",
    "pathlib.PosixPath", "pathlib.PurePath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "random.Random", "re._compile", "types.SimpleNamespace", "typing.Any", "typing.Dict",
    "typing.List", "typing.Optional", "typing.Tuple", "typing.Union", "uuid.UUID",
    "zoneinfo.ZoneInfo",
)  # fmt: skip
NUMPY = (
    "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.bool_",
    "numpy.dtype", "numpy.float16", "numpy.float32", "numpy.float64", "numpy.int16", "numpy.int32",
    "numpy.int64", "numpy.int8", "numpy.ndarray", "numpy.uint16", "numpy.uint32", "numpy.uint8",
)  # fmt: skip
PYTORCH = (
    "torch.Generator", "torch.amp.grad_scaler.GradScaler",
    "torch.amp.grad_scaler._refresh_per_optimizer_state", "torch.channels_last",
    "torch.contiguous_format", "torch.cuda.amp.grad_scaler.GradScaler", "torch.device",
    "torch.dtype", "torch.memory_format", "torch.preserve_format", "torch.strided",
    *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
)  # fmt: skip
WITHIN = (
    "numpy.random.", "torch._C._nn.", "torch.nn.functional.", "torch.nn.modules.",
    "torch.nn.parallel.", "torch.optim.", "torchvision.transforms.",
)  # fmt: skip
"""Whole modules with their functions, schedules with their optimizer, random generators, and how
images were prepared."""
GUARDED = frozenset(sys.stdlib_module_names) | {
    "torch", "torchvision", "numpy", "pip", "setuptools", "pkg_resources", "distutils", "imp",
    "__builtin__", "__builtins__", "copy_reg", "commands", "cPickle", "dill", "cloudpickle",
    "joblib", "asyncore", "asynchat", "smtpd", "urllib2", "popen2",
}  # fmt: skip
"""Packages with so much executable code that only the listed names pass."""
PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
Maker = Callable[..., object] | torch.dtype
IMPORTS: dict[str, Maker] = {
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
    **{path: _placeholder(path) for path in (*STANDARD, *NUMPY, *PYTORCH)},
    **{f"builtins.{name}": _placeholder(f"builtins.{name}") for name in PLAIN_TYPES},
    **{f"__builtin__.{name}": _placeholder(f"builtins.{name}") for name in OLD_TYPES},
}
"""For each name what makes its stand-in from the pickled arguments; for a storage, its type."""


def find_maker(module: str, name: str) -> Maker | None:
    """What stands in for an import; None for one that weights have no need of."""
    path = f"{module}.{name}"
    if "." in name or not PATH.fullmatch(path):
        return None
    if path in IMPORTS:
        return IMPORTS[path]
    if module.split(".")[0] not in GUARDED or path.startswith(WITHIN):
        return _placeholder(path)
    return None
