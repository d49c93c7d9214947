"""Check, before several processes train together, that all would train the same thing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple

import torch

from beit.config import RunConfig
from beit.config.tree import differences
from beit.errors import ConfigError
from beit.models.heads import weights_digest
from beit.objectives.base import AnyObjective
from beit.training.distributed import Processes, lost_process
from beit.training.run_folder import PLACES

REMEDIES = {
    "options": "start the same command in every process",
    "images": "let every machine see the same --data, or copies of it",
    "weights": "let every machine see the same --tokenizer, --teacher and --init files",
    "versions": "install the same versions on every machine",
    "resume": "let every machine see the same --out",
}


class Start(NamedTuple):
    """What one process is about to do."""

    host: str
    config: RunConfig
    resume: bool
    images: str
    """Fingerprint of the list of images."""
    weights: str
    """Digest of all weights, those of a tokenizer or teacher among them."""
    versions: dict[str, str]


def check_agreement(
    processes: Processes, config: RunConfig, objective: AnyObjective, images: str, *, resume: bool
) -> None:
    """Check that every process is about to train the same thing. Nothing is written before this.

    Args:
        processes: The processes that will train together; one alone agrees with itself.
        config: What this process would train.
        objective: Its model with initial weights, and the tokenizer or teacher it uses.
        images: Fingerprint of this process's list of images.
        resume: Whether this process resumes a run.

    Raises:
        ConfigError: One process would train something other than process 0. Every process raises
            this.
        ResourceError: One process has ended.
    """
    import beit

    if processes.world == 1:
        return
    versions = {"beit": beit.__version__, "torch": torch.__version__}
    digest = weights_digest(objective)
    start = Start(socket.gethostname(), config, resume, images, digest, versions)
    try:
        first, *others = processes.gather(start)
    except RuntimeError as error:
        timeout = config.training.process_timeout
        lost = lost_process(error, timeout, "before the first step")
        if lost is None:
            raise
        raise lost from error
    for rank, other in enumerate(others, start=1):
        found = dict(_differences(first, other))
        if found:
            listed = "; ".join(f"{kind}: {text}" for kind, text in found.items())
            raise ConfigError(
                f"process {rank} on {other.host} would train something else than process 0 on "
                f"{first.host}: {listed}",
                remedy="; ".join(REMEDIES[kind] for kind in found),
            )


def _differences(first: Start, other: Start) -> Iterator[tuple[str, str]]:
    """Each kind of difference, a key of `REMEDIES`, with a description of what differs."""
    options = {
        name: values
        for name, values in differences(first.config, other.config).items()
        if name not in PLACES  # a copy on another machine may lie elsewhere
    }
    if options:
        yield (
            "options",
            ", ".join(f"{name} is {there}, not {here}" for name, (here, there) in options.items()),
        )
    if first.resume != other.resume:
        yield "resume", f"one resumes a run, and one starts a new one in {first.config.out}"
    if first.images != other.images:
        yield "images", "their names, sizes, labels or contents are others"
    if first.weights != other.weights and not options:
        yield "weights", "those of the model, tokenizer or teacher are others before the first step"
    versions = ", ".join(
        f"{name} is {other.versions[name]}, not {known}"
        for name, known in first.versions.items()
        if other.versions[name] != known
    )
    if versions:
        yield "versions", versions
