"""A task of one's own for docs/own-task.md: classes that have an order, such as grades."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F

from beit.batch import LabelledBatch
from beit.config import FinetuneRunConfig
from beit.models.heads import Classifier
from beit.objectives.base import Loss, Objective
from beit.recipes import finetune
from beit.tasks import Inputs, Setup, register
from beit.tasks.finetuning import FINETUNE
from beit.training.distributed import Processes


class OrderedClasses(Objective[LabelledBatch]):
    """Squared distance of the cumulative probabilities: a class further off costs more."""

    model: Classifier

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: LabelledBatch, progress: float) -> Loss:
        logits = self.model(batch.images).float()
        expected = F.one_hot(batch.targets, logits.shape[1]).float()
        gaps = logits.softmax(dim=1).cumsum(dim=1) - expected.cumsum(dim=1)
        total = gaps.square().sum(dim=1).mean()
        missed = (logits.detach().argmax(dim=1) - batch.targets).abs().float().mean()
        return Loss(total, {"loss": total.detach(), "classes_off": missed})


@dataclass(frozen=True, kw_only=True)
class OrderedRunConfig(FinetuneRunConfig):
    """Classification into classes whose names sort in their order."""


def small() -> OrderedRunConfig:
    """As `beit finetune small`."""
    return OrderedRunConfig(**vars(finetune.small()))


def tiny() -> OrderedRunConfig:
    """As `beit finetune tiny`."""
    return OrderedRunConfig(**vars(finetune.tiny()))


def prepare(
    config: FinetuneRunConfig, processes: Processes, inputs: Inputs
) -> Setup[FinetuneRunConfig]:
    """As for a classifier, but for the loss."""
    setup = FINETUNE.prepare(config, processes, inputs)
    assert isinstance(setup.objective.model, Classifier)
    return replace(setup, objective=OrderedClasses(setup.objective.model))


ORDERED = register(
    replace(
        FINETUNE,
        verb="ordered",
        config=OrderedRunConfig,
        recipes={"small": small, "tiny": tiny},
        prepare=prepare,
        title=lambda _: "Ordered classes",
    )
)
