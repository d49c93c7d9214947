"""A model in the pipelines of Ray Data, on any number of machines: the extra `ray`.

    dataset.map_batches(beit.ray.Embedder, fn_constructor_kwargs={"model": "runs/pretrain"})

Also the engine of `beit embed --engine ray`, whose actors write the parts of one folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beit.config.bulk import EmbedConfig, PredictConfig
from beit.errors import ConfigError, DataError, ResourceError, UnreadableError, optional_library
from beit.inference.bulk import Answers, Job, Progress, Written, claimed_parts, summary
from beit.inference.outputs import open_output
from beit.inference.parts import ALL, Parts
from beit.inference.predictor import Predictor as _Predictor
from beit.weights.load import open_artifact
from beit.weights.store import Artifact

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: no telemetry
with optional_library("this needs Ray", "ray"):
    import ray
    import ray.data

IMAGE_COLUMNS = ("image", "bytes", "path")
"""What Ray's readers call columns of pixels [H,W,C], of encoded files, and of their paths."""
MOST_WORKERS = 16


def share(model: str | Path) -> ray.ObjectRef:
    """Put a model into the object store: it is loaded once for all actors, and only this machine
    needs its file."""
    return ray.put(open_artifact(model))


class _Actor:
    """What the actors of a pipeline do: images in, columns out."""

    def __init__(
        self, model: str | Path | ray.ObjectRef, config: EmbedConfig | PredictConfig, column: str
    ) -> None:
        artifact = ray.get(model) if isinstance(model, ray.ObjectRef) else open_artifact(model)
        assert isinstance(artifact, Artifact)
        self._output = open_output(_Predictor(artifact, config.device), config)
        self._answers = Answers(self._output)
        self._column = column

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The columns of the batch without the images, those of the answers, and `error`, which is
        empty where there is an answer."""
        column = self._column or next((name for name in IMAGE_COLUMNS if name in batch), "")
        if column not in batch:
            raise ConfigError(
                f"the batch has the columns {', '.join(batch)}",
                remedy=f"name that of the images with column=; known: {', '.join(IMAGE_COLUMNS)}",
            )
        views: list[torch.Tensor] = []
        errors: list[str] = []
        for cell in batch[column]:
            try:
                views.append(self._output.predictor.prepare(cell))
                errors.append("")
            except (UnreadableError, DataError) as error:
                errors.append(getattr(error, "reason", "") or str(error))
        images = torch.stack(views) if views else None
        cells = self._answers.cells(images, [""] * len(errors), errors)
        others = {name: values for name, values in batch.items() if name not in IMAGE_COLUMNS[:2]}
        found: dict[str, Any] = {name: values for name, values in others.items() if name != column}
        for name, kind in self._output.columns.items():
            found[name] = cells.get(name)
            if found[name] is None:  # none of the batch was answered
                shape = (len(errors), kind.length) if kind.length else len(errors)
                found[name] = np.zeros(shape, kind.type if kind.length else object)
            elif not isinstance(found[name], np.ndarray):
                found[name] = _objects(found[name])
        if column == "path":
            found[column] = batch[column]
        return {**found, "error": np.array(errors, dtype=object)}


def _objects(cells: list[Any]) -> np.ndarray:
    """Lists of any length as one column."""
    column = np.empty(len(cells), dtype=object)
    column[:] = [np.array(cell if cell is not None else []) for cell in cells]
    return column


class Embedder(_Actor):
    """Adds `features` of a backbone, or `tokens` of a tokenizer.

    Args:
        model: As for `beit.load`, or the result of `share`.
        block: Block whose output is taken, 0 is the first; the last one by default.
        precision: fp32, bf16, int8, or auto.
        compile: Compile the model.
        device: cpu, cuda, or auto.
        column: Name of the column of images: pixels, encoded files or paths; by default, Ray's own
            names are tried.
    """

    def __init__(
        self,
        model: str | Path | ray.ObjectRef,
        *,
        block: int | None = None,
        precision: Any = "fp32",
        compile: bool = False,  # noqa: A002
        device: str = "auto",
        column: str = "",
    ) -> None:
        config = EmbedConfig(block=block, precision=precision, compile=compile, device=device)
        super().__init__(model, config, column)


class Predictor(_Actor):
    """Adds `class_ids`, `classes` and `probabilities`, the most probable first.

    Args:
        model: As for `beit.load`, or the result of `share`.
        top: Classes per image, as for `beit predict`.
        precision: fp32, bf16, int8, or auto.
        compile: Compile the model.
        device: cpu, cuda, or auto.
        column: Name of the column of images: pixels, encoded files or paths; by default, Ray's own
            names are tried.
    """

    def __init__(
        self,
        model: str | Path | ray.ObjectRef,
        *,
        top: int | None = None,
        precision: Any = "fp32",
        compile: bool = False,  # noqa: A002
        device: str = "auto",
        column: str = "",
    ) -> None:
        config = PredictConfig(top=top, precision=precision, compile=compile, device=device)
        super().__init__(model, config, column)


class _PartWriter:
    """An actor that writes parts of a folder; a part that was interrupted is written again."""

    def __init__(self, job: ray.ObjectRef, parts: Parts, folder: str) -> None:
        os.chdir(folder)  # which paths are relative to
        self._job: Job = ray.get(job)
        self._parts = parts

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        unreadable = [self._write(int(number)) for number in batch["number"]]
        return {"number": batch["number"], "unreadable": np.array(unreadable)}

    def _write(self, number: int) -> int:
        """Write a part; return how many of its images cannot be read."""
        rows = self._job.write(self._parts, [number], ALL)
        return sum(some.unreadable for some in rows)


def write_folder(job: Job) -> Written:
    """`beit.inference.bulk.write_folder` by the actors of a Ray cluster, one per GPU or core.

    All machines must see the folder and, unless they are stored elsewhere, the images. An actor or
    a machine that is lost is replaced by others.

    Raises:
        ResourceError: Ray does not answer.
    """
    began = not ray.is_initialized()
    if began:
        address = job.config.ray_address or None
        local = {} if address else {"include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
        except Exception as error:  # Ray has no type for it
            raise ResourceError(
                f"Ray at {address or 'this machine'} does not answer: {error}",
                remedy="check the address; a machine that is busy may need a second try",
            ) from error
    try:
        with claimed_parts(job, ALL) as parts:
            numbers = parts.missing()
            progress = Progress(sum(len(parts.positions(number)) for number in numbers))
            unreadable = 0
            for number, more in _written(job, parts, numbers):
                unreadable += more
                progress.add(len(parts.positions(number)), unreadable)
    finally:
        if began:
            ray.shutdown()
    return summary(parts, numbers, ALL)


def _written(job: Job, parts: Parts, numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Each part as soon as it is written, and how many of its images cannot be read."""
    if not numbers:
        return
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    workers = min(max(cpus // gpus - 1, 0), MOST_WORKERS) if gpus else 0
    config = replace(
        job.config,
        precision=parts.plan["precision"],  # on every machine as here
        workers=workers if job.config.workers is None else job.config.workers,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    items = ray.data.from_items([{"number": number} for number in numbers],
                                override_num_blocks=len(numbers))  # fmt: skip
    done = items.map_batches(
        _PartWriter,
        fn_constructor_kwargs={
            "job": ray.put(replace(job, config=config)),
            "parts": parts,
            "folder": str(Path.cwd()),
        },
        batch_size=1,
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(gpus or cpus, 1)),
    )
    for row in done.iter_rows():
        yield int(row["number"]), int(row["unreadable"])
