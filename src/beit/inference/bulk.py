"""A finished model over any number of images: what is done once, by one process or by many."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from beit.claim import NO_ROOM, Claim, check_name
from beit.config.bulk import EmbedConfig, Part, PredictConfig
from beit.errors import DataError, ResourceError
from beit.hardware import multiplies_bfloat16
from beit.inference.images import Places, open_images
from beit.inference.outputs import Features, LabelMaps, Output, open_output
from beit.inference.parts import Parts, open_parts
from beit.inference.predictor import Predictor
from beit.inference.stream import Rows, choose_batch, stream
from beit.process import end_with_parent
from beit.terminal import counted, duration
from beit.weights.load import open_artifact
from beit.weights.store import Artifact

logger = logging.getLogger(__name__)

MOST_SECONDS = 60.0
"""Between two lines of progress; the first ones come sooner."""


@dataclass(frozen=True)
class Job:
    """One model, some images, and what is wanted of them. It can be sent to other processes."""

    artifact: Artifact
    images: Places
    config: EmbedConfig | PredictConfig

    @cached_property
    def output(self) -> Output:
        """What computes, on the device of the config."""
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
        """The rows of the images at these positions; no batch goes beyond a span."""
        return stream(self.output, self.images, spans, self.config, self.batch)

    def plan(self) -> dict[str, Any]:
        """What makes rows different, for a folder of them: `open_parts`."""
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
        """Write some of the parts; gives the rows on the way."""
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
    """The model and the images. Raises ConfigError, DataError or CheckpointError."""
    return Job(open_artifact(artifact), open_images(images, config), config)


class Written(NamedTuple):
    """A summary in lines, and the names of some images that could not be read."""

    lines: list[str]
    unreadable: list[str]


def write_folder(job: Job) -> Written:
    """Write the rows of all images, or of this process's part of them, that are not there yet.

    Raises:
        RunFolderError: The folder holds rows of something else, or a process writes this part.
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
    """The folder that the config names, checked and claimed for what one process writes."""
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
        if error.errno not in NO_ROOM and not about.startswith(str(folder)):
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
    """What is there, of which some was `written` now; raises DataError if no image of a finished
    folder could be read."""
    tally, missing = parts.tally(written), parts.missing()
    examples = tally.examples
    if not missing and len(written) < parts.count:
        tally = parts.tally(range(parts.count))
    what = ", ".join(name for name in parts.columns if name != "class_ids")
    answered = counted(tally.images, "image") + (
        f", {tally.unreadable:,} unreadable" if tally.unreadable else ""
    )
    if missing:
        other = f"{len(missing):,} of {parts.count:,} files are still missing"
        first = f"{parts.folder}: part {part} is done: {answered}; {other}"
        return Written([first, *tally.lines()], examples)
    parts.remove_unfinished()
    if tally.unreadable == tally.images:
        raise DataError(
            f"no image could be read: {tally.reasons.most_common(1)[0][0]}",
            remedy=f"the reasons stand in {parts.folder}",
        )
    first = f"{parts.folder}: {what} of {answered}, in {counted(parts.count, 'file')}"
    return Written([first, *tally.lines()], examples)


class Progress:
    """Logs how far it is, how fast, and how long it still takes."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began = time.monotonic()
        self._wait = 2.0
        self._next = self._began + self._wait

    def add(self, images: int, unreadable: int) -> None:
        """Count images; once in a while, a line."""
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
