"""Images of every format with faults put in by chance."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from trial import Trial, Try

from decoding import SampleResult, mutated, outcomes, sound_images

AT_A_TIME = 200
"""Decoded in one child, since a child costs more than an image."""


def _fates(cases: list[tuple[str, bytes]]) -> Iterator[SampleResult]:
    """One for each; an image that ends the child does not keep the others from their turn."""
    while cases:
        found = outcomes(cases)
        yield from found
        cases = cases[max(len(found), 1) :]


def _judge(name: str, outcome: SampleResult) -> None:
    assert outcome.name == name
    assert outcome.fate in ("read", "refused"), outcome
    assert outcome.reason


def tries(folder: Path, count: int) -> Iterator[Try]:
    sound = sound_images()
    for start in range(0, count, AT_A_TIME):
        cases = [mutated(sound, seed) for seed in range(start, min(start + AT_A_TIME, count))]
        for (name, _), outcome in zip(cases, _fates(cases), strict=True):
            yield partial(_judge, name, outcome)


TRIAL = Trial(
    fault="flipped, lost, repeated or foreign bytes in an image of any format and mode",
    promise="read, or refused with a reason; no crash, no hang, at most 1.5 GB of memory",
    count=10_000,
    tries=tries,
)
