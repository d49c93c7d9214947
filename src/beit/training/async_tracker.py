"""A tracker in a thread of its own: a slow or broken one neither ends nor holds up the run."""

from __future__ import annotations

import json
import math
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path

from beit.atomic_io import make_folder, replace_file
from beit.config.training import TrackerName
from beit.json_object import parse_json
from beit.training.run_folder import RunFolder
from beit.training.trackers import TRACKERS, Followed, flat

PATIENCE = 30.0
"""Seconds that the end of a run waits for what a tracker was told."""


class AsyncTracker:
    """Tells a tracker what it is to know, in order, when it has time."""

    def __init__(self, name: TrackerName, folder: RunFolder, *, first_step: int) -> None:
        self.name = name
        self._tracker = TRACKERS[name].make()
        self._folder, self._first_step = folder, first_step
        self._rows: queue.SimpleQueue[tuple[int, Mapping[str, float]] | None] = queue.SimpleQueue()
        self._artifact: Path | None = None
        self._problem = ""
        self._thread = threading.Thread(target=self._follow, name=f"tracker {name}", daemon=True)
        self._thread.start()

    @property
    def overwrites_steps(self) -> bool:
        """Whether the tracker forgets what it had of steps that are done again."""
        return self._tracker.overwrites_steps

    def tell(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Metrics of a step; numbers that are not finite are left out."""
        named = {f"{kind}/{key}": value for key, value in values.items() if math.isfinite(value)}
        if self._thread.is_alive():
            self._rows.put((step, named))

    def problem(self) -> str:
        """Why the tracker no longer follows; said once, empty otherwise."""
        problem, self._problem = self._problem, ""
        return problem

    def finish(self, artifact: Path | None) -> None:
        """Have the tracker take up the rest and the artifact, and let go of it after a while."""
        self._artifact = artifact
        self._rows.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._problem = f"it did not take up everything within {PATIENCE:g} seconds"

    def _follow(self) -> None:
        try:
            tracker = self._tracker
            self._begin()
            while (row := self._rows.get()) is not None:
                tracker.record(*row)
            tracker.finish(self._artifact)
        except (Exception, SystemExit) as error:
            self._problem = " ".join(f"{type(error).__name__}: {error}".split())

    def _begin(self) -> None:
        folder = self._folder.trackers
        file = folder / f"{self.name}.json"
        config = self._folder.config
        if variable := TRACKERS[self.name].no_telemetry:
            os.environ.setdefault(*variable)
        if self.name != "tensorboard":
            make_folder(folder)
        known = parse_json(file.read_bytes())["run"] if file.exists() else ""
        options = flat(parse_json(config.read_bytes())) if config.exists() else {}
        identity = self._tracker.begin(
            Followed(self._folder.path.resolve(), self._first_step, options, known)
        )
        if identity and identity != known:
            replace_file(file, [json.dumps({"run": identity}).encode()])
