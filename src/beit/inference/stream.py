"""Many images through a model: read ahead by the loader's workers, in order, in constant memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from beit.config.bulk import BulkConfig
from beit.data.loader import read_in_order
from beit.errors import ResourceError
from beit.hardware import is_out_of_memory
from beit.inference.images import Places
from beit.inference.outputs import Cells, Output

MOST_ON_CPU = 32
MOST_ON_GPU = 512
USUAL_PIXELS = 224 * 224
TRIED = 8
"""Images with which the memory of one is measured."""
FREE_FRACTION = 0.7
"""Of the free memory of a GPU that a batch may take."""
NOT_FINITE = "the model gave numbers that are not finite"


class Rows(NamedTuple):
    """Images in their order: what each is called, why it has no answer, and the answer."""

    first: int
    """Position of the first image."""
    keys: list[str]
    errors: list[str]
    """Empty for an image that was answered."""
    cells: dict[str, Cells]
    """By column; of an image without an answer they mean nothing."""

    @property
    def unreadable(self) -> int:
        """How many have no answer."""
        return sum(map(bool, self.errors))


def choose_batch(output: Output) -> int:
    """Images at a time: on a GPU as many as its memory has room for; on a CPU, where more would
    bring nothing, 32 of the usual size."""
    height, width = output.predictor.size
    device = output.predictor.device
    if device.type != "cuda":
        return max(MOST_ON_CPU * USUAL_PIXELS // max(height * width, USUAL_PIXELS), 1)
    shape = (TRIED, output.predictor.channels, height, width)
    images = torch.zeros(shape, dtype=torch.uint8, device=device)
    output.compute(images)  # what is allocated once
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    output.compute(images)
    each = max(torch.cuda.max_memory_allocated(device) - before, 1) / TRIED
    room = FREE_FRACTION * torch.cuda.mem_get_info(device)[0] / each
    return min(max(int(room) // 8 * 8, 1), MOST_ON_GPU)


def stream(
    output: Output, images: Places, spans: Sequence[range], config: BulkConfig, batch: int
) -> Iterator[Rows]:
    """The rows of the images at these positions, in order.

    Args:
        output: What is computed.
        images: Of which.
        spans: Positions that follow each other; no batch goes beyond one of them.
        config: How many processes read.
        batch: Images at a time.
    """

    def plan() -> Iterator[range]:
        for span in spans:
            yield from (span[at : at + batch] for at in range(0, len(span), batch))

    predictor = output.predictor
    answers = Answers(output, batch if config.compile and not output.one_by_one else 0)
    read = read_in_order(
        images,
        output.view,
        plan,
        batches=sum(math.ceil(len(span) / batch) for span in spans),
        channels=predictor.channels,
        config=config.loader(predictor.value_range),
        pin_memory=predictor.device.type == "cuda",
    )
    for places, found in zip(plan(), read, strict=True):
        keys = [images.key(position) for position in places]
        names = [images.name_below(position) for position in places]
        lost = deque(found if isinstance(found, list) else found.unreadable)  # in the same order
        errors = [
            (lost.popleft().reason or "unreadable") if lost and lost[0].key == key else ""
            for key in keys
        ]
        taken = None if isinstance(found, list) else found.images
        yield Rows(places[0], keys, errors, answers.cells(taken, names, errors))


class Answers:
    """A model's answers for batches, which are halved where memory runs out."""

    def __init__(self, output: Output, filled_to: int = 0) -> None:
        """`filled_to`: the number of images that the model is always given."""
        self._output, self._filled_to = output, filled_to
        self._most = 0

    def cells(
        self, images: Tensor | None, names: Sequence[str], errors: list[str]
    ) -> dict[str, Cells]:
        """The cells of each column for all names.

        Args:
            images: Those without an error, in order; None if there are none.
            names: Of all images.
            errors: Of all images; what the model cannot answer is added.
        """
        if images is None:
            return {}
        at = [place for place, error in enumerate(errors) if not error]
        rows = self._of(images)
        finite = torch.isfinite(rows).reshape(len(rows), -1).all(dim=1)
        for place, good in zip(at, finite.tolist(), strict=True):
            errors[place] = "" if good else NOT_FINITE
        cells = self._output.cells(rows, images, [names[place] for place in at])
        return {name: _spread(column, at, len(names)) for name, column in cells.items()}

    def _of(self, images: Tensor) -> Tensor:
        size = self._most or len(images)
        try:
            return torch.cat([self._compute(part) for part in images.split(size)])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise ResourceError(
                    "memory ran out with a single image", remedy="use a machine with more memory"
                ) from error
        self._most = (size + 1) // 2
        self._filled_to = min(self._filled_to, self._most)
        torch.cuda.empty_cache()
        return self._of(images)

    def _compute(self, images: Tensor) -> Tensor:
        given = images.to(self._output.predictor.device, non_blocking=True)
        missing = self._filled_to - len(images)
        if missing > 0:  # a compiled model is compiled anew for another number of images
            given = torch.cat([given, given[:1].expand(missing, *given.shape[1:])])
        return self._output.compute(given)[: len(images)].cpu()


def _spread(cells: Cells, at: Sequence[int], length: int) -> Cells:
    """The cells at their places among those of images without an answer."""
    if len(at) == length:
        return cells
    if isinstance(cells, np.ndarray):
        filled = np.zeros((length, *cells.shape[1:]), cells.dtype)
        filled[list(at)] = cells
        return filled
    found: list[object] = [None] * length
    for place, cell in zip(at, cells, strict=True):
        found[place] = cell
    return found
