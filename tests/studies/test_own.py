"""The study of one's own images: parts and groups, and the sentence at the end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from beit.cli import main
from beit.errors import ConfigError, DataError
from beit.evaluation.baselines import TRIVIAL
from beit.recipes.studies import OWN_ARMS, SCRATCH, StudyPlan, own
from beit.studies.own import conclude, lay_out, study_own
from beit.studies.results import Score


def brief() -> StudyPlan:
    """Two steps of everything, seen at 16 pixels."""
    plan = own(16)
    model = replace(plan.pretrain.model, width=16, depth=2, heads=2, hidden=32)

    def short(run):
        training = replace(
            run.training, steps=2, batch=4, warmup_steps=0, save_every=2, evaluate_every=0
        )
        return replace(run, training=training)

    kmeans = short(plan.tokenizers["kmeans"])
    return replace(
        plan,
        tokenizers={"kmeans": replace(kmeans, tokenizer=replace(kmeans.tokenizer, codes=8))},
        pretrain=replace(short(plan.pretrain), model=model),
        finetune=replace(
            short(plan.finetune),
            model=replace(plan.finetune.model, width=16, depth=2, heads=2, hidden=32),
        ),
        labels=(2, 0),
        searched=2,
        rates=(1e-3,),
        decays=(1.0,),
        seeds=1,
        draws=1,
    )


def test_it_ends_with_an_answer(class_folders, trained, tmp_path):
    verdict = study_own(
        tmp_path / "study", brief(), str(class_folders), init=str(trained.pretrained)
    )
    assert verdict.count("it does") + verdict.count("it pays") == 4
    assert "With 2 labels per class, pre-trained here reaches" in verdict
    assert "With all labels per class, released reaches" in verdict
    rows = json.loads((tmp_path / "study" / "results.json").read_text())
    arms = {row["arm"] for row in rows}
    assert arms == {
        SCRATCH, "pre-trained here", "released", "untrained", "chance", *TRIVIAL
    }  # fmt: skip
    assert verdict in (tmp_path / "study" / "results.md").read_text()
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Does pre-training pay here?" in page
    assert "What next" in page
    assert f"beit finetune --data {tmp_path / 'study' / 'data'}" in page


def test_images_are_held_out_class_by_class_and_keep_their_part(class_folders, tmp_path):
    groups = lay_out(tmp_path / "data", str(class_folders), "", own().finetune.reading)
    for part, number in (("train", 8), ("val", 2), ("test", 2)):
        for name in ("disc", "stripes", "tiles"):
            found = list((tmp_path / "data" / part / name).iterdir())
            assert len(found) == number
            assert all(path.is_symlink() and path.exists() for path in found)
    assert len(set(groups.values())) == len(groups) == 36
    again = lay_out(tmp_path / "again", str(tmp_path / "data"), "", own().finetune.reading)
    assert len(again) == 36
    assert len(list((tmp_path / "again" / "test").rglob("*.png"))) == 6


def test_groups_stay_together(class_folders, tmp_path):
    """By the first digit of the number: three groups of which none is divided."""
    groups = lay_out(tmp_path, str(class_folders), "([0-9])[0-9]", own().finetune.reading)
    assert set(groups.values()) == {"0", "1"}
    found = {
        part: {path.name.rpartition("__")[2][0] for path in (tmp_path / part).rglob("*.png")}
        for part in ("train", "val", "test")
    }
    assert not found["train"] & (found["val"] | found["test"])


@pytest.mark.parametrize(("groups", "error"), [("(", ConfigError), ("patient", DataError)])
def test_a_pattern_that_finds_nothing_is_refused(class_folders, tmp_path, groups, error):
    with pytest.raises(error, match=r"pattern|has no group"):
        lay_out(tmp_path, str(class_folders), groups, own().finetune.reading)


def test_too_few_images_are_refused_before_training(class_folders, tmp_path, capsys):
    words = ["study", "own", "--data", str(class_folders), "--out", str(tmp_path / "study")]
    assert main([*words, "--labels", "5", "20"]) == DataError.exit_code
    printed = capsys.readouterr().err
    assert "fewer than 20" in printed
    assert "or use --labels " in printed
    assert not (tmp_path / "study" / "tokenizer").exists()


def test_a_length_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="length is 0"):
        brief().scaled(0.0)


def test_options_say_which_folders_are_the_classes(class_folders, tmp_path, capsys):
    for site in ("north", "south"):
        shutil.copytree(class_folders, tmp_path / "data" / site)
    words = ["study", "own", "--data", str(tmp_path / "data"), "--labels", "5", "90"]
    assert main([*words, "--out", str(tmp_path / "one")]) != 0
    assert "--class-level" in capsys.readouterr().err
    words += ["--class-level", "2", "--out", str(tmp_path / "other")]
    assert main(words) == DataError.exit_code
    assert "fewer than 90" in capsys.readouterr().err


def even(value: float) -> Score:
    chance = np.random.default_rng(int(value))
    return Score(value + chance.standard_normal((2, 2, 50)), range(50))


def test_the_sentence_follows_the_intervals():
    def said(scratch: float, start: float, trivial: float) -> str:
        scores = {(row, "linear, 5 labels"): even(trivial) for row in TRIVIAL}
        scores |= {
            (arm.name, "fine-tuned, 5 labels"): even(value)
            for arm, value in zip(OWN_ARMS, (scratch, start), strict=True)
        }
        return conclude(scores, OWN_ARMS, [5])

    assert "it pays here (" in said(40, 60, 30)
    assert "pays here, but trivial features do about as well" in said(40, 60, 70)
    assert "does not clearly pay here" in said(50, 50, 30)
    assert "does harm here" in said(60, 40, 30)
