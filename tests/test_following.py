"""Options that hang together: what follows, what stays, and what the log says of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import beit
from beit import cli
from beit.config import FinetuneRunConfig, PretrainRunConfig, SegmentRunConfig, TokenizerRunConfig
from beit.config.following import SHORT, followed
from beit.config.tree import by_name, override
from beit.errors import ConfigError, RunFolderError
from beit.recipes import RECIPES, find_recipe
from beit.training.run_folder import RunFolder, read_run_config

PRETRAIN = find_recipe("pretrain", "small", PretrainRunConfig)
QUICK = {"workers": 0, "device": "cpu", "precision": "fp32", "quiet": True, "report": False}


@pytest.mark.parametrize(("verb", "name"), [(v, n) for v, names in RECIPES.items() for n in names])
@pytest.mark.parametrize("options", [{"steps": 7}, {"lr": 1e-7}, {"channels": 1}, {"channels": 5}])
def test_one_option_is_enough_in_every_recipe(verb, name, options):
    config = RECIPES[verb][name]()
    if {*options} <= by_name(config).keys():
        changed = by_name(override(config, options))
        assert options.items() <= changed.items()


def test_a_warm_up_follows_a_shorter_run_and_stays_with_a_longer_one():
    fraction = PRETRAIN.training.warmup_steps / PRETRAIN.training.steps
    assert override(PRETRAIN, {"steps": 1_000}).training.warmup_steps == int(1_000 * fraction)
    longer = override(PRETRAIN, {"steps": 10 * PRETRAIN.training.steps})
    assert longer.training.warmup_steps == PRETRAIN.training.warmup_steps


def test_what_is_given_does_not_follow():
    config = find_recipe("finetune", "small", FinetuneRunConfig)
    given = {"channels": 4, "mean": (0.1, 0.2, 0.3, 0.4), "steps": 100, "warmup_steps": 50}
    changed = override(config, given)
    assert by_name(changed).items() >= given.items()
    assert changed.model.std == (0.5,) * 4
    assert changed.augment.rand_augment == ""
    assert override(config, {"channels": 3}) == config


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf"), 0.0])
def test_the_option_that_was_given_is_to_blame(lr):
    with pytest.raises(ConfigError) as caught:
        override(PRETRAIN, {"lr": lr})
    assert caught.value.problem.startswith(f"lr is {lr}")


def test_statistics_that_differ_between_channels_are_not_those_of_others():
    published = find_recipe("pretrain", "base-in1k", PretrainRunConfig)
    assert override(published, {"channels": 1}).model.mean == (0.5,)


def test_what_follows_is_said():
    config = find_recipe("finetune", "small", FinetuneRunConfig)
    now = by_name(override(config, {"channels": 1, "steps": 3_000}))
    assert list(followed(by_name(config), now)) == [
        "as steps is 3000, warmup_steps is 300, average is 0.9983, unless set by an option of that "
        "name",
        "as channels is 1, mean is (0.5,), std is (0.5,), rand_augment is off, unless set by an "
        "option of that name",
    ]
    assert not list(followed(by_name(config), by_name(config)))


MILD = {"mixup": 0.0, "cutmix": 0.0, "erasing": 0.0, "rand_augment": "", "crop_scale": (0.4, 1.0)}


def test_a_run_that_becomes_short_has_mild_augmentation():
    config = find_recipe("finetune", "small", FinetuneRunConfig)
    assert by_name(override(config, {"steps": SHORT})).items() >= MILD.items()
    assert override(config, {"steps": SHORT + 1}).augment == config.augment
    kept = by_name(override(config, {"steps": 300, "mixup": 0.2}))
    assert kept.items() >= (MILD | {"mixup": 0.2}).items()
    short = override(config, {"steps": 300, "crop_scale": (0.1, 1.0)})
    assert override(short, {"steps": 200}).augment == short.augment  # it was short before
    views = find_recipe("pretrain", "small", PretrainRunConfig).views
    assert override(PRETRAIN, {"steps": 300}).views == views


@pytest.mark.parametrize(("steps", "average"), [(5, None), (10, 0.5), (500, 0.99), (9_000, 0.999)])
def test_an_average_forgets_the_initial_weights_of_a_short_run(steps, average):
    config = find_recipe("segment", "small", SegmentRunConfig)
    assert override(config, {"steps": steps}).training.average == average


def test_a_shorter_run_is_refused_as_shorter_whatever_follows_its_steps(tmp_path):
    config = override(find_recipe("finetune", "small", FinetuneRunConfig), {"out": "run"})
    folder = RunFolder(tmp_path / "run")
    folder.open(config, resume=False)
    folder.close()
    with pytest.raises(RunFolderError, match="longer but not shorter"):
        folder.check_resumable(override(config, {"steps": 300}))


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """Two classes of grey images."""
    root = tmp_path_factory.mktemp("grey")
    chance = np.random.default_rng(0)
    for name, scale in (("coarse", 8), ("fine", 2)):
        (root / name).mkdir()
        for number in range(8):
            cells = chance.integers(0, 256, (32 // scale, 32 // scale), dtype=np.uint8)
            pixels = np.kron(cells, np.ones((scale, scale), np.uint8))
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_one_channel_takes_one_option(grey, tmp_path, capsys):
    """Once three errors in a row: mean, std, RandAugment."""
    out = tmp_path / "run"
    words = [
        "finetune", "tiny", "--data", str(grey), "--out", str(out), "--channels", "1",
        "--steps", "2", "--batch", "4", "--workers", "0", "--device", "cpu",
    ]  # fmt: skip
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "note: as channels is 1, " in told
    assert "rand_augment is off" in told
    config = read_run_config(out)
    assert isinstance(config, FinetuneRunConfig)
    assert (config.model.mean, config.training.warmup_steps) == ((0.5,), 0)
    assert cli.main(["predict", str(out), str(grey / "fine" / "0.png")]) == 0
    # No option where the channels are those of the model to start from.
    again = [*words, "--init", str(out), "--out", str(tmp_path / "again")]
    again.remove("--channels")
    again.remove("1")
    assert cli.main(again) == 0
    assert by_name(read_run_config(tmp_path / "again"))["rand_augment"] == ""


def test_a_run_goes_on_with_what_it_recorded(grey, tmp_path):
    """Nothing but the place has to be said again, and a longer run keeps the warm-up it had."""
    out = str(tmp_path / "run")
    first = {"data": str(grey), "out": out, "batch": 4, "seed": 3, "held_out": 0.0}
    beit.tokenizer("tiny", **first, steps=2, **QUICK)
    begun = read_run_config(RunFolder(tmp_path / "run").path)
    assert cli.main(["tokenizer", "--out", out, "--resume", "--steps", "4", "--quiet"]) == 0
    config = read_run_config(tmp_path / "run")
    assert isinstance(config, TokenizerRunConfig)
    assert config.training.steps == 4
    assert config.training.seed == 3
    assert config.training.warmup_steps == begun.training.warmup_steps
    with pytest.raises(beit.errors.RunFolderError, match="recipe: tiny -> small"):
        beit.tokenizer("small", data=str(grey), out=out, resume=True)
