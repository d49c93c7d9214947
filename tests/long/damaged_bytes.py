"""Bits that flip in a checkpoint, and files that are cut, lengthened, blanked or gone."""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from trial import Trial, Try

from beit.errors import CheckpointError
from beit.training.checkpoint import MANIFEST, newest_checkpoint, read_checkpoint, save_checkpoint
from states import assert_same, checkpoint


def _flipped(whole: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(whole)
    damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _blanked(whole: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(whole))
    length = chance.randint(1, 512)
    return whole[:start] + bytes(len(whole[start : start + length])) + whole[start + length :]


def _cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))]


def _lengthened(whole: bytes, chance: random.Random) -> bytes:
    return whole + bytes(chance.randrange(1, 256) for _ in range(chance.randint(1, 9)))


WAYS = (_flipped, _flipped, _flipped, _cut, _blanked, _lengthened)


def _damage(saved: Path, seed: int) -> None:
    chance = random.Random(seed)
    file = chance.choice(sorted(saved.iterdir()))
    whole = file.read_bytes()
    damaged = chance.choice(WAYS)(whole, chance)
    if damaged == whole:  # zeros over zeros
        damaged = _flipped(whole, chance)
    try:
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=re.escape(str(saved))) as caught:
            read_checkpoint(saved)
        assert file.name == MANIFEST or file.name in caught.value.problem
        assert_same(newest_checkpoint(saved.parent).checkpoint, checkpoint(10))
    finally:
        file.write_bytes(whole)


def tries(folder: Path, count: int) -> Iterator[Try]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        save_checkpoint(Path(place), checkpoint(10), keep=2)
        saved = save_checkpoint(Path(place), checkpoint(20), keep=2)
        for seed in range(count):
            yield partial(_damage, saved, seed)


TRIAL = Trial(
    fault="a flipped bit, a cut, blanked or lengthened file in a checkpoint",
    promise="noticed, with the name of the file; resuming takes the checkpoint before",
    count=2000,
    tries=tries,
)
