"""`beit finetune`: a classifier from a pre-trained artifact, or from scratch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from beit.artifact.store import Details
from beit.batch import LabelledBatch
from beit.chance import seed_everything
from beit.config import FinetuneRunConfig
from beit.data.augment import EvaluationView, TrainView
from beit.data.labelled import open_labelled
from beit.data.overlap import shared_pictures
from beit.data.sources import check_readable
from beit.evaluation.classify import score_classifier
from beit.evaluation.passes import Passes
from beit.models.heads import Classifier
from beit.objectives.classify import Classification
from beit.recipes import DEFAULT
from beit.runs.execution import Run, Task, carry_out, manner_of, resolve, start
from beit.training.parallel import Processes, start_processes
from beit.training.plan import Evaluation


def finetune(
    recipe: str | FinetuneRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: object,
) -> Run:
    """Train a classifier on class folders, from the artifact `init` or from scratch."""
    config = resolve("finetune", recipe, FinetuneRunConfig, options)
    processes = start_processes(config.training)
    return carry_out(
        config, prepare(config, processes), processes, manner_of(config, resume, quiet, report)
    )


def prepare(config: FinetuneRunConfig, processes: Processes) -> Task:
    """The classifier and all that its training needs."""
    built = config.model
    splits = open_labelled(
        config.data,
        split=config.split,
        per_class=config.per_class,
        seed=config.subset_seed,
        folders=config.folders,
    )
    for part in (splits.train, splits.validation):
        check_readable(part, built.channels)
    classes = splits.train.classes
    seed_everything(config.training.seed)
    model = Classifier(built, len(classes), config.head)
    if config.init:
        start(model.backbone, config.init)
    passes = Passes(
        LabelledBatch,
        splits.validation,
        EvaluationView(built.size, config.crop),
        size=built.size,
        channels=built.channels,
        loader=config.loader,
    )

    def measure(model: nn.Module) -> Mapping[str, float]:
        scores = score_classifier(model, passes, classes=len(classes), device=processes.device)
        return {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss}

    return Task(
        objective=Classification(model, config.augment, classes=len(classes)),
        source=splits.train,
        view=TrainView(config.augment, built.size, built.channels),
        channels=built.channels,
        evaluation=Evaluation(
            measure, best="top1", unreadable=passes.unreadable, several=passes.several
        ),
        details=Details(classes=classes, crop=config.crop),
        shared=shared_pictures(splits.train, splits.validation) if processes.leads else {},
    )
