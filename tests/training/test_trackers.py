"""Trackers are told what the journal is told; they cannot harm a run; one that goes on is the same
run there. The libraries are the real ones, offline. That of Trackio asks for an older Pillow than
the rest has, so its test is left out where it was not installed (`pip install trackio`)."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import beit
from beit.cli import main
from beit.cli.options import gathered
from beit.config import TrainingConfig
from beit.errors import ConfigError, Preempted, ResourceError
from beit.training import trackers
from beit.training.loop import fit
from beit.training.run_folder import RunFolder
from beit.training.run_logger import RunLogger
from beit.training.trackers import TRACKERS, Tracker, check_trackers, flat
from miniature import InMemory, classification, labelled_batch, opened

CONFIG = {"type": "FinetuneRunConfig", "recipe": "tiny", "training": {"lr": 0.1, "clip": None}}
KEPT = {"recipe": "tiny", "training.lr": 0.1}


class Told(Tracker):
    """Writes down what it is told, class-wide, and does what `mood` says first."""

    library = "json"
    calls: list[tuple[Any, ...]] = []  # noqa: RUF012
    mood: Callable[[str], None] = staticmethod(lambda call: None)

    def begin(self, config: Mapping[str, object], identity: str) -> str:
        self.note("begin", self.first_step, dict(config), identity)
        return identity or "number one"

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.note("record", step, dict(values))

    def end(self, artifact: Path | None) -> None:
        self.note("finish", artifact)

    def note(self, *call: Any) -> None:
        type(self).mood(call[0])
        self.calls.append(call)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    """Stands in for the library of `wandb`."""
    monkeypatch.setitem(TRACKERS, "wandb", Told)
    monkeypatch.setattr(Told, "calls", [])
    monkeypatch.setattr(Told, "mood", staticmethod(lambda call: None))
    return Told


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config.write_text(json.dumps(CONFIG))
    return folder


def journal(folder: RunFolder, *names: Any, first_step: int = 0) -> RunLogger:
    return RunLogger(folder, first_step=first_step, trackers=names, quiet=True)


def log(folder: RunFolder) -> str:
    return (folder.path / "log.txt").read_text()


def test_what_a_tracker_is_told(folder, told):
    book = journal(folder, "wandb")
    book.metrics(1, "train", {"loss": 3.0, "seconds_left": float("nan")})
    book.metrics(2, "evaluate", {"top1": 0.5})
    book.finished(folder.model)
    book.close()
    options = {"type": "FinetuneRunConfig", "recipe": "tiny", "training.lr": 0.1,
               "training.clip": None}  # fmt: skip
    assert told.calls == [
        ("begin", 0, options, ""),
        ("record", 1, {"train/loss": 3.0}),
        ("record", 2, {"evaluate/top1": 0.5}),
        ("finish", folder.model),
    ]
    assert log(folder) == ""


def test_makers_are_told_nothing_unless_the_user_wants_it(folder, told, monkeypatch):
    monkeypatch.delenv("NO_REPORTS", raising=False)
    for set_by_user, expected in ((None, "true"), ("false", "false")):
        if set_by_user:
            monkeypatch.setenv("NO_REPORTS", set_by_user)
        monkeypatch.setattr(told, "no_telemetry", ("NO_REPORTS", "true"))
        journal(folder, "wandb").close()
        assert os.environ["NO_REPORTS"] == expected
        monkeypatch.delenv("NO_REPORTS")


def test_going_on_is_the_same_run_and_tells_no_step_twice(folder, told):
    book = journal(folder, "wandb")
    for step in (1, 2, 3):
        book.metrics(step, "train", {"loss": 1 / step})
    book.close()
    assert told.calls.pop() == ("finish", None)
    told.calls.clear()
    book = journal(folder, "wandb", first_step=1)
    for step in (2, 3, 4):
        book.metrics(step, "train", {"loss": 1 / step})
    book.metrics(3, "evaluate", {"top1": 0.5})
    book.close()
    (_, first_step, _, identity), *records, _ = told.calls
    assert (first_step, identity) == (1, "number one")
    assert records == [("record", 4, {"train/loss": 0.25}), ("record", 3, {"evaluate/top1": 0.5})]


@pytest.mark.parametrize("call", ["begin", "record", "finish"])
def test_a_tracker_that_fails_is_warned_about_once(folder, told, call, monkeypatch):
    failed = threading.Event()

    def mood(name: str) -> None:
        if name == call:
            failed.set()
            raise (SystemExit if call == "begin" else ConnectionError)("the line\nis cut")

    monkeypatch.setattr(told, "mood", staticmethod(mood))
    book = journal(folder, "wandb", "tensorboard")
    for step in range(1, 5):
        book.metrics(step, "train", {"loss": 1.0})
        if call != "finish":
            assert failed.wait(240)
    book.close()
    kind = "SystemExit" if call == "begin" else "ConnectionError"
    assert log(folder) == (f"warning: wandb no longer follows this run: {kind}: the line is cut\n")
    assert len(folder.metrics.read_text().splitlines()) == 4
    assert len(scalars(folder, "train/loss")) == 4


def test_a_tracker_that_hangs_holds_nothing_up(folder, told, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(told, "mood", staticmethod(lambda _: release.wait(240) or None))
    monkeypatch.setattr(trackers, "PATIENCE", 0.05)
    book = journal(folder, "wandb")
    for step in range(1, 100):
        book.metrics(step, "train", {"loss": 1.0})
    book.close()
    assert not release.is_set()
    assert "did not take up everything within 0.05 seconds" in log(folder)
    release.set()


def scalars(folder: RunFolder, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard(folder):
    book = journal(folder, "tensorboard")
    for step in (1, 2, 3):
        book.metrics(step, "train", {"loss": 1.0})
    book.close()
    book = journal(folder, "tensorboard", first_step=1)
    for step in (2, 3):
        book.metrics(step, "train", {"loss": 0.5})
    book.finished(folder.model)
    book.close()
    assert scalars(folder, "train/loss") == [(1, 1.0), (2, 0.5), (3, 0.5)]
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    texts = {name: events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
             for name in ("config", "artifact")}  # fmt: skip
    assert "training.lr: 0.1" in texts["config"]
    assert texts["artifact"] == str(folder.model)
    assert not folder.trackers.exists()


def test_none(folder):
    book = journal(folder, "none")
    book.metrics(1, "train", {"loss": 1.0})
    book.close()
    assert {file.name for file in folder.path.iterdir()} == {
        "config.json", "log.txt", "metrics.jsonl"
    }  # fmt: skip


def test_a_run_tells_its_trackers(tmp_path, told):
    """Stopped after three steps and taken up again, by the loop that trains."""

    def stop(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    for before, resume in ((stop, False), (id, True)):
        loader = InMemory(labelled_batch, before=before)
        with opened(tmp_path / "run", loader, tracker=("wandb", "tensorboard")) as run:
            try:
                fit(classification(), run, resume=resume)
            except Preempted:
                assert not resume
    begins = [call[1:] for call in told.calls if call[0] == "begin"]
    assert [(step, identity) for step, _, identity in begins] == [(0, ""), (4, "number one")]
    trained = [call[1] for call in told.calls if call[0] == "record" and "train/loss" in call[2]]
    assert trained == [1, 2, 3, 4, 5, 6]
    ends = [call[1] for call in told.calls if call[0] == "finish"]
    assert ends == [None, tmp_path / "run" / "model"]


def test_names_of_trackers():
    options: dict[str, Any] = {"steps": 1, "batch": 1, "lr": 1e-3}
    for names in (("none", "wandb"), ("wandb", "wandb")):
        with pytest.raises(ConfigError, match="name each tracker once, or none"):
            TrainingConfig(**options, tracker=names)
    assert TrainingConfig(**options).tracker == ("tensorboard",)


def test_a_library_that_is_missing_is_told_before_the_run(
    monkeypatch, class_folders, tmp_path, capsys
):
    monkeypatch.setattr(TRACKERS["mlflow"], "library", "no_such_library")
    check_trackers(("none", "tensorboard"))
    with pytest.raises(ResourceError, match=r'pip install "beit\[mlflow\]"'):
        check_trackers(("tensorboard", "mlflow"))
    line = ["tokenizer", "tiny", "--data", str(class_folders), "--out", str(tmp_path / "run"),
            "--steps", "2", "--warmup-steps", "1", "--workers", "0", "--tracker", "tensorboard",
            "--tracker", "mlflow"]  # fmt: skip
    assert main(line) == 6
    assert "beit[mlflow]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["--tracker", "wandb", "mlflow"], ["--tracker", "wandb", "mlflow"]),
        (["--tracker", "wandb", "--quiet", "--tracker=mlflow"],
         ["--quiet", "--tracker", "wandb", "mlflow"]),
        (["--lr", "1", "--tracker", "a", "b", "--size", "2", "3", "--tracker", "c"],
         ["--lr", "1", "--size", "2", "3", "--tracker", "a", "b", "c"]),
    ],
)  # fmt: skip
def test_the_option_may_be_repeated(words, expected):
    assert gathered("--tracker", words) == expected


def test_options_have_names_with_dots():
    assert flat({"a": 1, "b": {"c": None, "d": {"e": [1]}}}) == {"a": 1, "b.c": None, "b.d.e": [1]}


# -- the real libraries ----------------------------------------------------------------------------


def follow_twice(folder: RunFolder, name: str) -> str:
    """Three steps, stopped; then on from the first, to the end. Returns what the run is called."""
    for first_step, steps in ((0, (1, 2, 3)), (1, (2, 3, 4))):
        book = journal(folder, name, first_step=first_step)
        for step in steps:
            book.metrics(step, "train", {"loss": 1 / step, "wait": float("inf")})
        book.metrics(steps[-1], "evaluate", {"top1": steps[-1] / 10})
        if first_step:
            book.finished(folder.model)
        book.close()
        assert log(folder) == ""
    identity: str = json.loads((folder.trackers / f"{name}.json").read_text())["run"]
    return identity


@pytest.mark.filterwarnings("ignore")
def test_mlflow(folder, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    identity = follow_twice(folder, "mlflow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("beit")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (identity, "run", "FINISHED")
    assert run.data.params.items() >= {"recipe": "tiny", "training.lr": "0.1"}.items()
    assert run.data.tags["artifact"] == str(folder.model)
    history = client.get_metric_history(identity, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (step, 1 / step) for step in (1, 2, 3, 4)
    ]
    assert len(client.get_metric_history(identity, "evaluate/top1")) == 2


@pytest.mark.filterwarnings("ignore")
def test_wandb(folder, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    identity = follow_twice(folder, "wandb")
    # Of two runs that begin in the same second, the second one's folder ends in -1.
    files = sorted((folder.trackers / "wandb").glob(f"offline-run-*-{identity}*/run-*.wandb"))
    assert len(files) == 2
    told = everything(files)
    history = [row for record in told if (row := rows_of(record.history)) and "train/loss" in row]
    assert [(row["_step"], row["train/loss"]) for row in history] == [
        (step, 1 / step) for step in (1, 2, 3, 4)
    ]
    config = {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for record in told
        for item in record.run.config.update
    }
    assert config.items() >= KEPT.items()
    assert {record.run.run_id for record in told if record.HasField("run")} == {identity}
    summary = [
        json.loads(item.value_json)
        for record in told
        for item in record.summary.update
        if (item.key or ".".join(item.nested_key)) == "artifact"
    ]
    assert str(folder.model) in summary
    assert [record.exit.exit_code for record in told if record.HasField("exit")] == [1, 0]


def everything(files: list[Path]) -> list[Any]:
    """The records of finished runs; a process of the library writes the last ones in its time."""
    deadline = time.monotonic() + 240
    while True:
        found = [record for file in files for record in records(file)]
        if sum(record.HasField("exit") for record in found) == len(files):
            return found
        assert time.monotonic() < deadline, "the runs were not written to their end"
        time.sleep(0.1)


def records(file: Path) -> Iterator[Any]:
    """What Weights & Biases wrote down, to send later."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""  # after the head: blocks of LevelDB's log
    while place + 7 <= len(data):
        if (left := -place % 32768) < 7 and left:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            yield Record.FromString(whole)
            whole = b""


def rows_of(history: Any) -> dict[str, Any]:
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in history.item
    }


@pytest.mark.filterwarnings("ignore")
def test_trackio(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    identity = follow_twice(folder, "trackio")
    (run,) = trackio.Api().runs("beit")
    assert run.name == identity
    assert identity.startswith("run-")
    assert run.config.items() >= KEPT.items()
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("beit", identity)
    trained = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert trained == [(step, 1 / step) for step in (1, 2, 3, 4)]
    assert [row["artifact"] for row in rows if "artifact" in row] == [str(folder.model)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_whole_run_with_all_that_are_installed(class_folders, tmp_path, monkeypatch, capsys):
    """On the command line, with workers that are forked while the trackers are at work."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    import importlib.util

    names = [name for name, kind in TRACKERS.items() if importlib.util.find_spec(kind.library)]
    line = ["tokenizer", "tiny", "--data", str(class_folders), "--out", str(tmp_path / "run"),
            "--steps", "8", "--log-every", "1", "--workers", "2", "--tracker", *names]  # fmt: skip
    assert main(line) == 0
    assert "no longer follows" not in capsys.readouterr().out
    kept = {file.stem for file in (tmp_path / "run" / "trackers").glob("*.json")}
    assert kept == set(names) - {"tensorboard"}
    assert beit.load(tmp_path / "run").artifact.kind == "tokenizer"
