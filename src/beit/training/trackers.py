"""Trackers, with which others follow a run: TensorBoard, Weights & Biases, MLflow, Trackio.

A tracker gets the config of a run, its metrics by step and, in the end, the path of its artifact.
Its name for the run is kept in the run's folder, so that a resumed run is the same run there. Where
it writes to is its own matter: its environment variables and logins work as ever.
"""

from __future__ import annotations

import abc
import importlib.util
import json
import math
import os
import queue
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from beit.atomic_io import make_folder, replace_file
from beit.config.training import TrackerName
from beit.errors import ResourceError
from beit.json_object import parse_json
from beit.training.run_folder import RunFolder

PROJECT = "beit"
MOST_PARAMETERS = 100
"""Most parameters that MLflow takes in one call."""
MOST_LETTERS = 500
"""Longest value of a parameter that MLflow takes, wherever it stores them."""
PATIENCE = 30.0
"""Seconds that the end of a run waits for a tracker to process the rest."""


class Tracker(abc.ABC):
    """One way to follow a run. It processes what is recorded in a thread of its own, in order: a
    slow or broken tracker neither ends nor delays the run."""

    library: str
    """The package it needs."""
    no_telemetry: tuple[str, str] | None = None
    """The variable, and its value, that turn the library's own telemetry off; set unless the user
    has set it."""
    overwrites_steps = False
    """Whether steps that are repeated replace what it had of them; otherwise they are skipped."""

    def __init__(self, name: TrackerName, folder: RunFolder, *, first_step: int) -> None:
        self.name, self.first_step = name, first_step
        self.path = folder.path.resolve()
        self._folder = folder
        self._rows: queue.SimpleQueue[tuple[int, Mapping[str, float]] | None] = queue.SimpleQueue()
        self._artifact: Path | None = None
        self._problem = ""
        self._thread = threading.Thread(target=self._follow, name=f"tracker {name}", daemon=True)
        self._thread.start()

    @abc.abstractmethod
    def begin(self, config: Mapping[str, object], identity: str) -> str:
        """Start following a run with these options, under the name it had there before, if any.

        Returns its name there, or an empty string if none is needed to continue.
        """

    @abc.abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step, finite ones, by their names."""

    @abc.abstractmethod
    def end(self, artifact: Path | None) -> None:
        """Finish with the artifact of the run, or None if it was stopped or failed."""

    def record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Have the metrics of a step written; numbers that are not finite are dropped.

        Args:
            step: Updates done.
            kind: train or evaluate; put before the names.
            values: Metrics by name.
        """
        named = {f"{kind}/{key}": value for key, value in values.items() if math.isfinite(value)}
        if self._thread.is_alive():
            self._rows.put((step, named))

    def problem(self) -> str:
        """Why it no longer follows the run; returned once, empty otherwise."""
        problem, self._problem = self._problem, ""
        return problem

    def finish(self, artifact: Path | None) -> None:
        """Have it process the rest and the artifact; it is given up after `PATIENCE` seconds."""
        self._artifact = artifact
        self._rows.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._problem = f"it did not take up everything within {PATIENCE:g} seconds"

    def _follow(self) -> None:
        try:
            self._begin()
            while (row := self._rows.get()) is not None:
                self.write(*row)
            self.end(self._artifact)
        except (Exception, SystemExit) as error:
            self._problem = " ".join(f"{type(error).__name__}: {error}".split())

    def _begin(self) -> None:
        folder, config = self._folder.trackers, self._folder.config
        file = folder / f"{self.name}.json"
        if self.no_telemetry is not None:
            os.environ.setdefault(*self.no_telemetry)
        if self.name != "tensorboard":
            make_folder(folder)
        known = parse_json(file.read_bytes())["run"] if file.exists() else ""
        options = flat(parse_json(config.read_bytes())) if config.exists() else {}
        identity = self.begin(options, known)
        if identity and identity != known:
            replace_file(file, [json.dumps({"run": identity}).encode()])


class TensorBoard(Tracker):
    """Events in `tensorboard/` of the run."""

    library = "tensorboard"
    overwrites_steps = True

    def begin(self, config: Mapping[str, object], identity: str) -> str:
        again = self.first_step + 1  # the first of the steps whose events are to be forgotten
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=again)
        if config and not self.first_step:
            lines = (f"    {name}: {value}" for name, value in config.items())
            self._board.add_text("config", "\n".join(lines))
        return ""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def end(self, artifact: Path | None) -> None:
        if artifact is not None:
            self._board.add_text("artifact", str(artifact))
        self._board.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases; its files lie in `trackers/` of ours."""

    library = "wandb"
    no_telemetry = ("WANDB_ERROR_REPORTING", "false")

    def begin(self, config: Mapping[str, object], identity: str) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", self.path.name),
            id=identity or secrets.token_hex(4),
            resume="allow",
            dir=str(self.path / "trackers"),
            config=None if identity else dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        return str(self._run.id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, artifact: Path | None) -> None:
        if artifact is not None:
            self._run.summary["artifact"] = str(artifact)
        self._run.finish(exit_code=int(artifact is None))


class MLflow(Tracker):
    """A run of MLflow, in the store of MLFLOW_TRACKING_URI."""

    library = "mlflow"
    no_telemetry = ("MLFLOW_DISABLE_TELEMETRY", "true")

    def begin(self, config: Mapping[str, object], identity: str) -> str:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if identity:
            self._identity = identity
            self._client.update_run(identity, status="RUNNING")
            return identity
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run = self._client.create_run(place, run_name=self.path.name)
        self._identity = str(run.info.run_id)
        parameters = [Param(key, str(value)[:MOST_LETTERS]) for key, value in config.items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            some = parameters[start : start + MOST_PARAMETERS]
            self._client.log_batch(self._identity, params=some)
        return self._identity

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._identity, metrics=metrics)

    def end(self, artifact: Path | None) -> None:
        if artifact is not None:
            self._client.set_tag(self._identity, "artifact", str(artifact))
        self._client.set_terminated(self._identity, "KILLED" if artifact is None else "FINISHED")


class Trackio(Tracker):
    """A run of Trackio, on this machine or where TRACKIO_SPACE_ID says."""

    library = "trackio"
    no_telemetry = ("HF_HUB_DISABLE_TELEMETRY", "1")

    def begin(self, config: Mapping[str, object], identity: str) -> str:
        import trackio

        identity = identity or f"{self.path.name}-{secrets.token_hex(4)}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=identity,
            resume="allow",
            config=dict(config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return identity

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._last = step
        self._run.log(dict(values), step=step)

    def end(self, artifact: Path | None) -> None:
        if artifact is not None:
            self._run.log({"artifact": str(artifact)}, step=self._last)
        self._run.finish()


TRACKERS: dict[TrackerName, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def check_trackers(names: Iterable[TrackerName]) -> None:
    """Raise ResourceError for a tracker whose library is not installed."""
    for name in names:
        if name != "none" and importlib.util.find_spec(TRACKERS[name].library) is None:
            raise ResourceError(
                f"the library of the tracker {name} is not installed",
                remedy=f'pip install "beit[{name}]", or leave {name} out of --tracker',
            )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """The options of a config that was read from JSON, by their names with dots."""
    found: dict[str, object] = {}
    for name, value in config.items():
        path = prefix + name
        found |= flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found
