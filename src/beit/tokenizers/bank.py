"""Tokens of views that come again, kept on disk: what was encoded once is not encoded again.

A folder, named by the digest of all that decides the tokens, holds that identity as `bank.json` and
a file per view: a row per picture, and per token its id plus one. Zero is what was never written.
So whatever a kill or a loss of power leaves, in whatever order it reached the disk, a row either
has all its tokens or is known to lack some.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from beit.durable import flush, make_folder, write_file
from beit.errors import CheckpointError, ResourceError

IDENTITY = "bank.json"
GIGABYTE = 2**30
Encode = Callable[[list[int]], Tensor]
"""Numbers of pictures of a batch, to their tokens [pictures, N]."""


class TokenBank:
    """The tokens of `views` views of each of `pictures` pictures, N = `patches` of each.

    Several processes of one machine may use it at once: who finds a row missing writes it, and all
    would write the same. Nothing is made on disk before the first tokens are asked for.
    """

    def __init__(
        self,
        root: Path,
        identity: Mapping[str, object],
        *,
        views: int,
        pictures: int,
        patches: int,
        codes: int,
    ) -> None:
        """`identity` is all that decides the tokens of a view, as JSON values: the tokenizer, its
        precision, how views are drawn, and of which pictures."""
        self._identity = json.dumps(identity, indent=1, sort_keys=True).encode()
        self.folder = root / hashlib.sha256(self._identity).hexdigest()
        self._views, self._pictures, self._patches = views, pictures, patches
        self._codes = codes
        self._type = np.dtype("<u2" if codes <= np.iinfo("<u2").max else "<u4")
        self._row = patches * self._type.itemsize  # bytes
        self._opened = False

    def tokens(
        self, views: Int64[Tensor, "batch 2"], encode: Encode
    ) -> Int64[Tensor, "batch patches"]:
        """The tokens of (view, picture) pairs; `encode` is asked for those that are missing.

        Raises CheckpointError if what is found on disk is damaged or another bank, ResourceError if
        the disk cannot be read or written to.
        """
        pairs: list[list[int]] = views.tolist()
        rows = np.zeros((len(pairs), self._patches), self._type)
        try:
            self._open()
            with ExitStack() as stack:
                files = {view: stack.enter_context(self._file(view)) for view, _ in sorted(pairs)}
                for row, (view, picture) in zip(rows, pairs, strict=True):
                    row[:] = self._read(files[view], view, picture)
                missing = np.flatnonzero((rows == 0).any(axis=1)).tolist()
                if missing:
                    rows[missing] = encode(missing).cpu().numpy() + 1
                for number in missing:
                    view, picture = pairs[number]
                    self._write(files[view], picture, rows[number])
        except OSError as error:
            raise ResourceError(
                f"the token bank {self.folder} cannot be read or written to: {error.strerror}",
                remedy="make room or permit writing, then go on with --resume; or name another "
                "--token-bank",
            ) from error
        return torch.from_numpy(rows.astype(np.int64) - 1)

    def check_room(self) -> str:
        """What it takes on disk, for the user. Raises ResourceError if there is not so much."""
        whole = self._views * self._pictures * self._row
        paths = [self._path(view) for view in range(self._views)]
        taken = sum(path.stat().st_blocks * 512 for path in paths if path.exists())
        place = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(place).free
        needed = max(whole - taken, 0)
        if needed > free:
            raise ResourceError(
                f"the tokens of {self._views} views of {self._pictures:,} pictures take "
                f"{needed / GIGABYTE:.2f} GB more, and {place} has {free / GIGABYTE:.2f} GB left",
                remedy="use fewer --token-views, or name a --token-bank on a larger disk",
            )
        return (
            f"tokens of {self._views} views of {self._pictures:,} pictures are kept in "
            f"{self.folder}: {whole / GIGABYTE:.2f} GB, of which {taken / GIGABYTE:.2f} are there"
        )

    def _path(self, view: int) -> Path:
        return self.folder / f"view-{view:04d}.tokens"

    def _open(self) -> None:
        """Make the folder, or make sure that it is of this bank; several processes may come here at
        once."""
        if self._opened:
            return
        path = self.folder / IDENTITY
        if not path.exists():
            make_folder(self.folder)
            temporary = self.folder / f".writing-{uuid.uuid4().hex}"
            write_file(temporary, [self._identity])
            temporary.replace(path)
            flush(self.folder)
        if path.read_bytes() != self._identity:
            raise self._foreign(f"{path} describes another bank or is damaged")
        self._opened = True

    @contextmanager
    def _file(self, view: int) -> Iterator[int]:
        """The file of a view; a new one is all zeros and takes room only where it is written."""
        expected = self._pictures * self._row
        file = os.open(self._path(view), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(file).st_size == 0:
                os.ftruncate(file, expected)
            size = os.fstat(file).st_size
            if size != expected:
                raise self._foreign(
                    f"{self._path(view)} has {size} bytes, and {self._pictures} pictures of "
                    f"{self._patches} tokens take {expected}"
                )
            yield file
        finally:
            os.close(file)

    def _read(self, file: int, view: int, picture: int) -> np.ndarray:
        row = np.frombuffer(os.pread(file, self._row, picture * self._row), self._type)
        if row.max() > self._codes:
            raise self._foreign(
                f"{self._path(view)} has token {row.max() - 1} for picture {picture}, and the "
                f"tokenizer has {self._codes} codes"
            )
        return row

    def _write(self, file: int, picture: int, row: np.ndarray) -> None:
        data, place = memoryview(row.tobytes()), picture * self._row
        while data:
            written = os.pwrite(file, data, place)
            data, place = data[written:], place + written

    def _foreign(self, problem: str) -> CheckpointError:
        return CheckpointError(
            problem, remedy=f"remove {self.folder}: what it held is encoded again"
        )
