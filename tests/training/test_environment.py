"""A run that goes on elsewhere says so; one whose frozen part is another is refused."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from beit.errors import CheckpointError, Preempted
from beit.training import dataset_manifest as module
from beit.training.loop import fit
from miniature import InMemory, masked, masked_batch, opened

PART = {"tokenizer": "a" * 64}


def go(folder, resume=False, before=id, **options):
    with opened(folder, InMemory(masked_batch, before=before), **options) as run:
        return fit(masked(), run, resume=resume)


def stop(step):
    if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def begun(tmp_path):
    with pytest.raises(Preempted):
        go(tmp_path, before=stop, parts=PART)
    return tmp_path


def test_other_threads_and_processors_are_told(begun, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")
    go(begun, resume=True, parts=PART)
    log = (begun / "log.txt").read_text()
    assert "going on elsewhere (threads 1 -> 77, processor " in log
    assert "-> OTHER): the numbers may differ in their last digits" in log
    assert "torch" not in log.split("elsewhere")[1].split(")")[0]


def test_the_same_surroundings_are_not_worth_a_word(begun):
    go(begun, resume=True, parts=PART)
    assert "may differ" not in (begun / "log.txt").read_text()


def test_another_tokenizer_than_before_is_refused(begun):
    with pytest.raises(CheckpointError, match=r"the tokenizer is not the one .* bbbb") as caught:
        go(begun, resume=True, parts={"tokenizer": "b" * 64})
    assert "bring that tokenizer back" in caught.value.remedy
    go(begun, resume=True, parts=PART)


def test_what_older_checkpoints_do_not_say_is_not_compared():
    module.check_same_parts({}, PART)
    assert module.environment_changes({}, 4) == []
