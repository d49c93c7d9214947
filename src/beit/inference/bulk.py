"""Run a finished model on any number of images, in one process or many; nothing is done twice.

Images are read ahead by the loader's workers and answered in their order, in constant memory.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from beit.claim import NO_ROOM, Claim, check_name
from beit.config.bulk import EmbedConfig, Part, PredictConfig
from beit.data.loader import read_in_order
from beit.errors import EXHAUSTED, DataError, ResourceError
from beit.hardware import is_out_of_memory, multiplies_bfloat16
from beit.inference.images import Places, open_images
from beit.inference.outputs import Cells, Features, LabelMaps, Output, Rows, open_output
from beit.inference.parts import Parts, open_parts
from beit.inference.predictor import Predictor
from beit.process import end_with_parent
from beit.terminal import counted, duration
from beit.weights.load import open_artifact
from beit.weights.store import Artifact

logger = logging.getLogger(__name__)

MOST_ON_CPU = 32
MOST_ON_GPU = 512
USUAL_PIXELS = 224 * 224
TRIED = 8
"""Size of the batch with which the memory per image is measured."""
FREE_FRACTION = 0.7
"""Fraction of a GPU's free memory that a batch may take."""
NOT_FINITE = "the model gave numbers that are not finite"
MOST_SECONDS = 60.0
"""Longest time between two lines of progress; the first ones come sooner."""


@dataclass(frozen=True)
class Job:
    """A model, images, and what to compute from them. It can be sent to other processes."""

    artifact: Artifact
    images: Places
    config: EmbedConfig | PredictConfig

    @cached_property
    def output(self) -> Output:
        """Computes the answers, on the device of the config."""
        flip = isinstance(self.config, PredictConfig) and self.config.flip
        predictor = Predictor(self.artifact, self.config.device, flip=flip)
        return open_output(predictor, self.config)

    @cached_property
    def batch(self) -> int:
        """Images at a time."""
        if self.output.one_by_one:
            return 1
        return self.config.batch or choose_batch(self.output)

    def rows(self, spans: Sequence[range]) -> Iterator[Rows]:
        """The rows of the images at the positions of all spans, in order; no batch goes beyond the
        end of a span."""
        output, images, size = self.output, self.images, self.batch

        def batches() -> Iterator[range]:
            for span in spans:
                yield from (span[at : at + size] for at in range(0, len(span), size))

        predictor = output.predictor
        answers = Answers(output, size if self.config.compile and not output.one_by_one else 0)
        read = read_in_order(
            images,
            output.view,
            batches,
            batches=sum(math.ceil(len(span) / size) for span in spans),
            channels=predictor.channels,
            config=self.config.loader(predictor.value_range),
            pin_memory=predictor.device.type == "cuda",
        )
        for places, found in zip(batches(), read, strict=True):
            keys = [images.key(position) for position in places]
            names = [images.name_below(position) for position in places]
            lost = deque(found if isinstance(found, list) else found.unreadable)  # in that order
            errors = [
                (lost.popleft().reason or "unreadable") if lost and lost[0].key == key else ""
                for key in keys
            ]
            taken = None if isinstance(found, list) else found.images
            yield Rows(places[0], keys, errors, answers.cells(taken, names, errors))

    def plan(self) -> dict[str, Any]:
        """Everything that the rows depend on, for `open_parts`."""
        config, device = self.config, self.output.predictor.device
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if multiplies_bfloat16(device) else "fp32"
        kind = "jsonl" if isinstance(self.output, LabelMaps) else "parquet"
        plan: dict[str, Any] = {
            "model": self.artifact.version(),
            "kind": self.artifact.kind,
            "data": self.images.fingerprint(),
            "images": len(self.images),
            "columns": list(self.output.columns),
            "precision": precision,
            "format": config.format or kind,
            "part_rows": config.part_rows,
        }
        if isinstance(self.output, Features):
            plan |= {"block": self.output.block, "numbers": self.output.numbers}
        if isinstance(config, PredictConfig):
            several = self.artifact.details.multi_label
            plan |= {"top": config.top, "flip": config.flip, "multi_label": several}
        return plan

    def write(self, parts: Parts, numbers: Sequence[int], part: Part) -> Iterator[Rows]:
        """Write some of the parts, and yield their rows on the way.

        Args:
            parts: The parts of a folder.
            numbers: Which of them to write.
            part: The process that writes, for the names of its unfinished files.
        """
        rows = self.rows([parts.positions(number) for number in numbers])
        for number in numbers:
            span = parts.positions(number)
            with parts.writing(number, part) as file:
                for found in rows:
                    file.write(found)
                    yield found
                    if found.first + len(found.keys) == span.stop:
                        break


def open_job(artifact: str, images: Sequence[str], config: EmbedConfig | PredictConfig) -> Job:
    """Open a model, and find the images.

    Args:
        artifact: A run, an artifact, or any released model.
        images: Files, folders or lists; empty if `config.data` is given.
        config: What to compute, and how.

    Raises:
        ConfigError: Images were given in both ways or in neither.
        DataError: There are no images.
        CheckpointError: The model does not load.
    """
    return Job(open_artifact(artifact), open_images(images, config), config)


class Written(NamedTuple):
    """Lines of a summary, and the names of some images that could not be read."""

    lines: list[str]
    unreadable: list[str]


def write_folder(job: Job) -> Written:
    """Write the rows of all images, or of this process's part of them, that are not there yet.

    Raises:
        RunFolderError: The folder holds other rows, or another process writes this part.
        ResourceError: A library is not installed, or there is no room.
    """
    part = job.config.own_part()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM)
    with claimed_parts(job, part) as parts:
        numbers = parts.missing(part)
        progress = Progress(sum(len(parts.positions(number)) for number in numbers))
        unreadable = 0
        for rows in job.write(parts, numbers, part):
            unreadable += rows.unreadable
            progress.add(len(rows.keys), unreadable)
    return summary(parts, numbers, part)


@contextmanager
def claimed_parts(job: Job, part: Part) -> Iterator[Parts]:
    """The folder that the config names, checked, and claimed for the part that a process writes."""
    folder = Path(job.config.out)
    check_name(folder)
    claim = Claim(folder / f".lock-{part}", folder)
    try:
        job.output.check(job.images)
        parts = open_parts(folder, job.plan(), job.output.columns)
        parts.remove_unfinished(part)
        there = parts.count - len(parts.missing())
        if there:
            logger.info("%s: %d of %d files are there already", folder, there, parts.count)
        yield parts
    except OSError as error:
        about = os.fsdecode(error.filename or "")
        here = error.errno in NO_ROOM or about.startswith(str(folder))
        if error.errno in EXHAUSTED or not here:
            raise
        raise ResourceError(
            f"{folder} cannot be written to: {error.strerror or error}",
            remedy="make room or permit writing, and run it again to continue with what is missing",
        ) from error
    except KeyboardInterrupt:
        logger.info("%s: the same command continues after the files that are there", folder)
        raise
    finally:
        claim.release()


def summary(parts: Parts, written: Sequence[int], part: Part) -> Written:
    """Summarise what a folder holds.

    Args:
        parts: The parts of the folder.
        written: Numbers of the parts that were written now.
        part: The process that wrote them.

    Raises:
        DataError: The folder is finished, and none of its images could be read.
    """
    tally, missing = parts.tally(written), parts.missing()
    if not missing and len(written) < parts.count:
        tally = parts.tally(range(parts.count))
    what = ", ".join(name for name in parts.columns if name != "class_ids")
    answered = counted(tally.images, "image") + (
        f", {tally.unreadable:,} unreadable" if tally.unreadable else ""
    )
    if missing:
        other = f"{len(missing):,} of {parts.count:,} files are still missing"
        first = f"{parts.folder}: part {part} is done: {answered}; {other}"
        return Written([first, *tally.lines()], tally.examples)
    parts.remove_unfinished()
    if tally.unreadable == tally.images:
        raise DataError(
            f"no image could be read: {tally.reasons.most_common(1)[0][0]}",
            remedy=f"the reasons stand in {parts.folder}",
        )
    first = f"{parts.folder}: {what} of {answered}, in {counted(parts.count, 'file')}"
    return Written([first, *tally.lines()], tally.examples)


class Progress:
    """Logs how many images are done, how fast, and how long the rest will take."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began = time.monotonic()
        self._wait = 2.0
        self._next = self._began + self._wait

    def add(self, images: int, unreadable: int) -> None:
        """Count images done, and log a line once in a while; `unreadable` is of all so far."""
        self._done += images
        now = time.monotonic()
        if now < self._next or self._done >= self._total:
            return
        self._wait = min(2 * self._wait, MOST_SECONDS)
        self._next = now + self._wait
        rate = self._done / (now - self._began)
        logger.info(
            "%s of %s images, %s per second, %s left, %s unreadable",
            f"{self._done:,}", f"{self._total:,}", f"{rate:.3g}",
            duration((self._total - self._done) / rate), f"{unreadable:,}",
        )  # fmt: skip


# -- the answers ----------------------------------------------------------------------


def choose_batch(output: Output) -> int:
    """Images per batch: on a GPU as many as its memory has room for; on a CPU, where more would
    gain nothing, 32 of the usual size."""
    height, width = output.predictor.size
    device = output.predictor.device
    if device.type != "cuda":
        return max(MOST_ON_CPU * USUAL_PIXELS // max(height * width, USUAL_PIXELS), 1)
    shape = (TRIED, output.predictor.channels, height, width)
    images = torch.zeros(shape, dtype=torch.uint8, device=device)
    output.compute(images)  # some memory is allocated only once
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    output.compute(images)
    each = max(torch.cuda.max_memory_allocated(device) - before, 1) / TRIED
    room = FREE_FRACTION * torch.cuda.mem_get_info(device)[0] / each
    return min(max(int(room) // 8 * 8, 1), MOST_ON_GPU)


class Answers:
    """A model's answers for batches, which are halved when memory runs out."""

    def __init__(self, output: Output, filled_to: int = 0) -> None:
        """`filled_to`: smaller batches are filled up to this size, for a compiled model."""
        self._output, self._filled_to = output, filled_to
        self._most = 0

    def cells(
        self, images: Tensor | None, names: Sequence[str], errors: list[str]
    ) -> dict[str, Cells]:
        """The cells of each column for all names.

        Args:
            images: The images without an error, in order; None if there are none.
            names: Names of all images.
            errors: Why each image has no answer, or ""; what the model cannot answer is added.
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
    """The cells at their images' places, with fillers for images without an answer."""
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
