"""The study of targets on made-up images: every stage once, every target with every seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from beit.errors import RunFolderError
from beit.models.heads import MaskedImageModel
from beit.recipes.demo import Budget
from beit.recipes.studies import TokenizersPlan, tokenizers
from beit.studies import stages, tiles
from beit.studies.targets import (
    TARGETS,
    UNTRAINED,
    Target,
    TokenizersStudy,
    targets_as_markdown,
)
from beit.weights.store import load_artifact


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two climates in stripes; all else is sea."""
    climate = np.zeros((2700, 5400), np.uint8)
    climate[150:1650] = 1 + (np.arange(1500) // 150 % 2)[:, None]
    climate[:, 2100:] = 0
    pixels = np.repeat(climate[..., None] * np.uint8(80), 3, axis=2)
    monkeypatch.setattr(tiles, "read_map", lambda class_of: (pixels, climate))


def brief() -> TokenizersPlan:
    plan = tokenizers()
    short = {"steps": 2, "warmup_steps": 1, "batch": 4}
    model = replace(plan.pretrain.model, width=32, depth=2, heads=2, hidden=64)
    return replace(
        plan,
        dvae=replace(plan.dvae, training=replace(plan.dvae.training, **short)),
        vq=replace(plan.vq, training=replace(plan.vq.training, **short)),
        vqkd=replace(plan.vqkd, training=replace(plan.vqkd.training, **short)),
        pretrain=replace(
            plan.pretrain, model=model, training=replace(plan.pretrain.training, **short)
        ),
        finetune=replace(
            plan.finetune,
            model=replace(plan.finetune.model, width=32, depth=2, heads=2, hidden=64),
            training=replace(plan.finetune.training, batch=4),
        ),
        budget=Budget(per_class=2, steps=10, seeds=2, pretrained_lr=1e-3, scratch_lr=2e-3),
        stride=70,
        labelled_stride=70,
    )


def test_every_stage_is_done_once(
    world: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    rows = TokenizersStudy(folder, brief()).run()
    assert tuple(row.target for row in rows) == TARGETS
    for row in rows:
        scores = (*row.neighbours, *row.linear, *row.finetuned)
        assert len(scores) == 6
        assert all(0 <= score <= 100 for score in scores)
        assert (row.codes is not None) == (row.target in TARGETS[:3])
    assert json.loads((folder / "results.json").read_text()) == [row._asdict() for row in rows]
    teacher = json.loads((folder / "tokenizer" / "vqkd" / "config.json").read_text())["teacher"]
    assert teacher == str(folder / "pretrain" / "dvae-tokens-0")
    outputs = {
        path.name: load_artifact(path).model.outputs
        for path in (folder / "pretrain").iterdir()
        if isinstance(load_artifact(path).model, MaskedImageModel)
    }
    assert len(outputs) == 12
    assert outputs["random-projection-tokens-1"] == outputs["vq-kd-tokens-0"] == 128
    assert outputs["raw-pixels-0"] == 8 * 8 * 3

    def never(*_: object, **__: object) -> None:
        raise AssertionError("this was done before")

    for verb in ("tokenizer", "pretrain", "finetune", "evaluate"):
        monkeypatch.setattr(stages.tasks, verb, never)
    assert TokenizersStudy(folder, brief()).run() == rows
    table = (folder / "results.md").read_text().splitlines()
    assert table == targets_as_markdown(rows).splitlines()
    assert len(table) == 2 + len(TARGETS)
    assert all(line.count("|") == 6 for line in table)


def test_the_table_tells_means_spreads_and_differences_of_pairs() -> None:
    rows = [
        Target("VQ tokens", 16.4, [30.0, 34.0], [50.0, 40.0], [20.0, 20.0]),
        Target(UNTRAINED, None, [27.0, 31.0], [44.0, 38.0], [22.0, 20.0]),
    ]
    assert targets_as_markdown(rows).splitlines()[2:] == [
        "| VQ tokens | 16 | 32.0 ± 2.8 (+3.0 ± 0.0) | 45.0 ± 7.1 (+4.0 ± 2.8) "
        "| 20.0 ± 0.0 (-1.0 ± 1.4) |",
        f"| {UNTRAINED} |  | 29.0 ± 2.8 | 41.0 ± 4.2 | 21.0 ± 1.4 |",
    ]


def test_another_plan_needs_another_folder(tmp_path: Path) -> None:
    TokenizersStudy(tmp_path, brief())
    with pytest.raises(RunFolderError, match="another length or version"):
        TokenizersStudy(tmp_path, replace(brief(), stride=71))
