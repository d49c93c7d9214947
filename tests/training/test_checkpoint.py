"""Checkpoints: bit-exact, verified to the last byte, and never half there."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time

import pytest

from beit.errors import CheckpointError, ResourceError
from beit.training.checkpoint import (
    MANIFEST,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from states import assert_same, checkpoint, cut_after_reading

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", MANIFEST)


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path, checkpoint(12), keep=2)


def test_round_trip_is_bit_exact(saved):
    assert_same(read_checkpoint(saved), checkpoint(12))
    assert sorted(file.name for file in saved.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed(saved, name):
    file = saved / name
    whole = file.read_bytes()
    for place in sorted(
        {*range(0, len(whole), 37), *range(40), len(whole) - 1} & {*range(len(whole))}
    ):
        for bit in (place % 8, (place + 3) % 8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=str(saved)) as caught:
                read_checkpoint(saved)
            assert name == MANIFEST or name in caught.value.problem
    file.write_bytes(whole)
    assert_same(read_checkpoint(saved), checkpoint(12))


@pytest.mark.parametrize("name", FILES)
def test_files_cut_lengthened_or_gone(saved, name):
    file = saved / name
    whole = file.read_bytes()
    for content in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"x"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(saved)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: No such file"):
        read_checkpoint(saved)


def test_damage_falls_back_to_the_newest_whole_one(tmp_path):
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, checkpoint(step), keep=9)
    (tmp_path / "step-00000020" / "model.safetensors").write_bytes(b"")
    (tmp_path / "step-00000015" / MANIFEST).unlink()
    os.utime(tmp_path / "step-00000005")  # the order is that of the steps, whatever the clock says
    found = newest_checkpoint(tmp_path)
    assert_same(found.checkpoint, checkpoint(10))
    assert ["model.safetensors is damaged" in found.damaged[0], MANIFEST in found.damaged[1]] == [
        True,
        True,
    ]


def test_nothing_to_find(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") == (None, [])


def test_a_copy_under_another_step_is_noticed(saved):
    """Files of one checkpoint with the manifest's step of another."""
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps(manifest | {"step": 13}))
    with pytest.raises(CheckpointError, match="step"):
        read_checkpoint(saved)


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000010"]


def test_clocks_do_not_decide_which_is_the_newest(tmp_path):
    """Of folders that were copied, or written after the clock was put back, the step counts."""
    for step, years in ((1, 10), (2, -1), (3, 0)):
        saved = save_checkpoint(tmp_path, checkpoint(step), keep=9)
        for place in (saved, *saved.iterdir()):
            os.utime(place, (time.time() + years * 3e7,) * 2)
    assert_same(newest_checkpoint(tmp_path).checkpoint, checkpoint(3))
    save_checkpoint(tmp_path, checkpoint(4), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_damaged_one_is_replaced(saved):
    (saved / "model.safetensors").write_bytes(b"")
    save_checkpoint(saved.parent, checkpoint(12), keep=2)
    assert_same(read_checkpoint(saved), checkpoint(12))


@pytest.mark.parametrize("quota", [0, 100, 1000, 2400])
def test_full_disk(tmp_path, quota):
    save_checkpoint(tmp_path, checkpoint(10), keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (quota, hard))
    try:
        with pytest.raises(ResourceError, match=r"step 20 .*File too large \(\d+ MiB free\)"):
            save_checkpoint(tmp_path, checkpoint(20), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert_same(newest_checkpoint(tmp_path).checkpoint, checkpoint(10))


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"Not a directory|File exists"):
        save_checkpoint(tmp_path / "file", checkpoint(1), keep=1)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "a/b.json", ".."])
def test_paths_in_the_manifest_are_refused(saved, name):
    shutil.copytree(saved, saved.parent / "other")
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["files"][name] = manifest["files"].pop("model.safetensors")
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_checkpoint(saved)


def test_another_format_is_refused(saved):
    (saved / MANIFEST).write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        read_checkpoint(saved)


def test_one_of_a_newer_version_is_not_passed_over(tmp_path):
    """Going on from the one before would lose what was learned since, and then remove it. A format
    that this version has never written is a flipped bit, which is."""
    for step in (5, 10):
        saved = save_checkpoint(tmp_path, checkpoint(step), keep=9)
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps(manifest | {"format": 3}))
    assert_same(newest_checkpoint(tmp_path).checkpoint, checkpoint(5))
    (saved / MANIFEST).write_text(json.dumps(manifest | {"format": 3, "beit": "9.1"}))
    with pytest.raises(CheckpointError, match=r"was made by beit 9\.1 in format 3") as caught:
        newest_checkpoint(tmp_path)
    assert "install beit 9.1" in caught.value.remedy


def test_files_that_are_cut_once_they_were_read(saved, monkeypatch):
    """They are read once: what is used is what was hashed."""
    cut_after_reading(monkeypatch)
    assert_same(read_checkpoint(saved), checkpoint(12))
    with pytest.raises(CheckpointError, match=MANIFEST):
        read_checkpoint(saved)
