"""What a run tells survives interruptions, and names every picture it could not read."""

from __future__ import annotations

import json
import math

import pytest

from beit.batch import Unreadable
from beit.errors import DataError
from beit.training.journal import Journal
from beit.training.noted import UnreadablePictures
from beit.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def write(folder, steps, first_step=0):
    journal = Journal(folder, first_step=first_step, quiet=True)
    for step in steps:
        journal.record(step, "train", {"loss": 1 / step})
    journal.close()


def rows(folder):
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_rows_are_json_and_numbers_that_are_none_are_null(folder):
    journal = Journal(folder, first_step=0, quiet=True)
    journal.record(3, "evaluate", {"loss": math.nan, "psnr": -math.inf, "top1": 0.5})
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
        journal = Journal(folder, first_step=0, quiet=quiet)
        journal.say(f"quiet {quiet}")
        journal.close()
    assert capsys.readouterr().out == "quiet False\n"
    assert (folder.path / "log.txt").read_text() == "quiet True\nquiet False\n"
    assert list((folder.path / "tensorboard").iterdir())


def bad(*names):
    return tuple(Unreadable(name, "it is empty") for name in names)


def test_unreadable_pictures_count_once(folder):
    pictures = UnreadablePictures(folder, pictures=200, limit=0.01)
    pictures.add(bad("a.png"))
    pictures.add(bad("a.png", "b.png"))
    assert len(pictures) == 2
    again = UnreadablePictures(folder, pictures=200, limit=0.01)
    again.add(bad("b.png"))
    assert len(again) == 2
    written = (folder.path / "unreadable.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in written] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("limit", "pictures", "allowed"), [(0.01, 300, 3), (0.01, 5, 1), (0.0, 1000, 0)]
)
def test_too_many_unreadable_pictures(folder, limit, pictures, allowed):
    noted = UnreadablePictures(folder, pictures=pictures, limit=limit)
    for number in range(allowed):
        noted.add(bad(f"{number}.png"))
    with pytest.raises(DataError, match=f"{allowed + 1} of {pictures} .*it is empty") as caught:
        noted.add(bad("last.png"))
    assert "--bad-limit" in caught.value.remedy
    assert ("0.png" if allowed else "last.png") in caught.value.problem


def test_a_list_of_unreadable_pictures_that_was_cut_off(folder):
    (folder.path / "unreadable.jsonl").write_text('{"key": "a.png", "reason": "empty"}\n{"key')
    assert len(UnreadablePictures(folder, pictures=9, limit=0.5)) == 1
