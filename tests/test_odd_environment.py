"""Every verb where nobody reads its output, its disk is full, its place is taken, or was left by a
process that was killed or requested to stop."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from beit import claim
from beit.atomic_io import beside
from beit.claim import claim_folder, claim_output
from beit.cli import main, program
from beit.process import SIGNALS
from children import in_a_child
from disks import NotAllowedError, mount, own_mounts
from segmented_folder import write_folder

NOT_ALLOWED = 77


class GivenUpError(Exception):
    """Who holds a place leaves it as it was."""


class Places(NamedTuple):
    """What the verbs work on."""

    images: Path
    masks: Path
    tokenizer: Path
    pretrained: Path
    classifier: Path
    segmenter: Path


@pytest.fixture(scope="module")
def places(class_folders, trained, tmp_path_factory) -> Places:
    masks = write_folder(tmp_path_factory.mktemp("segmented"))
    segmenter = tmp_path_factory.mktemp("segmenter") / "run"
    words = ["segment", "tiny", "--data", masks, "--out", segmenter, "--quiet", *QUICK]
    assert main([*map(str, words)]) == 0
    for library in ("matplotlib.pyplot", "pyarrow.parquet", "torch.export", "torch._dynamo"):
        importlib.import_module(library)  # once, and not in each process that is forked
    return Places(class_folders, masks, *trained, segmenter)


QUICK = ("--steps", "2", "--warmup-steps", "1", "--batch", "4", "--workers", "0", "--device", "cpu",
         "--precision", "fp32", "--tracker", "none")  # fmt: skip
RUNS = {
    "tokenizer": lambda at, out: ["--data", at.images, "--out", out, *QUICK],
    "pretrain": lambda at, out: ["--data", at.images, "--out", out, *QUICK, "--tokenizer",
                                 at.tokenizer, "--accept-collapsed"],
    "finetune": lambda at, out: ["--data", at.images, "--out", out, *QUICK],
    "segment": lambda at, out: ["--data", at.masks, "--out", out, *QUICK],
}  # fmt: skip
WRITERS: dict[str, Callable[[Places, Path], list[object]]] = {
    **{
        verb: lambda at, out, verb=verb, words=words: [verb, "tiny", *words(at, out)]
        for verb, words in RUNS.items()
    },
    "data pack": lambda at, out: ["data", "pack", at.images, out],
    "report plots": lambda at, out: ["report", at.classifier, "--plots", out],
    "tokenizer compare": lambda at, out: ["tokenizer", "compare", at.tokenizer, "--data",
                                          at.images, "--out", out, "--images", "4"],
    "probe": lambda at, out: ["probe", at.pretrained, "--data", at.images, "--out", out,
                              "--recipe", "tiny"],
    "predict": lambda at, out: ["predict", at.segmenter, at.masks / "images" / "val", "--out", out],
    "push": lambda at, out: ["push", at.classifier, "me/name", "--dry-run", out],
    "convert": lambda at, out: ["convert", at.pretrained, out, "--to", "beit"],
    "convert unilm": lambda at, out: ["convert", at.pretrained, f"{out}.pth", "--to", "unilm"],
    "export": lambda at, out: ["export", at.classifier, f"{out}.pt2", "--to", "torch"],
    "embed": lambda at, out: ["embed", at.pretrained, at.images, "--out", f"{out}.npz"],
    "embed parts": lambda at, out: ["embed", at.pretrained, at.images, "--out", out],
    "embed safetensors": lambda at, out: ["embed", at.pretrained, at.images, "--out",
                                          f"{out}.safetensors"],
    "report": lambda at, out: ["report", at.classifier, at.pretrained, "--out", f"{out}.html"],
    "report image": lambda at, out: ["report", at.pretrained, "--image", f"{out}.png"],
    "show": lambda at, out: ["show", "codebook", at.tokenizer, "--data", at.images, "--out",
                             f"{out}.png", "--images", "4"],
}  # fmt: skip
WORKED_IN = {*RUNS, "data pack", "report plots", "predict", "embed parts"}
"""Verbs that fill a folder; of the others the result appears as a whole."""
NAMED = {"convert", "embed parts", "predict"}
"""Verbs whose libraries do not say which file a disk had no room for."""
every_writer = pytest.mark.parametrize("verb", WRITERS)


def words_of(verb: str, at: Places, out: Path) -> list[str]:
    return [str(word) for word in WRITERS[verb](at, out)]


def place_of(verb: str, words: list[str], out: Path) -> Path:
    return next(Path(word) for word in words if word.startswith(str(out)))


def left_in(folder: Path) -> list[str]:
    """Locks, and files that are not whole."""
    return [
        str(path) for path in folder.rglob("*")
        if path.name == claim.LOCK or path.name.startswith((".lock", ".writing", ".exporting"))
    ]  # fmt: skip


@contextlib.contextmanager
def claim_part(folder: Path) -> Iterator[None]:
    """What a process holds that writes all parts of a folder."""
    held = claim.Claim(folder / ".lock-1-of-1", folder)
    try:
        yield
    finally:
        held.release()


@every_writer
def test_a_place_that_another_process_has_is_refused_before_work(verb, places, tmp_path, capsys):
    words = words_of(verb, places, tmp_path / "place")
    place = place_of(verb, words, tmp_path / "place")
    hold = claim_folder if verb in WORKED_IN else claim_output
    hold = claim_part if verb in ("predict", "embed parts") else hold
    with contextlib.suppress(GivenUpError), hold(place):
        assert main(words) == 7
        told = capsys.readouterr().err
        assert f"{place} is in use by process {os.getpid()} on" in told
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {
            claim.LOCK,
            f".lock-{place.name}",
            ".lock-1-of-1",
        }
        raise GivenUpError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["demo"], ["study", "paper"]])
def test_a_study_that_another_process_is_at_is_refused(words, tmp_path, capsys):
    with claim_folder(tmp_path / "study"):
        assert main([*words, "--out", str(tmp_path / "study")]) == 7
    assert "study is in use by process" in capsys.readouterr().err


BROKEN: dict[str, Callable[[int], None]] = {
    "reader gone": lambda number: _reader_gone(number),
    "disk full": lambda number: os.dup2(os.open("/dev/full", os.O_WRONLY), number) and None,
    "closed": os.close,
}


def _reader_gone(number: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, number)


def command(words: list[str], out: str, err: str) -> Callable[[], None]:
    """The program in this process, with streams that are broken in one way or the other."""

    def run() -> None:
        for number, how in ((1, out), (2, err)):
            if how:
                BROKEN[how](number)
        sys.argv = ["beit", *words]
        try:
            program()
        except SystemExit as left:
            os._exit(left.code if isinstance(left.code, int) else 1)

    return run


def dies_with_its_claim(words: list[str]) -> None:
    locked = claim.Claim._locked

    def killed(self: claim.Claim, remedy: str) -> int:
        locked(self, remedy)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    claim.Claim._locked = killed
    main(words)


def is_stopped_in_its_place(words: list[str], place: Path, number: signal.Signals) -> None:
    """A signal comes when anything but the lock is opened or renamed where the result belongs."""
    left = [number]

    def stop(event: str, values: tuple[object, ...]) -> None:
        if event in ("open", "os.rename") and isinstance(values[0], str | bytes | Path):
            path = Path(os.fsdecode(values[0]))
            inside = path.is_relative_to(place) or path.is_relative_to(beside(place, "writing"))
            if inside and not path.name.startswith((claim.LOCK, ".lock")) and left:
                os.kill(os.getpid(), left.pop())

    sys.addaudithook(stop)
    command(words, "", "")()


@every_writer
def test_what_a_killed_process_left_is_taken_over_and_unread_output_ends_nothing(
    verb, places, tmp_path
):
    """A process that is requested to stop leaves nothing half done."""
    words = words_of(verb, places, tmp_path / "place")
    place = place_of(verb, words, tmp_path / "place")
    assert in_a_child(lambda: dies_with_its_claim(words)) == -signal.SIGKILL
    assert left_in(tmp_path)
    stop = SIGNALS[list(WRITERS).index(verb) % len(SIGNALS)]
    assert in_a_child(lambda: is_stopped_in_its_place(words, place, stop)) == -stop
    assert not left_in(tmp_path)
    assert verb in WORKED_IN or not list(tmp_path.iterdir())
    ways = [*BROKEN, *BROKEN]
    number = list(WRITERS).index(verb) % len(BROKEN)
    assert in_a_child(command(words, ways[number], ways[number + 1])) == 0
    assert place.exists()
    assert not left_in(tmp_path)
    if verb in RUNS:
        log = (place / "log.txt").read_text()
        assert log.count("note: stdout cannot be written to any more") == 1
        assert "saved after step 2" in log


ANSWERS = {
    "predict": lambda at: ["predict", at.classifier, at.images],
    "predict json": lambda at: ["predict", at.classifier, at.images, "--format", "json"],
    "evaluate": lambda at: ["evaluate", at.classifier, "--data", at.images, "--split", "all"],
    "data check": lambda at: ["data", "check", at.images],
    "models": lambda at: ["models"],
    "help": lambda at: ["pretrain", "--help"],
    "help of all": lambda at: ["--help"],
}


@pytest.mark.parametrize("verb", ANSWERS)
@pytest.mark.parametrize(
    ("how", "code"), [("reader gone", -signal.SIGPIPE), ("disk full", 6), ("closed", 6)]
)
def test_an_answer_that_cannot_be_printed_ends_the_command(verb, how, code, places, tmp_path):
    words = [str(word) for word in ANSWERS[verb](places)]

    def run() -> None:
        told = os.open(tmp_path / "told", os.O_WRONLY | os.O_CREAT, 0o666)
        os.dup2(told, 2)
        command(words, how, "")()

    assert in_a_child(run) == code
    told = (tmp_path / "told").read_text()
    assert "Traceback" not in told
    assert ("the answer cannot be written to standard output" in told) == (code == 6)


@every_writer
def test_a_full_disk_is_told_as_such_and_leaves_nothing(verb, places, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    words = words_of(verb, places, disk / "place")
    place = place_of(verb, words, disk / "place")

    def run() -> None:
        try:
            own_mounts()
            mount(disk, options="size=8k")
        except NotAllowedError:
            os._exit(NOT_ALLOWED)
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            code = main(words)
        print(told.getvalue(), file=sys.__stderr__)
        assert code == 6
        assert "No space left" in told.getvalue() or "is full" in told.getvalue()
        assert ("--resume" in told.getvalue()) <= (verb in RUNS)
        assert verb not in NAMED or f"{place} cannot be written to" in told.getvalue()
        assert not left_in(disk)
        assert verb in WORKED_IN or not list(disk.iterdir())

    code = in_a_child(run)
    if code == NOT_ALLOWED:
        pytest.skip("no disk may be mounted here")
    assert code == 0


@every_writer
def test_a_name_that_is_too_long(verb, places, tmp_path, capsys):
    words = words_of(verb, places, tmp_path / ("y" * 300))
    assert main(words) == 2
    assert "bytes, and file systems take 255" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_input_whose_name_is_too_long(places, capsys):
    assert main(["embed", str(places.pretrained), "y" * 300, "--out", "x.npz"]) in (3, 6)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "y" * 40 in told
