"""Decoding in a process of its own, with little memory and little time; and mutated images."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from beit.data.decode import decode
from beit.errors import UnreadableError
from encoding import FORMATS, MODES, encoded

MEMORY = 1500 * 2**20
"""Bytes that decoding may take beyond what the process has."""
SECONDS = 60
NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\x80\0\0\0")


class SampleResult(NamedTuple):
    """What became of a file: `read`, `refused`, or worse: how the process ended."""

    name: str
    fate: str
    reason: str


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _child(cases: Iterable[tuple[str, bytes]], pipe: int) -> None:
    limit = _memory() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with os.fdopen(pipe, "w") as report:
        for name, data in cases:
            print(json.dumps([name]), file=report, flush=True)
            signal.alarm(SECONDS)
            try:
                pixels = decode(data)
                fate, reason = "read", f"{pixels.dtype} {pixels.shape}"
                assert pixels.dtype == "uint8"
                assert pixels.ndim == 3
                assert pixels.shape[2] == 3
                assert pixels.size
            except UnreadableError as error:
                fate, reason = "refused", error.reason
            except BaseException as error:  # whatever else comes is the fault that is looked for
                fate, reason = "error", repr(error)
            signal.alarm(0)
            print(json.dumps([name, fate, reason]), file=report, flush=True)


def outcomes(cases: Iterable[tuple[str, bytes]]) -> list[SampleResult]:
    """What becomes of every case in one child, up to the first that ends it."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(readable)
            _child(cases, writable)
            code = 0
        finally:
            os._exit(code)
    os.close(writable)
    with os.fdopen(readable) as report:
        lines = [json.loads(line) for line in report]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = [SampleResult(*line) for line in lines if len(line) == 3]
    if status:
        ended = "hung" if status == -signal.SIGALRM else f"ended with {status}"
        found.append(SampleResult(lines[-1][0] if lines else "", ended, ""))
    return found


Mutation = Callable[[bytearray, random.Random], None]


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _flip_early(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(min(64, len(data)))] = chance.choice((0, 1, 127, 128, 255))


def _number(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data) - 4)
    data[place : place + 4] = chance.choice(NUMBERS)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data)) :]


def _remove(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data) - 1)
    del data[place : place + chance.randint(1, 64)]


def _repeat(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data))
    data[place:place] = data[place : place + chance.randint(1, 200)] * chance.randint(1, 20)


def _insert(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data))
    data[place:place] = chance.randbytes(chance.randint(1, 64))


def _blank(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data))
    length = min(chance.randint(1, 300), len(data) - place)
    data[place : place + length] = chance.choice((b"\0", b"\xff")) * length


MUTATIONS: tuple[Mutation, ...] = (
    _flip, _flip_early, _flip_early, _number, _number, _cut, _remove, _repeat, _insert, _blank,
)  # fmt: skip


def sound_images() -> list[tuple[str, bytes]]:
    """One of each format and mode, animated and turned ones among them."""
    found = [
        (f"{form} {mode}", encoded(form, mode, side=24)) for form in FORMATS for mode in MODES[form]
    ]
    found.append(("JPEG progressive", encoded("JPEG", side=24, progressive=True)))
    found.append(("WEBP lossless", encoded("WEBP", side=24, lossless=True)))
    found += [
        (f"TIFF {name}", encoded("TIFF", side=24, compression=name))
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ]
    return found


def mutated(sound: list[tuple[str, bytes]], seed: int) -> tuple[str, bytes]:
    """A sound image with one to three faults; the same for the same seed."""
    chance = random.Random(seed)
    name, data = chance.choice(sound)
    damaged = bytearray(data)
    for mutation in chance.choices(MUTATIONS, k=chance.randint(1, 3)):
        if len(damaged) > 8:
            mutation(damaged, chance)
    return f"{seed}: {name}", bytes(damaged)
