"""`beit evaluate`: how well any classifier or segmenter does, on any labelled images."""

from __future__ import annotations

from beit.config.evaluate import ClassifiedConfig, EvaluateConfig, SegmentedConfig
from beit.config.tree import differences, override
from beit.errors import ConfigError
from beit.models.heads import Classifier
from beit.models.segmenter import Segmenter
from beit.tasks.classifier_evaluation import ClassifierEvaluation, evaluate_classifier
from beit.tasks.multilabel_evaluation import MultiLabelEvaluation, evaluate_multi_label
from beit.tasks.segmenter_evaluation import SegmenterEvaluation, evaluate_segmenter
from beit.weights.load import open_artifact

PLAIN = EvaluateConfig()


def evaluate(
    model: str, config: EvaluateConfig = PLAIN, **options: object
) -> ClassifierEvaluation | MultiLabelEvaluation | SegmenterEvaluation:
    """Measure a classifier on labelled images, or a segmenter on images with masks.

    `model` is a run, an artifact, or any released file; `options` change the config by name.
    Raises ConfigError for a model that does neither, and for options of the other kind of model.
    """
    config = override(config, options)
    if not config.data:
        raise ConfigError("no images were given", remedy="add --data FOLDER")
    artifact = open_artifact(model)
    if isinstance(artifact.model, Classifier):
        _refuse(SegmentedConfig(), config.segmented, "segmenter", f"{model} is a classifier")
        several = artifact.details.multi_label
        return (evaluate_multi_label if several else evaluate_classifier)(artifact, model, config)
    if isinstance(artifact.model, Segmenter):
        _refuse(ClassifiedConfig(), config.classified, "classifier", f"{model} is a segmenter")
        return evaluate_segmenter(artifact, model, config)
    raise ConfigError(
        f"{model} holds a {artifact.kind} model, which neither classifies nor segments",
        remedy="fine-tune it with `beit finetune --init` or `beit segment --init`",
    )


def _refuse(plain: object, given: object, taker: str, problem: str) -> None:
    """ConfigError if an option was given that the model does not take."""
    for name in differences(plain, given):
        option = name.rpartition(".")[2]
        raise ConfigError(
            f"{option} was given, and {problem}",
            remedy=f"leave {option} out: only a {taker} takes it",
        )
