"""What a run tells survives interruptions, and names every image it could not read."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch

from beit.batch import ImageBatch, SkipLog, Unreadable
from beit.errors import DataError
from beit.training.run_folder import RunFolder
from beit.training.run_logger import RunLogger, Throughput
from beit.training.skipped_images import SkippedImages


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def write(folder, steps, first_step=0):
    journal = RunLogger(folder, first_step=first_step, quiet=True)
    for step in steps:
        journal.metrics(step, "train", {"loss": 1 / step})
    journal.close()


def rows(folder):
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_rows_are_json_and_numbers_that_are_none_are_null(folder):
    journal = RunLogger(folder, first_step=0, quiet=True)
    journal.metrics(3, "evaluate", {"loss": math.nan, "psnr": -math.inf, "top1": 0.5})
    journal.close()
    (line,) = folder.metrics.read_text().splitlines()
    row = json.loads(line, parse_constant=pytest.fail)
    assert row == {"step": 3, "kind": "evaluate", "loss": None, "psnr": None, "top1": 0.5}


def test_steps_that_are_done_again_are_forgotten(folder):
    write(folder, [1, 2, 3, 4])
    write(folder, [3, 4, 5], first_step=2)
    assert [row["step"] for row in rows(folder)] == [1, 2, 3, 4, 5]


def test_a_row_that_was_cut_off_is_forgotten(folder):
    write(folder, [1, 2])
    with folder.metrics.open("a") as file:
        file.write('{"step": 3, "kind": "tra')
    write(folder, [3], first_step=2)
    assert [row["step"] for row in rows(folder)] == [1, 2, 3]


def test_quiet_writes_the_log_only(folder, capsys):
    for quiet in (True, False):
        journal = RunLogger(folder, first_step=0, quiet=quiet)
        journal.info(f"quiet {quiet}")
        journal.close()
    assert capsys.readouterr().out == "quiet False\n"
    assert (folder.path / "log.txt").read_text() == "quiet True\nquiet False\n"
    assert list((folder.path / "tensorboard").iterdir())


def bad(*names):
    unreadable = tuple(Unreadable(name, "it is empty") for name in names)
    return ImageBatch(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), unreadable=unreadable)


def noted(folder, said, images=200, limit=0.01):
    return SkippedImages(folder, said.append, images=images, limit=limit)


def test_unreadable_images_count_once(folder):
    said = []
    images = noted(folder, said)
    images.add(bad("a.png"))
    images.add(bad("a.png", "b.png"))
    assert images.counts() == {"unreadable": 2}
    again = noted(folder, said)
    again.add(bad("b.png"))
    assert again.counts() == {"unreadable": 2}
    written = (folder.path / "unreadable.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in written] == ["a.png", "b.png"]
    assert said == [
        f"{key} cannot be read and is skipped: it is empty" for key in ("a.png", "b.png")
    ]


def test_the_first_unreadable_images_are_named_and_the_others_counted(folder):
    said = []
    images = noted(folder, said, limit=0.5)
    images.add(bad(*(f"{number}.png" for number in range(3))))
    images.add(bad(*(f"{number}.png" for number in range(9))))
    assert [line.split()[0] for line in said[:5]] == [f"{number}.png" for number in range(5)]
    assert said[5:] == [f"more images cannot be read; {folder.unreadable} names all"]
    with folder.unreadable.open("a") as file:  # another process of the run
        file.write('{"key": "theirs.png", "reason": "it is empty"}\n')
    images.sum_up()
    assert said[6:] == [
        f"images that could not be read and were skipped: 10; {folder.unreadable} names them"
    ]


def test_nothing_is_said_of_images_that_can_be_read(folder):
    said = []
    images = noted(folder, said)
    images.add(SkipLog())
    images.sum_up()
    assert not said
    assert images.counts() == {}


@pytest.mark.parametrize(
    ("limit", "images", "allowed"), [(0.01, 300, 3), (0.01, 5, 1), (0.0, 1000, 0)]
)
def test_too_many_unreadable_images(folder, limit, images, allowed):
    said = []
    met = noted(folder, said, images, limit)
    for number in range(allowed):
        met.add(bad(f"{number}.png"))
    with pytest.raises(DataError, match=f"{allowed + 1} of {images} .*it is empty") as caught:
        met.add(bad("last.png"))
    assert "--bad-limit" in caught.value.remedy
    assert f"--bad-limit allows {allowed}" in caught.value.problem
    assert ("0.png" if allowed else "last.png") in caught.value.problem
    assert len(said) == allowed + 1


def test_what_was_unreadable_before_a_run_went_on_counts_if_it_still_is(folder):
    with pytest.raises(DataError):
        noted(folder, []).add(bad("a.png", "b.png", "c.png"))
    noted(folder, []).add(bad("a.png"))  # the others were mended
    with pytest.raises(DataError, match="3 of 200"):
        noted(folder, []).add(bad("a.png", "b.png", "c.png"))


def test_a_list_of_unreadable_images_that_was_cut_off(folder):
    (folder.path / "unreadable.jsonl").write_text('{"key": "a.png", "reason": "empty"}\n{"key')
    assert noted(folder, []).counts() == {"unreadable": 1}


class Terminal(io.StringIO):
    """What a person sees of a run."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_and_the_log_keeps_the_lines(folder, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    journal = RunLogger(folder, first_step=2, steps=20)
    journal.moved(10)
    journal.progress("step 10/20  loss 1.5", "loss 1.5  lr 1.0e-03")
    journal.info("saved after step 10")
    seen = screen.getvalue()
    assert "10/20" in seen
    assert "loss 1.5  lr 1.0e-03" in seen
    assert "step 10/20" not in seen  # the bar says it
    assert "saved after step 10\n" in seen
    monkeypatch.setattr(screen, "write", lost_terminal)
    journal.moved(11)
    journal.progress("step 11/20  loss 1.4", "loss 1.4")
    journal.close()
    lines = (folder.path / "log.txt").read_text().splitlines()
    assert lines[:2] == ["step 10/20  loss 1.5", "saved after step 10"]
    assert "step 11/20  loss 1.4" in lines


def lost_terminal(text: str) -> int:
    raise OSError("Input/output error")


def test_what_is_no_terminal_gets_lines(folder, capsys):
    journal = RunLogger(folder, first_step=0, steps=20)
    journal.moved(10)
    journal.progress("step 10/20  loss 1.5", "loss 1.5")
    journal.close()
    assert capsys.readouterr().out == "step 10/20  loss 1.5\n"


def test_speed_is_that_of_training_and_the_time_left_has_evaluations_too(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("beit.training.run_logger.time.monotonic", lambda: clock[0])
    throughput = Throughput(first_step=100, steps=200, batch=32)
    for _ in range(2):  # 20 steps of a second, in whose middle 60 seconds are spent on measuring
        clock[0] += 10
        with throughput.paused():
            clock[0] += 60
        throughput.waited(2)
        clock[0] += 10
        done = 100 + int(20 * clock[0] / 80)
        values = throughput.measure(done, torch.device("cpu"))
        assert values["images_per_second"] == pytest.approx(32)
        assert values["data_wait"] == pytest.approx(0.1)
        assert values["seconds_left"] == pytest.approx((200 - done) * (1 + 60 / 20))
    assert math.isnan(throughput.measure(done, torch.device("cpu"))["seconds_left"])
