"""What a file is, told from its first bytes and never from its name."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from beit.errors import CheckpointError
from beit.weights.pickles import ELSEWHERE

Container = Literal["safetensors", "torch zip", "torch legacy"]
HEAD_BYTES = 4096
CONTAINERS: dict[Container, bytes] = {
    "torch zip": rb"PK(\x03\x04|\x05\x06)",
    "torch legacy": rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.",
    "safetensors": rb".{5}\0\0\0\{",
}


class Stranger(NamedTuple):
    """A file that is read by nobody here."""

    begins: bytes
    what: str
    remedy: str


DOWNLOAD = "download the file itself; a browser shows what the address gives"
UNPACK = "unpack it, and give the weight file in it"
CONVERT = "load it with the library that wrote it, and save its tensors as safetensors"
IMAGE = rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF.{4}WEBP|II\*\0|MM\0\*|BM.{4}\0{4}"
STRANGERS = (
    Stranger(IMAGE, "is an image", "give a model; in a command it stands before the images"),
    Stranger(rb"\Z", "is empty", DOWNLOAD),
    Stranger(rb"\s*(<!doctype html|<html|<\?xml)", "is a web page, no weights", DOWNLOAD),
    Stranger(rb"version https://git-lfs", "is a pointer of Git LFS", "run `git lfs pull`"),
    Stranger(rb".{257}ustar", "is a tar archive, as PyTorch 0.1 wrote too", UNPACK),
    Stranger(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "is compressed", UNPACK),
    Stranger(rb"\x93NUMPY", "is a NumPy array", CONVERT),
    Stranger(rb"\x89HDF", "is an HDF5 file", CONVERT),
    Stranger(rb"\x08[\x01-\x20][\x12\x1a\x22\x2a\x3a]", "seems to be an ONNX model", CONVERT),
    Stranger(
        rb"\x80[\0-\5]|\(?[ci][\w.]+\n[\w.]+\n", "is a pickle, but not of torch.save", ELSEWHERE
    ),
    Stranger(
        rb'\s*(\{\s*["}]|\[\s*["{\[\d])', "is JSON", "give the weight file that lies beside it"
    ),
    Stranger(
        rb"[\t-\r\x1b -~\x80-\xff]+\Z",
        "is a text, such as the log that `wget -o` writes",
        "download it again with `wget -O`",
    ),
)


def recognise(data: bytes) -> Container:
    """The kind of a weight file. Raises CheckpointError that says what other files seem to be."""
    head = data[:HEAD_BYTES]
    for container, begins in CONTAINERS.items():
        if re.match(begins, head, re.DOTALL):
            return container
    for stranger in STRANGERS:
        if re.match(stranger.begins, head, re.DOTALL | re.IGNORECASE):
            raise CheckpointError(stranger.what, remedy=stranger.remedy)
    raise CheckpointError(f"is no weight file: it begins with {data[:8]!r}", remedy=CONVERT)
