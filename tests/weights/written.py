"""Files of weights, written by the libraries or by hand out of instructions of pickles."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile

import pytest
import safetensors.torch
import torch

from beit.errors import CheckpointError
from beit.weights.read import read_contents

KINDS = ("safetensors", "torch zip", "torch legacy")
PROTO, STOP = b"\x80\x02", b"."


def save(path, value, kind):
    """Write with the library of a kind of file; safetensors takes only a dict of tensors."""
    if kind == "safetensors":
        safetensors.torch.save_file(value, path)
    else:
        torch.save(value, path, _use_new_zipfile_serialization=kind == "torch zip")
    return path


def refused(path, problem=None):
    """Reading the file is refused for a reason, with the name of the file and a remedy."""
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_contents(path)
    assert caught.value.problem.startswith(str(path))
    assert caught.value.remedy


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def listed(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def named(path: str) -> bytes:
    """GLOBAL with the last dot as the border between module and name, or the place of a `|`."""
    module, _, name = path.partition("|") if "|" in path else path.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def called(path: str, *arguments: bytes) -> bytes:
    return named(path) + listed(*arguments) + b"R"


def entries(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def program(value: bytes) -> bytes:
    return PROTO + value + STOP


def storage(kind: str = "torch.FloatStorage", count: bytes = whole(4), key: str = "0") -> bytes:
    return listed(text("storage"), named(kind), text(key), text("cpu"), count) + b"Q"


def tensor(
    shape: bytes = listed(whole(4)),
    strides: bytes = listed(whole(1)),
    offset: bytes = whole(0),
    values: bytes = b"",
) -> bytes:
    return called(
        "torch._utils._rebuild_tensor_v2", values or storage(), offset, shape, strides,
        b"\x89", called("collections.OrderedDict"),
    )  # fmt: skip


HARMLESS = program(entries(weight=tensor()))
VALUES = struct.pack("<4f", 1, 2, 3, 4)


def zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            info = zipfile.ZipInfo("placeholder")  # so that no name is too strange to be written
            info.filename, info.compress_type = name, compression
            with warnings.catch_warnings(action="ignore"):  # about two of one name
                archive.writestr(info, content)
    return file.getvalue()


def torch_zip(content: bytes, values: bytes = VALUES) -> bytes:
    return zipped(("a/data.pkl", content), ("a/byteorder", b"little"), ("a/data/0", values))


def legacy(
    root: bytes, *, system: bytes = b"", keys: bytes = b"", values: bytes | None = None
) -> bytes:
    """The older format; the keys and the values are those of one storage of four floats."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    system = system or program(b"}" + text("little_endian") + b"\x88s")
    keys = keys or program(b"]" + text("0") + b"a")
    values = struct.pack("<q", 4) + VALUES if values is None else values
    return magic + program(b"M\xe9\x03") + system + root + keys + values
