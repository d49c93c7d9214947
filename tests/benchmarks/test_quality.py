"""Time to quality: contestants learn, few labels are few, budgets are steps, marks are times."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from benchmarks.quality import budgets, contestant, peers, scenes, transfer
from benchmarks.quality.__main__ import SECONDS, main
from benchmarks.quality.budgets import Cost, Quality
from benchmarks.quality.scenes import Labelled

IMAGES = torch.randint(
    256, (8, 3, 80, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def trained(name: str, steps: int = 2) -> nn.Module:
    torch.manual_seed(0)
    method = peers.METHODS[name]()
    trainer = peers.Trainer(method, IMAGES, steps=steps, seed=0)
    assert all(math.isfinite(trainer.step()) for _ in range(steps))
    return method.backbone


@pytest.mark.parametrize("name", peers.METHODS)
def test_every_weight_of_the_backbone_learns_and_the_seed_decides(name):
    torch.manual_seed(0)
    before = dict(peers.plain_vit().named_parameters())
    after = dict(trained(name).named_parameters())
    unmoved = [key for key, value in after.items() if torch.equal(value, before[key])]
    assert set(unmoved) <= {"norm.bias"}
    again = dict(trained(name).named_parameters())
    assert all(torch.equal(value, again[key]) for key, value in after.items())


class Told(nn.Module):
    """Predicts what it was told."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, _features: torch.Tensor) -> torch.Tensor:
        return self.values


def test_mae_is_judged_by_hidden_patches_alone(monkeypatch):
    """A prediction that is right there, and wrong where patches are seen, has no error."""
    method = peers.MAE()
    views = peers.normalised(scenes.centre(IMAGES))
    wanted = peers.patch_pixels(views)
    spread = wanted.var(dim=2, keepdim=True) + 1e-6
    right = (wanted - wanted.mean(dim=2, keepdim=True)) / spread.sqrt()
    monkeypatch.setattr(scenes, "crops", lambda images, chance: scenes.centre(images))
    order = torch.rand(8, 64, generator=torch.Generator().manual_seed(5)).argsort(dim=1)
    seen = torch.zeros(8, 64, dtype=torch.bool).scatter(1, order[:, :16], True)
    for where, expected in ((seen, 0.0), (~seen, 100.0)):
        method.pixels = Told(torch.where(where[..., None], right + 10, right))
        loss = method.loss(IMAGES, torch.Generator().manual_seed(5))
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-3)


def test_the_teacher_of_dino_follows():
    torch.manual_seed(0)
    method = peers.DINO()
    before = [value.clone() for value in method.teacher.parameters()]
    trainer = peers.Trainer(method, IMAGES, steps=4, seed=0)
    trainer.step()
    moved = [not torch.equal(one, two) for one, two in
             zip(before, method.teacher.parameters(), strict=True)]  # fmt: skip
    assert sum(moved) > len(moved) / 2
    assert all(value.grad is None for value in method.teacher.parameters())


def labelled(each: int = 6) -> Labelled:
    targets = torch.arange(3).repeat(each)
    return Labelled(torch.arange(3 * each)[:, None], targets)


def test_few_labels_are_so_many_of_each_class_and_others_with_another_seed():
    few, same, other = (labelled().few(2, seed) for seed in (0, 0, 1))
    assert few.targets.bincount().tolist() == [2, 2, 2]
    assert torch.equal(few.images, same.images)
    assert not torch.equal(few.images, other.images)
    assert torch.equal(few.images[:, 0] % 3, few.targets)


def test_a_crop_is_part_of_its_image():
    ramp = torch.arange(80, dtype=torch.uint8).expand(32, 3, 80, 80)
    found = scenes.crops(ramp, torch.Generator().manual_seed(0)) * 255
    steps = found.diff(dim=3).round()
    assert set(steps.unique().tolist()) == {-1.0, 1.0}
    assert len(found[:, 0, 0].amin(dim=1).unique()) > 5


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("backbone.backbone.patch_embed.proj.weight", 0),
        ("backbone.backbone.cls_token", 0),
        ("backbone.backbone.blocks.4.norm1.bias", 5),
        ("backbone.backbone.norm.weight", math.inf),
        ("head.weight", math.inf),
    ],
)
def test_depths_for_layer_decay(name, depth):
    assert transfer.depth(name) == depth


def test_fine_tuning_learns_what_is_easy_and_leaves_the_backbone_as_it_was():
    """Black from white."""
    images = (torch.arange(64) % 2 * 255).to(torch.uint8)[:, None, None, None]
    easy = Labelled(images.expand(64, 3, 80, 80), torch.arange(64) % 2)
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = nn.Conv2d(3, 8, 32, 32)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.patch_embed(pixels).flatten(2).transpose(1, 2)

    backbone = Tokens()
    before = backbone.patch_embed.weight.clone()
    model = transfer.finetune(backbone, easy, steps=30, rate=1e-2, decay=0.75, seed=0)
    assert transfer.accuracy(model, easy) == 100
    assert torch.equal(backbone.patch_embed.weight, before)


def test_a_budget_is_a_number_of_steps():
    cost = Cost(start=30.0, step=0.5)
    assert cost.steps(150) == 240
    assert cost.steps(20) == 0


def test_the_time_of_a_mark_lies_between_two_budgets(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "prepare", lambda folder, quick: None)
    for seconds, reached in zip(SECONDS, (20.0, 40.0, 60.0, 60.0), strict=True):
        (tmp_path / f"MAE-{seconds}-0.json").write_text(json.dumps({"linear": reached}))
    quality = Quality(tmp_path)
    assert quality.until("MAE", SECONDS, 0, "linear", 10.0) == 150
    assert quality.until("MAE", SECONDS, 0, "linear", 40.0) == pytest.approx(300)
    assert quality.until("MAE", SECONDS, 0, "linear", 50.0) == pytest.approx(300 * math.sqrt(2))
    assert quality.until("MAE", SECONDS, 0, "linear", 61.0) == math.inf


def test_what_is_kept_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "prepare", lambda folder, quick: None)
    done = []
    monkeypatch.setattr(
        budgets, "run", lambda words: done.append(words) or '{"linear": 7.0, "fine-tuned": 8.0}\n'
    )
    for _ in range(2):
        assert Quality(tmp_path).accuracy("from scratch, timm", 150, 1) == {
            "linear": 7.0, "fine-tuned": 8.0,
        }  # fmt: skip
    assert len(done) == 1
    Quality(tmp_path).accuracy("from scratch, timm", 600, 1)
    assert len(done) == 1  # it does not use its time


def test_a_quick_run_shows_each_measure_of_each(capsys):
    assert main(["--quick", "--who", "SimCLR", "16 x 16 pixels", "--seconds", "300", "600"]) == 0
    shown = capsys.readouterr().out
    assert "| fine-tuned, top-1 in % | 300 s | 600 s |" in shown
    assert "| 16 x 16 pixels |" in shown.partition("| linear, top-1")[2]
    assert "| SimCLR | not reached, not reached |" in shown.partition("seconds until")[2]


def test_the_seconds_of_a_step_are_those_between_two_updates(monkeypatch):
    """Of any optimizer; a slow one and those of a tokenizer do not count."""
    now = iter([10.0, 10.1, 20.0, 20.5, 29.0, *(29.0 + number / 2 for number in range(1, 9))])
    monkeypatch.setattr(contestant.time, "process_time", lambda: next(now))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    found = contestant.timed(lambda: [optimizer.step() for _ in range(13)], 11)
    assert found == {"start": 19.5, "step": 0.5}
