"""Training equals the official engines: their 12 steps, replayed through the real update.

The records hold what the official `run_beit_pretraining`, its second version and
`run_class_finetuning` did with tiny models: weights before and after, images, tokens and masks (or
labels), losses, gradient norms, learning rates. Losses, norms, weights and the average must agree
to 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from beit.batch import Batch, LabelledBatch, MaskedBatch
from beit.config import (
    AggregationConfig,
    HeadConfig,
    MaskedConfig,
    TrainingConfig,
    VisionTransformerConfig,
)
from beit.models.heads import Classifier, MaskedImageModel
from beit.objectives.classify import Classification
from beit.objectives.masked import MaskedImageModeling
from beit.training.schedule import weight_decay
from beit.training.update import Updater
from miniature import CPU, PLAIN, Told
from reference import Tensors, assert_same, from_published

TOLERANCE = 1e-5
AGGREGATION = "backbone.cls_pt_layers."


class Replay(NamedTuple):
    """What was measured while a record was replayed."""

    losses: list[float]
    norms: list[float]
    rates: list[float]


def ours(published: Tensors) -> Tensors:
    """Our names for the weights of a record."""
    return {
        name.replace(AGGREGATION, "aggregation.blocks."): value
        for name, value in from_published(published).items()
    }


def backbone(settings: dict[str, Any], **options: Any) -> VisionTransformerConfig:
    return VisionTransformerConfig(
        size=(settings["size"],) * 2,
        patch=settings["patch"],
        width=settings["width"],
        depth=settings["depth"],
        heads=settings["heads"],
        hidden=4 * settings["width"],
        layer_scale=settings["layer_scale"],
        relative_position=settings["relative"],
        absolute_position=settings["absolute"],
        **options,
    )


def training(settings: dict[str, Any], **options: Any) -> TrainingConfig:
    names = ("steps", "batch", "lr", "min_lr", "warmup_steps", "weight_decay", "clip")
    return TrainingConfig(
        **{name: settings[name] for name in names}, precision="fp32", device="cpu", **options
    )


def pretraining(facts: dict[str, Any]) -> tuple[Updater, Callable[[int], Batch]]:
    settings = facts["settings"]
    tap = settings["aggregation_tap"]
    model = MaskedImageModel(
        backbone(settings), settings["codes"], AggregationConfig(tap=tap) if tap else None
    )
    model.load_state_dict(ours(facts["before"]))
    tokens = Told(facts["tokens"][0], codes=settings["codes"], size=(8, 8), stride=2)
    config = training(
        settings,
        betas=settings["betas"],
        epsilon=settings["eps"],
        final_weight_decay=settings["final_weight_decay"],
    )
    objective = MaskedImageModeling(model, MaskedConfig(), tokens)

    def batch(step: int) -> Batch:
        tokens.tokens = facts["tokens"][step]
        keys = tuple(map(str, range(settings["batch"])))
        small = torch.zeros(settings["batch"], 3, 8, 8, dtype=torch.uint8)
        return MaskedBatch(facts["images"][step], small, facts["masks"][step], keys)

    return Updater(objective, config, CPU, print), batch


def finetuning(facts: dict[str, Any]) -> tuple[Updater, Callable[[int], Batch]]:
    settings = facts["settings"]
    shape = backbone(settings, mask_token=False)
    model = Classifier(shape, settings["classes"], HeadConfig(pooling=settings["pooling"]))
    model.load_state_dict(ours(facts["before"]))
    augment = replace(PLAIN, smoothing=settings["smoothing"])
    config = training(settings, layer_decay=settings["layer_decay"], average=settings["average"])
    objective = Classification(model, augment, classes=settings["classes"])

    def batch(step: int) -> Batch:
        keys = tuple(map(str, range(settings["batch"])))
        return LabelledBatch(facts["images"][step], facts["labels"][step], keys)

    return Updater(objective, config, CPU, print), batch


def replayed(updater: Updater, batch: Callable[[int], Batch], steps: int) -> Replay:
    losses, norms, rates = [], [], []
    for step in range(steps):
        updated = updater.update(step, iter([batch(step)]))
        terms = updated.terms
        losses.append(float(terms["loss"]) + float(terms.get("aggregation_loss", 0.0)))
        norms.append(float(terms["grad_norm"]))
        rates.append(updated.rate)
    return Replay(losses, norms, rates)


def close(measured: list[float], recorded: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(
        torch.tensor(measured, dtype=torch.float64), recorded, atol=tolerance, rtol=tolerance
    )


RECORDS = {
    "trajectory_pretrain_rel": pretraining,
    "trajectory_pretrain_v2": pretraining,
    "trajectory_finetune_rel": finetuning,
}


@pytest.mark.parametrize("record", RECORDS)
def test_twelve_steps_of_the_official_engine(golden, record):
    facts = golden(record)
    settings = facts["settings"]
    updater, batch = RECORDS[record](facts)
    measured = replayed(updater, batch, settings["steps"])
    close(measured.rates, facts["learning_rates"], 1e-12)
    close(measured.losses, facts["losses"])
    close(measured.norms, facts["grad_norms"])
    if "weight_decays" in facts:
        decays = [weight_decay(step, updater.config) for step in range(settings["steps"])]
        close(decays, facts["weight_decays"], 1e-12)
    assert_same(dict(updater.objective.model.state_dict()), ours(facts["after"]), TOLERANCE)
    if "average" in facts:
        average = updater.weights.average
        assert average is not None
        assert_same(dict(average.module.state_dict()), ours(facts["average"]), TOLERANCE)


@pytest.mark.parametrize("record", RECORDS)
def test_the_weights_of_a_record_move(golden, record):
    """A replay that did nothing could not pass: every learned weight differs after 12 steps."""
    facts = golden(record)
    before, after = ours(facts["before"]), ours(facts["after"])
    moved = [float((after[name] - before[name]).abs().max()) for name in before]
    assert min(moved) > 10 * TOLERANCE
