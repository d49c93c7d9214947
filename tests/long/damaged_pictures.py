"""Pictures of every format with faults put in by chance."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from trial import Trial, Try

from decoding import mutated, outcomes, sound_pictures

AT_A_TIME = 50
"""Decoded in one child, since a child costs more than a picture."""


def _decode(sound: list[tuple[str, bytes]], seeds: range) -> None:
    found = outcomes(mutated(sound, seed) for seed in seeds)
    bad = [outcome for outcome in found if outcome.fate not in ("read", "refused")]
    assert len(found) == len(seeds), found[-1]
    assert not bad, bad
    assert all(outcome.reason for outcome in found)


def tries(folder: Path, count: int) -> Iterator[Try]:
    sound = sound_pictures()
    for start in range(0, count * AT_A_TIME, AT_A_TIME):
        yield partial(_decode, sound, range(start, start + AT_A_TIME))


TRIAL = Trial(
    fault="fifty pictures with flipped, lost, repeated or foreign bytes, each format and mode",
    promise="read or refused with a reason; no crash, no hang, at most 1.5 GB of memory",
    count=200,
    tries=tries,
)
