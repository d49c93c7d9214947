"""The three containers of weight files: which one a file is, and where the values of tensors lie.

A file is recognised by its first bytes, never by its name. The `lay_out_` functions take the bytes
of a file. They raise CheckpointError, or an error of the library that parses them, if the bytes are
damaged or hold something that no weight file of this kind has.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

from beit.errors import CheckpointError
from beit.json_object import parse_json
from beit.weights.pickles import ELSEWHERE, PICKLE_BYTES, read_pickle
from beit.weights.pickles.imports import Storage, StoredTensor

Container = Literal["safetensors", "torch zip", "torch legacy"]
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
    r".*/archive_format": "an archive of torch.export, which is a program",
    r".*/\.data/extern_modules": "a package of PyTorch, which is a program",
    r".*\.npy": "a NumPy archive",
}
HEAD_BYTES = 4096
CONTAINERS: dict[Container, bytes] = {
    "torch zip": rb"PK(\x03\x04|\x05\x06)",
    "torch legacy": rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.",
    "safetensors": rb".{5}\0\0\0\{",
}


DOWNLOAD = "download the file itself; a browser shows what the address gives"
UNPACK = "unpack it, and give the weight file in it"
CONVERT = "load it with the library that wrote it, and save its tensors as safetensors"
IMAGE = rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF.{4}WEBP|II\*\0|MM\0\*|BM.{4}\0{4}"
OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (IMAGE, "is an image", "give a model; in a command it stands before the images"),
    (rb"\Z", "is empty", DOWNLOAD),
    (rb"(\xef\xbb\xbf)?\s*<[!?a-z]", "is a web page, no weights", DOWNLOAD),
    (rb"version https://git-lfs", "is a pointer of Git LFS", "run `git lfs pull`"),
    (rb".{257}ustar", "is a tar archive, as PyTorch 0.1 wrote too", UNPACK),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "is compressed", UNPACK),
    (rb"\x93NUMPY", "is a NumPy array", CONVERT),
    (rb"\x89HDF", "is an HDF5 file", CONVERT),
    (rb"\x08[\x01-\x20][\x12\x1a\x22\x2a\x3a]", "seems to be an ONNX model", CONVERT),
    (rb"\x80[\0-\5]|\(?[ci][\w.]+\n[\w.]+\n", "is a pickle, but not of torch.save", ELSEWHERE),
    (rb'\s*(\{\s*["}]|\[\s*["{\[\d])', "is JSON", "give the weight file that lies beside it"),
    (
        rb"[\t-\r\x1b -~\x80-\xff]+\Z",
        "is a text, no weights",
        "give the weight file; if this should be one, the download has failed, and `wget -o` "
        "writes its log where `wget -O` writes the file",
    ),
)
"""How other files begin, what they are, and what to do instead."""


def recognise(data: bytes) -> Container:
    """The container of a weight file. Raises CheckpointError for any other file, saying what it
    is."""
    head = data[:HEAD_BYTES]
    for container, begins in CONTAINERS.items():
        if re.match(begins, head, re.DOTALL):
            return container
    for begins, what, remedy in OTHERS:
        if re.match(begins, head, re.DOTALL | re.IGNORECASE):
            raise CheckpointError(what, remedy=remedy)
    raise CheckpointError(f"is not a weight file: it begins with {data[:8]!r}", remedy=CONVERT)


class Layout(NamedTuple):
    """What a file holds, the bytes of each storage, and the metadata of a safetensors file."""

    root: Any
    storages: dict[str, memoryview]
    metadata: dict[str, object]


def lay_out_safetensors(data: bytes) -> Layout:
    """Lay out safetensors: length of the header, header in JSON, then the tensors without gaps."""
    (length,) = struct.unpack_from("<Q", data)
    begin = 8 + length
    if length > HEADER_BYTES or begin > len(data):
        raise CheckpointError(f"is cut: its header has {length} bytes, the file {len(data)}")
    header = parse_json(data[8:begin].decode())
    layout = Layout({}, {}, header.pop("__metadata__", {}))
    if not all(isinstance(value, str) for value in layout.metadata.values()):
        raise CheckpointError("has metadata that are not strings")
    end = begin
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(
                f"holds {name!a:.80} as {entry['dtype']!a:.20}",
                remedy="save it as float32, where it was made",
            )
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


def lay_out_zip(data: bytes) -> Layout:
    """Lay out what PyTorch writes since 1.6: a folder with `data.pkl` and a member per storage."""
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
    """The members of an archive by their names in its folder; each is whole, and none overlap."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise CheckpointError("is cut or damaged: as a zip archive it has no end") from error
    names = archive.namelist()
    for pattern, what in OTHER_ARCHIVES.items():
        if any(re.fullmatch(pattern, name, re.DOTALL) for name in names):
            raise CheckpointError(f"is {what}", remedy=SAVE_AGAIN)
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(
            f"is a zip archive, but not of torch.save: {names[:3]!a:.80}", remedy=UNPACK
        )
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
            raise CheckpointError(
                f"has a compressed member: {info.orig_filename!a:.80}",
                remedy="torch.save does not compress: give the file as it was before it was zipped",
            )
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
    """Lay out what PyTorch wrote before 1.6: five pickles, then each storage after its length."""
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


LAY_OUT: dict[Container, Callable[[bytes], Layout]] = {
    "safetensors": lay_out_safetensors,
    "torch zip": lay_out_zip,
    "torch legacy": lay_out_legacy,
}
