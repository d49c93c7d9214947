"""A task of one's own for docs/own-task.md: classes that have an order, such as grades."""

from __future__ import annotations

import torch.nn.functional as F

from beit.batch import LabelledBatch
from beit.config import FinetuneRunConfig
from beit.models.heads import Classifier
from beit.objectives.base import Loss, Objective
from beit.tasks.execution import Run, resolve, run_options, run_training
from beit.tasks.finetuning import prepare
from beit.training.distributed import start_processes


class OrderedClasses(Objective[LabelledBatch]):
    """Squared distance of the cumulative probabilities: a class further off costs more."""

    model: Classifier

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: LabelledBatch, progress: float) -> Loss:
        logits = self.model(batch.images).float()
        wanted = F.one_hot(batch.targets, logits.shape[1]).float()
        gaps = logits.softmax(dim=1).cumsum(dim=1) - wanted.cumsum(dim=1)
        total = gaps.square().sum(dim=1).mean()
        missed = (logits.detach().argmax(dim=1) - batch.targets).abs().float().mean()
        return Loss(total, {"loss": total.detach(), "classes_off": missed})


def train(recipe: str, *, resume: bool = False, **options: object) -> Run:
    """As `beit.finetune`, on class folders whose names sort in the order of the classes."""
    config = resolve("finetune", recipe, FinetuneRunConfig, options)
    processes = start_processes(config.training)
    task = prepare(config, processes)
    assert isinstance(task.objective.model, Classifier)
    task = task._replace(objective=OrderedClasses(task.objective.model))
    return run_training(
        config, task, processes, run_options(config, resume, quiet=False, report=True)
    )
