"""The same image in two parts of the data: scores of one that was learned come out too high."""

from __future__ import annotations

import numpy as np

from beit.data.name_array import short_hash
from beit.data.pixel_types import UnreadableError
from beit.data.sources import ImageSource, spread

ASKED = 1024
"""Images for validation that are looked for; more are a sample."""
SIZED = 100_000
"""Images to learn from whose sizes are compared; more are a sample."""
READ = 2048
"""Images to learn from that are read because their size is that of one looked for."""


def shared_images(
    learned: ImageSource, judged: ImageSource, *, asked: int = ASKED, sized: int = SIZED
) -> dict[str, str]:
    """Keys of images to learn from, each with that of an image for validation of the same bytes.

    Nothing is decoded, and only files are read that have the size of one of the others. Of large
    data a sample is compared, spread evenly over either part.
    """
    wanted, there = spread(len(judged), asked), spread(len(learned), sized)
    sizes = np.array([judged.size(index) for index in wanted])
    candidates = np.array([learned.size(index) for index in there])
    alike = np.flatnonzero(np.isin(candidates, sizes[sizes >= 0]))
    alike = alike[spread(len(alike), READ)]
    asked_for = np.flatnonzero(np.isin(sizes, candidates[alike]))
    known = {_content(judged, wanted[place]): judged.key(wanted[place]) for place in asked_for}
    known.pop(None, None)
    found = {learned.key(there[place]): _content(learned, there[place]) for place in alike}
    return {key: known[content] for key, content in found.items() if content in known}


def _content(source: ImageSource, index: int) -> int | None:
    """The hash of the encoded image, or None if it cannot be read."""
    try:
        return short_hash(source.read(index).data)
    except UnreadableError:
        return None
