"""Where the values of tensors lie in the three kinds of weight files, before any is read.

Each function takes the bytes of a file of its kind and raises CheckpointError, or another error of
what it reads with, if they are damaged or hold what no such file of weights has.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import torch

from beit.errors import CheckpointError
from beit.weights.imports import Storage, StoredTensor
from beit.weights.pickles import ELSEWHERE, PICKLE_BYTES, read_pickle

HEADER_BYTES = 16 * 2**20
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
SAVE_AGAIN = "load it where it was made, and save its state_dict() with torch.save"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MEMBER = re.compile(
    r"(?P<folder>(?!\.\.?/)[^/\\]+)/(?P<name>data\.pkl|data/\d+|byteorder|version|"
    r"\.format_version|\.storage_alignment|\.data/(serialization_id|version))"
)
OTHER_ARCHIVES = {
    r".*/(code/.*|constants\.pkl)": "a TorchScript archive, which is a program",
    r".*/\.data/extern_modules": "a package of PyTorch, which is a program",
    r".*\.npy": "a NumPy archive",
}


class Layout(NamedTuple):
    """What a file holds, the bytes of each storage, and what safetensors says beside it."""

    root: Any
    storages: dict[str, memoryview]
    metadata: dict[str, object]


def lay_out_safetensors(data: bytes) -> Layout:
    """The length of the header, the header in JSON, and the tensors in a row without gaps."""
    (length,) = struct.unpack_from("<Q", data)
    begin = 8 + length
    if length > HEADER_BYTES or begin > len(data):
        raise CheckpointError(f"is cut: its header has {length} bytes, the file {len(data)}")
    header = json.loads(data[8:begin].decode(), object_pairs_hook=_each_once)
    layout = Layout({}, {}, header.pop("__metadata__", {}))
    if not all(isinstance(value, str) for value in layout.metadata.values()):
        raise CheckpointError("has metadata that are no strings")
    end = begin
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(f"holds {name!a:.80} as {entry['dtype']!a:.20}")
        start, stop = (begin + offset for offset in entry["data_offsets"])
        itemsize = DTYPES[entry["dtype"]].itemsize
        storage = Storage(name, DTYPES[entry["dtype"]], (stop - start) // itemsize)
        tensor = StoredTensor.of_all(storage, tuple(entry["shape"]))
        if start != end or stop != start + tensor.count * itemsize:
            raise CheckpointError(f"places {name!a:.80} where it cannot be")
        layout.root[name], layout.storages[name] = tensor, memoryview(data)[start:stop]
        end = stop
    if end != len(data):
        raise CheckpointError(f"has {len(data)} bytes, where its header says {end}")
    return layout


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise CheckpointError("has a header that names something twice")
    return entries


def lay_out_zip(data: bytes) -> Layout:
    """What PyTorch writes since 1.6: one folder with `data.pkl` and a member for each storage."""
    members = _members(data)
    if members.get("byteorder", b"little") != b"little":
        raise CheckpointError("was written on a big-endian machine")
    if len(members["data.pkl"]) > PICKLE_BYTES:
        raise CheckpointError(f"has a pickle of more than {PICKLE_BYTES} bytes")
    pickled = read_pickle(members["data.pkl"])
    if pickled.end != len(members["data.pkl"]):
        raise CheckpointError("has something behind its pickle", remedy=ELSEWHERE)
    storages = {name[5:]: members[name] for name in members if name.startswith("data/")}
    return Layout(pickled.value, storages, {})


def _members(data: bytes) -> dict[str, memoryview]:
    """The members of an archive by their names in its folder, whole and without overlap."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise CheckpointError("is cut or damaged: as a zip archive it has no end") from error
    names = archive.namelist()
    for pattern, what in OTHER_ARCHIVES.items():
        if any(re.fullmatch(pattern, name, re.DOTALL) for name in names):
            raise CheckpointError(f"is {what}", remedy=SAVE_AGAIN)
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(f"is a zip archive, but not of torch.save: {names[:3]!a:.80}")
    members: dict[str, memoryview] = {}
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        found = MEMBER.fullmatch(info.orig_filename)
        if not found or found["folder"] != names[0].split("/")[0] or found["name"] in members:
            raise CheckpointError(
                f"has a member that torch.save does not write: {info.orig_filename!a:.80}",
                remedy=ELSEWHERE,
            )
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"has a compressed member: {info.orig_filename!a:.80}")
        mark, *lengths = struct.unpack_from("<4s22xHH", data, info.header_offset)
        named = info.header_offset + 30
        start = named + sum(lengths)
        content = memoryview(data)[start : start + info.file_size]
        if (
            info.header_offset < end
            or (info.header_offset > 0 and not members)
            or mark != b"PK\3\4"
            or data[named : named + lengths[0]] != info.orig_filename.encode()
            or len(content) != info.compress_size
            or zlib.crc32(content) != info.CRC
        ):
            raise CheckpointError(f"has a damaged member: {info.orig_filename!a:.80}")
        members[found["name"]] = content
        end = start + len(content)
    return members


def lay_out_legacy(data: bytes) -> Layout:
    """What PyTorch wrote before 1.6: five pickles, then each storage behind its length."""
    view = memoryview(data)
    magic = read_pickle(view)
    protocol = read_pickle(view, magic.end)
    system = read_pickle(view, protocol.end)
    root = read_pickle(view, system.end)
    keys = read_pickle(view, root.end)
    if (magic.value, protocol.value, system.value["little_endian"]) != (MAGIC, PROTOCOL, True):
        raise CheckpointError("was written by an unknown version of PyTorch, or is damaged")
    if sorted(keys.value) != sorted(root.storages):
        raise CheckpointError("lists other storages than its tensors lie in")
    layout = Layout(root.value, {}, {})
    end = keys.end
    for key in keys.value:
        storage = root.storages[key]
        (count,) = struct.unpack_from("<q", data, end)
        start, end = end + 8, end + 8 + storage.count * storage.dtype.itemsize
        if count != storage.count or end > len(data):
            raise CheckpointError(f"is cut or damaged: storage {key} has no {storage.count} values")
        layout.storages[key] = view[start:end]
    if end != len(data):
        raise CheckpointError("has something behind its last storage", remedy=ELSEWHERE)
    return layout
