"""Read a weight file from elsewhere, without running anything that may hide in it.

A file is read once, so that what is hashed is what is used, and is only interpreted as data. What
is not certainly harmless, whole and finite is refused.
"""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from beit.errors import CheckpointError, ResourceError
from beit.hardware import raise_if_exhausted
from beit.weights.containers import LAY_OUT, recognise
from beit.weights.pickles.imports import Placeholder, StoredTensor

FILE_BYTES = 16 * 2**30
WRAPPERS = (
    "model", "module", "state_dict", "model_state_dict", "model_state", "net", "network", "weights",
    "params", "teacher", "student", "model_ema", "state_dict_ema", "model_ema_state_dict",
    "ema_state_dict", "ema_model", "ema", "params_ema",
)  # fmt: skip
"""Entries that hold weights, in order of preference: trained weights before their average, and a
teacher before the student that it teaches."""
OF_TRAINING = re.compile(r"optim|sched|scaler|loss|criterion|rng|random|queue", re.IGNORECASE)
WRAPPER_DEPTH = 4
NAME = re.compile(r"[\w-]+(\.[\w-]+){0,31}", re.ASCII)
TYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.uint8, torch.bool,
)  # fmt: skip
AGAIN = "download or copy it again, and compare its size and SHA-256 with those at the source"
DAMAGE = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What Python and PyTorch raise for bytes that are not what they should be."""


class Contents(NamedTuple):
    """The weights of a file, and what lies beside them."""

    tensors: dict[str, Tensor]
    """The tensors by dotted names; on the CPU, contiguous, each with its own memory."""
    wrapper: str
    """Where the tensors lay: an entry such as `model`, the path of a pickled module, or nothing."""
    metadata: dict[str, object]
    """Entries beside them that are numbers, strings, or lists and dicts of these."""
    skipped: tuple[str, ...]
    """All other entries: an optimizer, pickled arguments, a second set of weights."""
    other_sets: tuple[str, ...]
    """The entries of `skipped` that are sets of weights."""
    sha256: str


def read_contents(path: str | Path) -> Contents:
    """Read the weights of a safetensors file, or of one that `torch.save` wrote, new or old.

    Of several sets of weights the first of `WRAPPERS` is taken.

    Raises:
        CheckpointError: The file holds no weights, is damaged, or could run code if it were loaded.
        ResourceError: The file cannot be opened.
    """
    file = Path(path)
    data = _read(file)
    try:
        layout = LAY_OUT[recognise(data)](data)
        wrapper, stored, others, other_sets = _choose(layout.root)
        if sum(each.bytes_read for each in stored.values()) > 2 * len(data):
            raise CheckpointError("describes tensors that are larger than the file")
        tensors = {name: _tensor(name, stored[name], layout.storages) for name in stored}
    except CheckpointError as error:
        raise CheckpointError(f"{file} {error.problem}", remedy=error.remedy or AGAIN) from error
    except DAMAGE as error:
        raise_if_exhausted(error)
        raise CheckpointError(f"{file} is damaged: {error!a:.200}", remedy=AGAIN) from error
    metadata, skipped = _companions(others)
    return Contents(
        tensors, wrapper, layout.metadata | metadata, tuple(skipped), other_sets,
        hashlib.sha256(data).hexdigest(),
    )  # fmt: skip


def _read(file: Path) -> bytes:
    try:
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "is not a file"
            raise CheckpointError(f"{file} {what}", remedy="give the path of a weight file")
        if file.stat().st_size > FILE_BYTES:
            raise CheckpointError(f"{file} is larger than {FILE_BYTES} bytes", remedy=AGAIN)
        return file.read_bytes()
    except (OSError, MemoryError) as error:
        raise ResourceError(
            f"{file} cannot be read: {getattr(error, 'strerror', 'it does not fit into memory')}",
            remedy="permit reading it, or use a machine with more memory",
        ) from error


class _Chosen(NamedTuple):
    wrapper: str
    tensors: dict[str, StoredTensor]
    others: dict[str, object]
    other_sets: tuple[str, ...]


def _choose(root: object) -> _Chosen:
    """The set of weights to take, and the entries beside it."""
    chosen = _wrapped(root)
    if chosen is not None:
        return chosen
    tensors, others = _split(root)
    if not tensors and isinstance(root, dict):
        tensors, others = _gathered(root, WRAPPER_DEPTH)
    if tensors:
        wrapper = root.path if isinstance(root, Placeholder) else ""
        return _Chosen(wrapper, tensors, others, ())
    raise _without_tensors(root)


def _wrapped(root: object, depth: int = WRAPPER_DEPTH) -> _Chosen | None:
    """The first set of weights under one of the wrappers, or under wrappers in wrappers."""
    if not isinstance(root, dict) or depth == 0:
        return None
    for wrapper in WRAPPERS:
        tensors, others = _split(root.get(wrapper))
        found: _Chosen | None = _Chosen("", tensors, others, ())
        if not tensors:
            found = _wrapped(root.get(wrapper), depth - 1)
        if found is None:
            continue
        path = f"{wrapper}.{found.wrapper}".rstrip(".")
        within = {f"{wrapper}.{name}": value for name, value in found.others.items()}
        beside = {name: value for name, value in root.items() if name != wrapper}
        sets = tuple(name for name in WRAPPERS if name != wrapper and _split(root.get(name))[0])
        return _Chosen(path, found.tensors, beside | within, sets + found.other_sets)
    return None


def _split(value: object) -> tuple[dict[str, StoredTensor], dict[str, object]]:
    """The tensors directly in a dict or anywhere in a module, and the other entries."""
    if isinstance(value, Placeholder):
        return dict(value.tensors()), {}
    entries = value if isinstance(value, dict) else {}
    tensors = {
        name: entry
        for name, entry in entries.items()
        if isinstance(name, str) and isinstance(entry, StoredTensor)
    }
    return tensors, {name: entries[name] for name in entries if name not in tensors}


def _gathered(
    root: dict[object, object], depth: int
) -> tuple[dict[str, StoredTensor], dict[str, object]]:
    """Tensors in dicts under other names, such as one for a backbone and one for its head."""
    tensors: dict[str, StoredTensor] = {}
    others: dict[str, object] = {}
    for name, value in root.items():
        found, beside = _split(value)
        if isinstance(name, str) and OF_TRAINING.search(name):
            found, beside = {}, {}
        elif isinstance(value, dict) and not found and depth > 1:
            found, beside = _gathered(value, depth - 1)
        named = {f"{name}.{inner}": each for inner, each in found.items()}
        if found and isinstance(name, str) and all(map(NAME.fullmatch, named)):
            tensors |= named
            others |= {f"{name}.{inner}": each for inner, each in beside.items()}
        else:
            others[str(name)] = value
    return tensors, others


def _without_tensors(root: object) -> CheckpointError:
    entries = root if isinstance(root, dict) else {}
    arrays = [name for name, value in entries.items()
              if isinstance(value, Placeholder) and value.path.startswith("numpy.")]  # fmt: skip
    if arrays:
        return CheckpointError(
            f"holds NumPy arrays, no tensors: {', '.join(map(str, arrays)):.200}",
            remedy="save it again with torch.from_numpy(array) for each array",
        )
    kind = root.path if isinstance(root, Placeholder) else type(root).__name__
    found = ", ".join(map(str, entries)) or f"a {kind}"
    return CheckpointError(
        f"holds no tensors by name, but {found:.200}",
        remedy=f"save a state dict, alone or under one of {', '.join(WRAPPERS[:5])}",
    )


def _companions(entries: dict[str, object]) -> tuple[dict[str, object], list[str]]:
    """Entries that are plain values, and the names of all others."""
    plain, skipped = {}, []
    for name, value in entries.items():
        if isinstance(value, dict):
            skipped += [f"{name}.{key}" for key in value if isinstance(value[key], Placeholder)]
            value = {key: value[key] for key in value if not isinstance(value[key], Placeholder)}
        if _is_plain(value):
            plain[str(name)] = value
        else:
            skipped.append(str(name))
    return plain, skipped


def _is_plain(value: object) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, bool | int | float | str)


def _tensor(name: str, stored: StoredTensor, storages: dict[str, memoryview]) -> Tensor:
    """A copy of the values of a tensor, as the file describes it."""
    dtype, count = stored.storage.dtype, stored.storage.count
    if not NAME.fullmatch(name):
        raise CheckpointError(f"holds a tensor of the name {name!a:.80}")
    if dtype not in TYPES:
        raise CheckpointError(f"holds {name} as {dtype}", remedy="save it as float32")
    content = storages[stored.storage.key]
    if len(content) != count * dtype.itemsize:
        raise CheckpointError(f"has {len(content)} bytes for the {count} values around {name}")
    if max(stored.count, stored.offset + stored.span) > count:
        raise CheckpointError(f"describes {name} as {stored.shape} within {count} values")
    if stored.count == 0:
        return torch.empty(stored.shape, dtype=dtype)
    begin, end = (place * dtype.itemsize for place in (stored.offset, stored.offset + stored.span))
    # Bools are read as bytes, as the file may hold other values than 0 and 1.
    flat = torch.frombuffer(
        bytearray(content[begin:end]), dtype=torch.uint8 if dtype is torch.bool else dtype
    )
    tensor = flat.as_strided(stored.shape, stored.strides).to(dtype).contiguous()
    if not tensor.isfinite().all():
        raise CheckpointError(
            f"holds values in {name} that are not finite numbers",
            remedy="its training diverged, or it is damaged: use an earlier one, or get it again",
        )
    return tensor
