"""One contestant, from images without labels to accuracies.

`python -m benchmarks.quality.contestant WHO STEPS SEED FOLDER` in a process of its own, so that
what it switches in other libraries stays there, prints them as JSON; with `train` in the place of
SEED it only trains, and prints the CPU seconds that a step takes.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from beit.evaluation.baselines import HISTOGRAM, PIXELS, colour_histogram, thumbnail
from beit.evaluation.metrics import fraction_right
from beit.evaluation.probe import linear_answers
from benchmarks.quality import ours, peers, scenes, transfer

SCRATCH = "from scratch, timm"
FEATURES = {HISTOGRAM: colour_histogram, PIXELS: thumbnail}
BASELINES = (SCRATCH, *FEATURES)
LEARNERS = (*ours.OBJECTIVES, *peers.METHODS)
LABELS = 10
"""Labels per class."""
UPDATES = 800
"""Of fine-tuning."""
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


class Tokens(nn.Module):
    """A backbone of timm as the benchmark uses all: floats in [0, 1] to tokens."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.backbone.forward_features(peers.normalised(images))
        return tokens


def learn(who: str, folder: Path, *, steps: int, seed: int, quick: bool = False) -> nn.Module:
    """The backbone that a learner has after so many steps; untrained for the others."""
    torch.manual_seed(seed)
    if who in ours.OBJECTIVES:
        with tempfile.TemporaryDirectory() as out:
            return ours.pretrain(
                who,
                folder / "unlabelled",
                Path(out),
                steps=steps,
                seed=seed,
                quick=quick,
            )
    if who not in peers.METHODS:
        return Tokens(peers.plain_vit()).eval()
    method = peers.METHODS[who]()
    trainer = peers.Trainer(method, scenes.unlabelled(folder), steps=steps, seed=seed)
    for _ in range(steps):
        trainer.step()
    return Tokens(method.backbone).eval()


def timed(train: Callable[[], object], number: int) -> dict[str, float]:
    """CPU seconds before the first of so many steps, the last of the training, and of a step: a
    quick one, the tenth of a hundred, since others on the machine only make them slower."""
    ends: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(time.process_time()))
    train()
    hook.remove()
    ends = ends[-number:]  # before them, a tokenizer may have been trained
    steps = sorted(later - end for end, later in itertools.pairwise(ends))
    step = steps[len(steps) // 10]
    return {"start": ends[0] - step, "step": step}


def compete(
    who: str, folder: Path, *, steps: int, seed: int, quick: bool = False
) -> dict[str, Any]:
    """Top-1 on test in per cent: fine-tuned, and frozen under a linear classifier, both with few
    labels. Rates, penalty and which token is read are chosen on validation."""
    splits = scenes.labelled(folder)
    few = splits["train"].few(LABELS, seed)
    known = {"few": few, "val": splits["val"], "test": splits["test"]}
    if who in FEATURES:
        compute = FEATURES[who]
        return {"linear": _linear({who: {k: compute(of.images) for k, of in known.items()}}, known)}
    backbone = learn(who, folder, steps=steps, seed=seed, quick=quick)
    frozen = {name: transfer.frozen(backbone, of.images) for name, of in known.items()}
    by_token = {token: {k: of[token] for k, of in frozen.items()} for token in frozen["few"]}
    pretrained = who != SCRATCH
    tried = []
    rates = (1e-3, 2e-3) if pretrained else (5e-4, 1e-3, 2e-3)
    for rate in rates[:1] if quick else rates:
        model = transfer.finetune(
            backbone,
            few,
            steps=1 if quick else UPDATES,
            rate=rate,
            decay=0.75 if pretrained else 1.0,
            seed=seed,
        )
        score = transfer.accuracy(model, known["val"])
        tried.append((score, rate, transfer.accuracy(model, known["test"])))
    _, rate, accuracy = max(tried)
    return {
        "linear": _linear(by_token, known),
        "fine-tuned": accuracy,
        "rate": rate,
        "steps": steps,
    }


def _linear(features: dict[str, dict[str, Tensor]], known: dict[str, scenes.Labelled]) -> float:
    """Logistic regression."""

    def score(name: str, penalty: float, part: str) -> float:
        of, targets = features[name], known["few"].targets
        answers = linear_answers(of["few"], targets, of[part], penalty=penalty)
        return 100 * fraction_right(answers, known[part].targets)

    choices = [(name, penalty) for name in features for penalty in PENALTIES]
    name, penalty = max(choices, key=lambda choice: score(choice[0], choice[1], "val"))
    return score(name, penalty, "test")


def main(who: str, steps: str, seed: str, folder: str) -> None:
    """Train for a number of steps; with a seed, also measure."""
    import timm

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    timm.layers.set_fused_attn(False)  # fused, it costs twice as much on a CPU in bfloat16
    if seed == "train":
        print(
            json.dumps(
                timed(lambda: learn(who, Path(folder), steps=int(steps), seed=0), int(steps))
            )
        )
        return
    print(json.dumps(compete(who, Path(folder), steps=int(steps), seed=int(seed))))


if __name__ == "__main__":
    main(*sys.argv[1:])
