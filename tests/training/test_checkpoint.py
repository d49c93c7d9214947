"""Checkpoints: bit-exact, verified to the last byte, and never half there."""

from __future__ import annotations

import json
import os
import resource
import shutil

import pytest
import torch

from beit.errors import CheckpointError, ResourceError
from beit.training.checkpoint import (
    MANIFEST,
    Checkpoint,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", MANIFEST)


def checkpoint(step: int) -> Checkpoint:
    chance = torch.Generator().manual_seed(step)
    tensors = {
        "model": {
            "weight": torch.randn(20, 30, generator=chance),
            "usage": torch.randn(7, generator=chance).bfloat16(),
        },
        "optimizer": {
            "weight/step": torch.tensor(float(step)),
            "weight/exp_avg": torch.randn(30, 20, generator=chance).t(),
        },
    }
    return Checkpoint(step, tensors, {"best": [3, 0.1 + 0.2], "metrics": {"top1": 0.5}})


def assert_same(first: Checkpoint, second: Checkpoint) -> None:
    assert (first.step, first.values) == (second.step, second.values)
    assert first.tensors.keys() == second.tensors.keys()
    for group, tensors in first.tensors.items():
        assert tensors.keys() == second.tensors[group].keys()
        for name, tensor in tensors.items():
            other = second.tensors[group][name]
            assert tensor.dtype == other.dtype
            assert torch.equal(tensor, other), name


def newest_step(folder) -> int:
    found = newest_checkpoint(folder).checkpoint
    assert found is not None
    return found.step


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


def test_a_damaged_one_is_replaced(saved):
    (saved / "model.safetensors").write_bytes(b"")
    save_checkpoint(saved.parent, checkpoint(12), keep=2)
    assert_same(read_checkpoint(saved), checkpoint(12))


class Killed(BaseException):
    """No more instructions of this process are carried out."""


def calls_of_a_save(monkeypatch, folder, die_at: int) -> int:
    """Save step 20, dying before the given system call; how many there were."""
    done = 0

    def counted(real):
        def call(*arguments, **options):
            nonlocal done
            if done == die_at:
                raise Killed
            done += 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "rename", "mkdir", "open"):
            patch.setattr(os, name, counted(getattr(os, name)))
        save_checkpoint(folder, checkpoint(20), keep=1)
    return done


def test_killed_at_any_moment(monkeypatch, tmp_path):
    """The old checkpoint stays until the new one is whole; and the next save finds its way."""
    whole = tmp_path / "whole"
    calls = calls_of_a_save(monkeypatch, whole, die_at=-1)
    assert calls >= 8
    for die_at in range(calls):
        folder = tmp_path / str(die_at)
        save_checkpoint(folder, checkpoint(10), keep=1)
        with pytest.raises(Killed):
            calls_of_a_save(monkeypatch, folder, die_at)
        found = newest_checkpoint(folder)
        assert found.damaged == []
        assert_same(found.checkpoint, checkpoint(found.checkpoint.step))
        assert len(list(folder.glob("step-*"))) == (1 if found.checkpoint.step == 10 else 2)
        save_checkpoint(folder, checkpoint(20), keep=1)
        assert newest_step(folder) == 20
        assert [path.name for path in folder.iterdir()] == ["step-00000020"]


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
