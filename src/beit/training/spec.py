"""What a run is made of besides its objective, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from torch import nn

from beit.batch import Batch, SkipLog
from beit.config.training import TrainingConfig
from beit.training.dataset_manifest import DatasetManifest
from beit.training.distributed import Processes
from beit.training.run_folder import RunFolder


class Batches(Protocol):
    """A loader: the micro-batches of this process, for the steps from first up to last."""

    @property
    def restarts(self) -> int:
        """How often processes that read images were lost and replaced."""

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]: ...


class Evaluation(NamedTuple):
    """How a run is evaluated: metrics of a model, and the one whose largest value is best."""

    measure: Callable[[nn.Module], Mapping[str, float]]
    best: str = ""
    skips: SkipLog | None = None
    """Images that could not be read, or only in part, while measuring."""
    remark: Callable[[], str] = str
    """What there is to report on the last measurement once training has ended; may be empty."""


class FitResult(NamedTuple):
    """The end of a run."""

    metrics: dict[str, float]
    best_step: int


class FitSpec(NamedTuple):
    """Everything one run needs besides its objective."""

    config: TrainingConfig
    folder: RunFolder
    processes: Processes
    loader: Batches
    images: int
    """How many images the run learns from."""
    bad_limit: float
    """Fraction of them that may be unreadable."""
    evaluation: Evaluation | None
    publish: Callable[[nn.Module, bool, Mapping[str, float]], None]
    """Writes the artifact of a model, given whether it is the best so far, and its metrics."""
    quiet: bool = False
    notes: tuple[str, ...] = ()
    """What the log begins with."""
    manifest: DatasetManifest | None = None
    """Which images these are; compared when the run is resumed."""
    accept_changed_data: bool = False
    parts: Mapping[str, str] = MappingProxyType({})
    """Hashes of what is frozen, such as the tokenizer; compared when the run is resumed."""
