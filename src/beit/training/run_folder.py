"""The folder of a run: one run, one folder, never overwritten, one process at a time in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beit.atomic_io import replace_file
from beit.claim import LOCK, Claim, check_name, is_free
from beit.config.following import WITH_STEPS
from beit.config.runs import RunConfig
from beit.config.tree import differences, from_json, to_json
from beit.config.validation import LARGEST_INT
from beit.errors import EXHAUSTED, ConfigError, ResourceError, RunFolderError
from beit.json_object import parse_json, read_json_lines
from beit.terminal import printable

# What may change when a run is resumed: nothing that decides the numbers.
RESUMABLE = {
    "out",
    "accept_changed_data",
    "token_cache",
    "teacher_cache",
    "loader.workers",
    "loader.cache",
    "loader.cache_dir",
    "loader.cache_size",
    "loader.bad_limit",
    "loader.worker_timeout",
    "loader.worker_restarts",
    "training.device",
    "training.log_every",
    "training.save_every",
    "training.keep",
    "training.patience",
    "training.tracker",
    "training.process_timeout",
    "training.sharding",
}

PLACES = {"data", "masks.class_names", "label_file.image_folder", "tokenizer"}
"""Paths of what a fingerprint or a digest identifies: that is compared, not the path."""

LENGTH = "training.steps"
"""May grow: the run continues to its new end, on the schedule of a run of that length."""


class RunFolder:
    """Paths of a run, and the lock that keeps a second process out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        """The artifact: the best by validation where there is one, else the last."""
        self.last = path / "last"
        """The artifact of the last step, where validation chose another as `model`."""
        self.metrics = path / "metrics.jsonl"
        self.log = path / "log.txt"
        self.plan = path / "plan.txt"
        """The plan for the time that was given."""
        self.account = path / "account.json"
        """How its data was understood, and what was skipped there."""
        self.images = path / "images.txt.gz"
        """The names of the images it learns from, compressed."""
        self.left_images = path / "left_images.txt.gz"
        """The names of those it learned from before its images were changed, compressed."""
        self.unreadable = path / "unreadable.jsonl"
        """Images that could not be read, with the reasons."""
        self.several = path / "several.jsonl"
        """Images that are the first of several in their file."""
        self.shared = path / "shared.jsonl"
        """Training images that are also among those for validation."""
        self.diverged = path / "diverged"
        """Records of steps whose numbers were not finite."""
        self.trackers = path / "trackers"
        """What trackers other than TensorBoard call this run, and what they keep here."""
        self._claim: Claim | None = None

    def open(self, config: RunConfig, *, resume: bool) -> None:
        """Create the folder, or take it up again to `resume`; lock it; write `config.json`.

        Raises:
            ConfigError: The config names no folder.
            RunFolderError: The folder holds something else than this run, or is in use.
            ResourceError: The folder cannot be written to.
        """
        if not config.out:
            raise ConfigError("no folder was given for the run", remedy="add --out FOLDER")
        if resume:
            self.check_resumable(config)
        else:
            self.check_free()
        self._claim = Claim(self.path / LOCK, self.path)
        try:
            if not resume:
                self.check_free()  # now that nobody else can begin here
            replace_file(self.config, [json.dumps(to_json(config), indent=1).encode()])
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError):
                raise
            raise ResourceError(
                f"the folder of the run {self.path} cannot be written to: {error.strerror}",
                remedy="make room or permit writing, or choose another --out",
            ) from error

    def check_free(self) -> None:
        """Raise RunFolderError unless a new run can be started here."""
        check_name(self.path)
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file", remedy="choose another --out")
        if self.path.is_dir() and not is_free(self.path):
            if not self.config.exists():
                raise RunFolderError(f"{self.path} is not empty", remedy="choose another --out")
            raise RunFolderError(
                f"{self.path} holds a run",
                remedy="add --resume to continue it, or choose another --out",
            )

    def check_resumable(self, config: RunConfig) -> None:
        """Raise RunFolderError unless a run with these settings can be resumed here. Its images are
        compared elsewhere: see `check_moved`."""
        if not self.config.exists():
            raise RunFolderError(
                f"{self.path} holds no run to resume",
                remedy="leave --resume out to start one there",
            )
        old = read_run_config(self.path)
        changed = {
            name: values
            for name, values in differences(old, config).items()
            if name not in RESUMABLE | PLACES
        }
        same_kind, steps = type(old) is type(config), config.training.steps
        others = {name.rpartition(".")[2] for name in changed.keys() - {LENGTH}}
        if same_kind and LENGTH in changed and others <= WITH_STEPS and steps < old.training.steps:
            raise RunFolderError(
                f"{self.path} holds a run of {old.training.steps} steps, and a run can be made "
                f"longer but not shorter: --steps is {steps}",
                remedy=f"give --steps {old.training.steps} or more, or stop it with Ctrl-C "
                "where it is to end",
            )
        if steps > old.training.steps:
            changed.pop(LENGTH, None)
        if changed or not same_kind:
            listed = "; ".join(
                f"{name}: {_shown(was)} -> {_shown(now)}" for name, (was, now) in changed.items()
            )
            raise RunFolderError(
                f"{self.path} holds a run with other settings: {listed or type(old).__name__}",
                remedy="repeat the command that started it and add --resume (all settings are in "
                "its config.json, of which --steps may be larger), or choose another --out",
            )

    def lost(self, error: OSError, step: int) -> ResourceError:
        """The error for a folder that can no longer be read or written to."""
        remedy = EXHAUSTED.get(error.errno or 0, "make room or permit writing")
        return ResourceError(
            f"{error.filename or self.path} cannot be read or written to after step {step}: "
            f"{error.strerror}",
            remedy=f"{remedy}, then continue with --resume",
        )

    def close(self) -> None:
        """Release the lock."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None


def _shown(value: object) -> str:
    """A setting for a message, where an empty one has to be visible."""
    return "none" if value in (None, "", ()) else printable(str(value))


def read_run_config(path: Path) -> RunConfig:
    """The config that a run recorded.

    Raises:
        RunFolderError: There is no run.
        ConfigError: The config is not understood: another version wrote it, or it names a user's
            own code that is not loaded.
    """
    if not path.exists():
        raise RunFolderError(f"there is nothing at {path}", remedy="give the folder of a run")
    try:
        recorded = parse_json((path / "config.json").read_bytes())
        if not isinstance(recorded, dict) or "type" not in recorded:
            raise ValueError("its config.json is none of a run")
        if isinstance(recorded.get("training"), dict):
            recorded["training"].setdefault("order", "sorted")  # the only one of older runs
    except (OSError, ValueError) as error:
        around = path.absolute().parent
        inside = path.name == "model" and (around / "config.json").exists()
        why = f"{error.strerror}: config.json" if isinstance(error, OSError) else str(error)
        if inside:
            remedy = f"give the run around it, {path.parent}"
        elif (path / "folds.json").is_file():
            remedy = f"give one of its folds, such as {path / 'fold-1'}"
        else:
            remedy = "give the folder that --out of a training named"
        raise RunFolderError(f"{path} is not the folder of a run ({why})", remedy=remedy) from error
    try:
        return from_json(recorded, RunConfig)
    except ConfigError as error:
        raise ConfigError(
            f"the config of the run {path} is not understood: {error.problem}", remedy=error.remedy
        ) from error


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of metrics.jsonl: objects with a step and a kind. A missing file has none."""
    for row in read_json_lines(file):
        step = row.get("step")
        if isinstance(step, int) and 0 <= step <= LARGEST_INT and isinstance(row.get("kind"), str):
            yield row


def read_reasons(file: Path) -> dict[str, str]:
    """The images that a file of the run names, each with its reason."""
    return {
        str(row["key"]): str(row.get("reason", "")) for row in read_json_lines(file) if "key" in row
    }
