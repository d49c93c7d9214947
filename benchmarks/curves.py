"""One pre-training with and without what makes it fast, on real images, seed by seed.

`python -m benchmarks.curves [--seeds N] [--steps N] [--folder FOLDER] [--control]`

Without: a plain loop in float32, eager, with the tokenizer in float32; the tokens of all places,
the last block and the head at all places, of which the masked are then taken; gradients clipped and
weights updated one tensor after the other; jitter in the loader, before the crop is resized. With:
`beit.pretrain` in bfloat16, blocks compiled, the tokenizer in half precision and channels last,
tokens, last block and head at the masked places only, a fused update, jitter on the device. Both
begin with the same weights, and draw the same images, crops, changes of colour and masks.

What comes out in the same place but for noise differs by less than seeds do: the distance of the
mean curves, over the spread of the single ones, is below 1. The control, the plain loop at half the
learning rate, shows that the measure tells curves apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import beit
from beit.batch import MaskedBatch, to_device
from beit.config import MaskedConfig, PretrainRunConfig, ViewConfig
from beit.masked_patches import MaskedPatches
from beit.models.heads import MaskedImageModel
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.targets import TokenTargets
from beit.recipes import demo
from beit.rng import SampleRNG
from beit.studies.tiles import make_tiles
from beit.tasks.execution import open_loader
from beit.tasks.inputs import Inputs
from beit.tasks.pretraining import prepare
from beit.tokenizers.base import VisualTokenizer
from beit.training.distributed import start_processes
from beit.training.optim import learning_rate, weight_decay

WINDOW = 20
"""Steps whose losses are averaged to a point of a smoothed curve."""
STRIDE = 20
"""Pixels from tile to tile."""

Curves = np.ndarray
"""Losses [seeds, steps]."""


class Compared(NamedTuple):
    """Two sets of smoothed curves, one beside the other; all in nats."""

    distance: float
    """Between the mean curves: root mean square over the windows."""
    spread: float
    """Standard deviation over the seeds: root mean square over the windows and both sets."""
    last: tuple[float, float]
    """Mean loss of the last window, one and the other."""

    @property
    def ratio(self) -> float:
        """Below 1: they differ less than seeds do."""
        return self.distance / self.spread


def compare(one: Curves, other: Curves, window: int = WINDOW) -> Compared:
    """How far apart the two are, and how far apart the seeds of either."""
    first, second = (smoothed(curves, window) for curves in (one, other))
    away = first.mean(axis=0) - second.mean(axis=0)
    variances = [curves.var(axis=0, ddof=1).mean() for curves in (first, second)]
    return Compared(
        distance=float(np.sqrt((away**2).mean())),
        spread=float(np.sqrt(np.mean(variances))),
        last=(float(first[:, -1].mean()), float(second[:, -1].mean())),
    )


def smoothed(curves: Curves, window: int) -> Curves:
    """The mean of each window; steps that fill none are left out."""
    windows = curves.shape[1] // window
    means: Curves = curves[:, : windows * window].reshape(len(curves), windows, window).mean(axis=2)
    return means


class EveryToken(TokenTargets):
    """The tokens of all places, from which the masked ones are chosen."""

    def _encoded(self, batch: MaskedBatch, masked: MaskedPatches | None) -> Tensor:
        assert masked is not None
        return self.tokenizer.encode(batch.token_images)[masked.mask]


class EveryPlace(MaskedImageModeling):
    """The same objective as it is usually written: all places are computed, then chosen from."""

    def __init__(
        self, model: MaskedImageModel, config: MaskedConfig, tokenizer: VisualTokenizer
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.tokens = EveryToken(tokenizer, torch.float32, None)

    def predict(
        self, batch: MaskedBatch, masked: MaskedPatches
    ) -> Sequence[Float[Tensor, "rows outputs"]]:
        chosen = masked.mask.flatten()
        return [rows[chosen] for rows in self.model.predictions(batch.images, masked, True)]


def plain_losses(config: PretrainRunConfig) -> Iterator[float]:
    """The losses of the plain loop, step by step."""
    config = replace(config, tokenizer_precision="fp32")
    training = config.training
    processes = start_processes(training)
    task = prepare(config, processes, Inputs())
    prepared = task.objective
    assert isinstance(prepared, MaskedImageModeling)
    model = prepared.model
    assert isinstance(model, MaskedImageModel)
    assert prepared.tokenizer is not None
    objective = EveryPlace(model, MaskedConfig(), prepared.tokenizer).to(processes.device)
    bare = objective.without_decay()
    named = list(model.named_parameters())
    groups = [
        {"params": [parameter for name, parameter in named if (name in bare) == left_alone]}
        for left_alone in (False, True)
    ]
    optimizer = torch.optim.AdamW(
        groups, betas=training.betas, eps=training.epsilon, foreach=False, fused=False
    )
    loader = open_loader(task, processes)
    for step, batch in enumerate(loader.batches(0, training.steps)):
        objective.train().draw(SampleRNG(training.seed, step, 0), len(batch.keys), processes.device)
        for group, decay in zip(
            optimizer.param_groups, (weight_decay(step, training), 0.0), strict=True
        ):
            group["lr"], group["weight_decay"] = learning_rate(step, training), decay
        loss = objective(to_device(batch, processes.device), step / training.steps).total
        optimizer.zero_grad()
        loss.backward()
        assert training.clip is not None
        nn.utils.clip_grad_norm_(model.parameters(), training.clip, foreach=False)
        optimizer.step()
        yield loss.item()


def fast_losses(config: PretrainRunConfig) -> list[float]:
    """The losses of a run with all that makes it fast."""
    training = replace(config.training, precision="bf16", compile="blocks")
    views = replace(config.views, pipeline="fast")
    run = beit.pretrain(
        replace(config, training=training, views=views, tokenizer_precision="bf16"),
        quiet=True,
        report=False,
    )
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if row["kind"] == "train"]


def configured(images: str, tokenizer: str, out: Path, steps: int, seed: int) -> PretrainRunConfig:
    """The demo's backbone and masks, with crops that are resized and colours that change."""
    plan = demo.pretrain()
    return replace(
        plan,
        data=images,
        tokenizer=tokenizer,
        out=str(out),
        accept_collapsed=True,
        knn_images=0,
        model=replace(plan.model, drop_path=0.1),
        views=ViewConfig(crop_scale=(0.3, 1.0), symmetry="all"),
        training=replace(
            plan.training,
            steps=steps,
            batch=32,
            warmup_steps=steps // 10,
            seed=seed,
            log_every=1,
            evaluate_every=0,
            save_every=steps,
        ),
    )


def trained_tokenizer(folder: Path, images: str, steps: int) -> str:
    """The demo's tokenizer after fewer steps; one that lies there already is used again."""
    place = folder / "tokenizer"
    if not (place / "model").is_dir():
        plan = demo.dvae()
        training = replace(plan.training, steps=steps, warmup_steps=steps // 10)
        config = replace(plan, data=images, out=str(place), training=training)
        beit.tokenizer(config, quiet=True, report=False)
    return str(place)


class Measured(NamedTuple):
    """Losses [seeds, steps] of each kind of run."""

    plain: Curves
    fast: Curves
    control: Curves | None
    """The plain loop at half the learning rate."""


def measure(
    folder: Path, *, seeds: int, steps: int, tokenizer_steps: int, control: bool
) -> Measured:
    """Train each kind of run with each seed."""
    made = make_tiles(folder / "tiles", stride=STRIDE, labelled_stride=1000)
    print(f"{made['unlabelled']} images", flush=True)
    images = str(folder / "tiles" / "unlabelled")
    tokenizer = trained_tokenizer(folder, images, tokenizer_steps)
    curves: dict[str, list[list[float]]] = {"plain": [], "fast": [], "control": []}
    for seed in range(seeds):
        config = configured(images, tokenizer, folder / f"fast-{seed}", steps, seed)
        curves["plain"].append(list(plain_losses(config)))
        curves["fast"].append(fast_losses(config))
        if control:
            halved = replace(config.training, lr=config.training.lr / 2)
            curves["control"].append(list(plain_losses(replace(config, training=halved))))
        last = {kind: f"{runs[-1][-1]:.3f}" for kind, runs in curves.items() if runs}
        print(f"seed {seed}: last losses {last}", flush=True)
    return Measured(
        np.array(curves["plain"]),
        np.array(curves["fast"]),
        np.array(curves["control"]) if control else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--tokenizer-steps", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="where runs are kept; elsewhere they are not")
    parser.add_argument("--control", action="store_true", help="the control, too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(
            asked.folder or Path(temporary),
            seeds=asked.seeds,
            steps=asked.steps,
            tokenizer_steps=asked.tokenizer_steps,
            control=asked.control,
        )
    for kind, curves in (("fast", measured.fast), ("control", measured.control)):
        if curves is not None:
            found = compare(measured.plain, curves)
            print(
                f"plain against {kind}: distance {found.distance:.4f}, spread {found.spread:.4f}, "
                f"ratio {found.ratio:.2f}; last window {found.last[0]:.3f} and {found.last[1]:.3f}"
            )


if __name__ == "__main__":
    main()
