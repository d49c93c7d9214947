"""The outputs of frozen models for views that recur, cached on disk: computed only once.

A folder, named by the digest of everything that decides what is cached, holds that identity as
`bank.json` and a file per view: a row of words per image, none of them zero. Zero means never
written. So whatever a kill or a power failure leaves, in whatever order it reached the disk, a row
is either whole or known to be incomplete.
"""

from __future__ import annotations

import abc
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from beit.atomic_io import make_folder, replace_file
from beit.errors import CheckpointError, ResourceError

IDENTITY = "bank.json"
FORMAT = 1
"""Format of the files; caches in another one have other folders, as those of other models do."""
GIGABYTE = 2**30
Views = Int64[Tensor, "batch 2"]
"""(view, image) pairs."""
Compute = Callable[[list[int]], Tensor]
"""From indices of images in a batch to what is cached of these images [images, ...]."""


class RowCache(abc.ABC):
    """A row for each of `views` views of each of `images` images.

    Several processes of one machine may use it at once: whichever finds a row missing writes it,
    and all would write the same. Nothing is created on disk before the first rows are requested.
    """

    content: str
    """What is cached, in messages; also the suffix of the files."""
    verb: str
    """How it is made, in messages: a past participle."""
    options: tuple[str, str]
    """The options for the number of views and for the folder, in messages."""

    def __init__(
        self, root: Path, identity: Mapping[str, object], *, views: int, images: int, words: int,
        word: str,
    ) -> None:  # fmt: skip
        """Describe a cache; the disk is not touched.

        Args:
            root: Folder of all caches.
            identity: Everything that decides what is cached of a view, as JSON values: the model,
                its precision, how views are drawn, and of which images.
            views: Number of views of each image.
            images: Number of images.
            words: Unsigned integers in a row.
            word: Their type, as NumPy writes it.
        """
        self._identity = json.dumps(
            {"format": FORMAT, **identity}, indent=1, sort_keys=True
        ).encode()
        self.folder = root / hashlib.sha256(self._identity).hexdigest()
        self._views, self._images, self._words = views, images, words
        self._type = np.dtype(word)
        self._row_bytes = words * self._type.itemsize
        self._opened = False

    @abc.abstractmethod
    def _problem(self, row: np.ndarray) -> str:
        """What is wrong with a complete row; empty if nothing is."""

    @abc.abstractmethod
    def _described(self) -> str:
        """What a row holds, for the user."""

    def _rows(self, views: Views, compute: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """The rows of (view, image) pairs; `compute` gives those that are missing.

        Raises:
            CheckpointError: What is on disk is damaged or another cache.
            ResourceError: The disk cannot be read or written to.
        """
        pairs: list[list[int]] = views.tolist()
        rows = np.zeros((len(pairs), self._words), self._type)
        try:
            self._open()
            with ExitStack() as stack:
                files = {view: stack.enter_context(self._file(view)) for view, _ in sorted(pairs)}
                for row, (view, image) in zip(rows, pairs, strict=True):
                    row[:] = self._read(files[view], view, image)
                missing = np.flatnonzero((rows == 0).any(axis=1)).tolist()
                if missing:
                    rows[missing] = compute(missing)
                for number in missing:
                    view, image = pairs[number]
                    data, place = memoryview(rows[number].tobytes()), image * self._row_bytes
                    while data:
                        written = os.pwrite(files[view], data, place)
                        data, place = data[written:], place + written
        except OSError as error:
            raise ResourceError(
                f"the {self.content} in {self.folder} cannot be read or written to: "
                f"{error.strerror}",
                remedy="make room or permit writing, then continue with --resume; or name another "
                f"{self.options[1]}",
            ) from error
        return rows

    def check_room(self) -> str:
        """A message that says what the cache takes on disk.

        Raises:
            ResourceError: There is not enough room.
        """
        whole = self._views * self._images * self._row_bytes
        paths = [self._path(view) for view in range(self._views)]
        taken = sum(path.stat().st_blocks * 512 for path in paths if path.exists())
        place = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(place).free
        needed = max(whole - taken, 0)
        if needed > free:
            raise ResourceError(
                f"the {self.content} of {self._views} views of {self._images:,} images take "
                f"{needed / GIGABYTE:.2f} GB more, and {place} has {free / GIGABYTE:.2f} GB left",
                remedy=f"use fewer {self.options[0]}, or name a {self.options[1]} on a larger disk",
            )
        return (
            f"{self.content} of {self._views} views of {self._images:,} images are kept in "
            f"{self.folder}: {whole / GIGABYTE:.2f} GB, of which {taken / GIGABYTE:.2f} are there"
        )

    def _path(self, view: int) -> Path:
        return self.folder / f"view-{view:04d}.{self.content}"

    def _open(self) -> None:
        """Create the folder, or check that it is of this cache; several processes may do so at
        once."""
        if self._opened:
            return
        path = self.folder / IDENTITY
        if not path.exists():
            make_folder(self.folder)
            replace_file(path, [self._identity])
        if path.read_bytes() != self._identity:
            raise self._foreign(f"{path} describes another cache or is damaged")
        self._opened = True

    @contextmanager
    def _file(self, view: int) -> Iterator[int]:
        """The file of a view; a new one is all zeros and takes room only where it is written."""
        expected = self._images * self._row_bytes
        file = os.open(self._path(view), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(file).st_size == 0:
                os.ftruncate(file, expected)
            size = os.fstat(file).st_size
            if size != expected:
                raise self._foreign(
                    f"{self._path(view)} has {size} bytes, and {self._images} images of "
                    f"{self._described()} take {expected}"
                )
            yield file
        finally:
            os.close(file)

    def _read(self, file: int, view: int, image: int) -> np.ndarray:
        data = os.pread(file, self._row_bytes, image * self._row_bytes)
        row = np.frombuffer(data, self._type)
        if row.all() and (problem := self._problem(row)):
            raise self._foreign(f"{self._path(view)} has for image {image} {problem}")
        return row

    def _foreign(self, problem: str) -> CheckpointError:
        return CheckpointError(
            problem, remedy=f"remove {self.folder}: what it held is {self.verb} again"
        )


class TokenCache(RowCache):
    """Tokens of images, N = `patches` of each; a token is stored as its id plus one."""

    content, verb = "tokens", "encoded"
    options = ("--token-views", "--token-cache")

    def __init__(
        self, root: Path, identity: Mapping[str, object], *, views: int, images: int, patches: int,
        codes: int,
    ) -> None:  # fmt: skip
        """As for `RowCache`; the vocabulary has `codes` codes."""
        word = "<u2" if codes <= np.iinfo("<u2").max else "<u4"
        super().__init__(root, identity, views=views, images=images, words=patches, word=word)
        self._codes = codes

    def tokens(self, views: Views, encode: Compute) -> Int64[Tensor, "batch patches"]:
        """The tokens of these views; `encode` gives those that are missing."""
        rows = self._rows(views, lambda missing: encode(missing).cpu().numpy() + 1)
        return torch.from_numpy(rows.astype(np.int64) - 1)

    def _problem(self, row: np.ndarray) -> str:
        if row.max() <= self._codes:
            return ""
        return f"token {row.max() - 1}, and the tokenizer has {self._codes} codes"

    def _described(self) -> str:
        return f"{self._words} tokens"


class FeatureCache(RowCache):
    """Features of images, float32 [patches, width]: the very bits that were computed.

    They are stored inverted, as the zero word then stands for a NaN that no model gives; a checksum
    ends the row.
    """

    content, verb = "features", "computed"
    options = ("--teacher-views", "--teacher-cache")

    def __init__(
        self, root: Path, identity: Mapping[str, object], *, views: int, images: int, patches: int,
        width: int,
    ) -> None:  # fmt: skip
        """As for `RowCache`; an image has `patches` vectors of `width` values."""
        words = patches * width + 1
        super().__init__(root, identity, views=views, images=images, words=words, word="<u4")
        self._shape = (patches, width)

    def features(self, views: Views, compute: Compute) -> Float[Tensor, "batch patches width"]:
        """The features of these views; `compute` gives those that are missing."""

        def words(missing: list[int]) -> np.ndarray:
            values = compute(missing).flatten(1).cpu().numpy().astype("<f4", copy=False)
            inverted = ~np.ascontiguousarray(values).view(self._type)
            return np.column_stack([inverted, [_checksum(row) for row in inverted]])

        rows = self._rows(views, words)
        values = (~rows[:, :-1]).view("<f4").astype(np.float32, copy=False)
        return torch.from_numpy(values.reshape(-1, *self._shape))

    def _problem(self, row: np.ndarray) -> str:
        return "" if _checksum(row[:-1]) == row[-1] else "features of another check sum"

    def _described(self) -> str:
        patches, width = self._shape
        return f"{patches} x {width} features"


def _checksum(words: np.ndarray) -> np.uint32:
    """CRC-32 of a row, never zero."""
    return np.uint32(zlib.crc32(words.tobytes()) or 1)
