"""Numbers that break: named, recorded, and repeated from the record alone."""

from __future__ import annotations

import json

import pytest
import torch

from beit.cli import main
from beit.errors import CheckpointError, DivergedError
from beit.training import nan_report
from beit.training.checkpoint import newest_checkpoint
from beit.training.loop import fit
from beit.training.nan_report import read_record, replay
from beit.training.update import Updater
from miniature import InMemory, masked, masked_batch, opened

PLACE = "the output of model.backbone.blocks.1.mlp"


def touchy(objective, image):
    """The objective, whose second block cannot bear an image."""
    seen = []

    def note(module, given):
        seen[:] = given[0].keys

    def spoil(module, given, output):
        return output * torch.nan if image in seen else None

    objective.register_forward_pre_hook(note)
    objective.model.backbone.blocks[1].mlp.register_forward_hook(spoil)
    return objective


def updater(objective, run):
    return Updater(objective, run.config, run.processes, print)


@pytest.fixture
def broken(tmp_path):
    """A run that broke at step 3, in its third micro-batch of two images; and its error."""
    with opened(tmp_path, InMemory(masked_batch, 2), micro_batch=2) as run:
        with pytest.raises(DivergedError, match="not finite at step 3") as caught:
            fit(touchy(masked(), "3/5"), run, resume=False)
        yield run, caught.value


def test_the_error_names_the_place_the_images_and_the_record(broken):
    run, error = broken
    file = run.folder.path / "diverged" / "step-00000003.safetensors"
    assert PLACE in error.problem
    assert "3/4, 3/5" in error.problem
    assert f"beit doctor replay {file}" in error.remedy
    assert newest_checkpoint(run.folder.checkpoints).checkpoint.step == 2


def test_the_record_holds_the_micro_batch_and_its_seeds(broken):
    run, _ = broken
    file = run.folder.diverged / "step-00000003.safetensors"
    batch, at, where = read_record(file)
    expected = masked_batch(3)
    assert batch.keys == expected.keys[4:6]
    for name in ("images", "token_images", "mask"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)[4:6])
    assert (at.seed, at.step, at.rank, at.first, at.accumulation) == (0, 3, 0, 4, 4)
    assert (at.progress, at.scale) == (0.5, 1.0)
    assert where.startswith(PLACE)
    assert json.loads(file.with_suffix(".json").read_text())["versions"] == {
        "torch": torch.__version__
    }


def test_the_step_is_repeated_from_the_newest_checkpoint(broken):
    run, _ = broken
    file = run.folder.diverged / "step-00000003.safetensors"
    before = sorted(run.folder.path.rglob("*"))
    done = replay(updater(touchy(masked(), "3/5"), run), run.loader, run.folder, file)
    assert (done.step, done.restored) == (3, 2)
    assert done.where == done.recorded
    assert done.where.startswith(PLACE)
    mended = replay(updater(masked(), run), run.loader, run.folder, file)
    assert (mended.step, mended.where) == (3, "")
    assert sorted(run.folder.path.rglob("*")) == before


def test_what_is_no_record(broken):
    run, _ = broken
    for name in ("step-00000004.safetensors", "step-00000003.json"):
        if name.endswith("json"):
            (run.folder.diverged / name).write_text("{}")
        with pytest.raises(CheckpointError, match=f"{name} is not a record"):
            replay(updater(masked(), run), run.loader, run.folder, run.folder.diverged / name)


def test_a_full_disk_does_not_hide_the_divergence(tmp_path):
    (tmp_path / "diverged").write_text("")  # where the folder should be
    with (
        opened(tmp_path, InMemory(masked_batch)) as run,
        pytest.raises(DivergedError, match=r"not finite at step 3; no record could be made: .*"),
    ):
        fit(touchy(masked(), "3/5"), run, resume=False)


def test_a_lack_of_memory_does_not_hide_the_divergence(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr(nan_report, "_find", fail)
    with (
        opened(tmp_path, InMemory(masked_batch)) as run,
        pytest.raises(DivergedError, match=r"no record could be made: Unable to allocate 3 GiB"),
    ):
        fit(touchy(masked(), "3/5"), run, resume=False)


def test_the_doctor_repeats_the_step_of_a_real_run(class_folders, tmp_path, capsys):
    """A learning rate that no model survives."""
    out = tmp_path / "run"
    command = ["tokenizer", "tiny", "--data", str(class_folders), "--out", str(out), "--workers",
               "0", "--device", "cpu", "--precision", "fp32", "--steps", "9", "--warmup-steps", "1",
               "--lr", "1e30", "--batch", "4", "--save-every", "1", "--quiet"]  # fmt: skip
    assert main(command) == 5
    told = capsys.readouterr().err
    (file,) = (out / "diverged").glob("*.safetensors")
    assert f"beit doctor replay {file}" in told
    where = read_record(file).where
    assert where in told
    assert main(["doctor", "replay", str(file)]) == 0
    assert f"first not finite is {where}\n" in capsys.readouterr().out
    assert main(["doctor", "replay", str(tmp_path / "x" / "nothing")]) == 4
