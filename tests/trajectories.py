"""The recorded steps of the official engines, replayed through the real update on any device.

The records hold what the official `run_beit_pretraining`, its second version and
`run_class_finetuning` did with tiny models: weights before and after, images, tokens and masks (or
labels), losses, gradient norms, learning rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

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
from beit.training.distributed import Processes
from beit.training.update import Updater
from miniature import PLAIN, Told
from reference import Tensors, from_published

AGGREGATION = "backbone.cls_pt_layers."

Started = tuple[Updater, Callable[[int], Batch]]
"""What updates, and the batch of a step."""


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
        **{name: settings[name] for name in names}, precision="fp32", compile="off", **options
    )


def pretraining(facts: dict[str, Any], device: torch.device) -> Started:
    settings = facts["settings"]
    tap = settings["aggregation_tap"]
    model = MaskedImageModel(
        backbone(settings), settings["codes"], AggregationConfig(early_layer=tap) if tap else None
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

    return Updater(objective, config, Processes(0, 1, device), print), batch


def finetuning(facts: dict[str, Any], device: torch.device) -> Started:
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

    return Updater(objective, config, Processes(0, 1, device), print), batch


def replayed(updater: Updater, batch: Callable[[int], Batch], steps: int) -> Replay:
    losses, norms, rates = [], [], []
    for step in range(steps):
        updated = updater.update(step, iter([batch(step)]))
        terms = updated.terms
        losses.append(float(terms["loss"]) + float(terms.get("aggregation_loss", 0.0)))
        norms.append(float(terms["grad_norm"]))
        rates.append(updated.rate)
    return Replay(losses, norms, rates)


RECORDS = {
    "trajectory_pretrain_rel": pretraining,
    "trajectory_pretrain_v2": pretraining,
    "trajectory_finetune_rel": finetuning,
}
