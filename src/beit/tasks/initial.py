"""What `--init` does to a run: the architecture comes from a model, and so do weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from beit.config import FinetuneRunConfig, PretrainRunConfig, RunConfig, SegmentRunConfig
from beit.config.model import VisionTransformerConfig
from beit.errors import CheckpointError, ConfigError
from beit.models.heads import BackboneModel
from beit.recipes import finetune as finetune_recipes
from beit.recipes import pretrain as pretrain_recipes
from beit.recipes import segment as segment_recipes
from beit.weights.load import open_artifact
from beit.weights.store import Artifact, Details
from beit.weights.transfer import check_same_architecture
from beit.weights.warm_start import warm_start

Config = TypeVar("Config", bound=RunConfig)


class Opened:
    """The models that a run starts from: each is opened once, and let go of once it was used."""

    def __init__(self) -> None:
        self._artifacts: dict[str, Artifact] = {}

    def look(self, reference: str) -> Artifact:
        """The artifact, which stays open."""
        if reference not in self._artifacts:
            self._artifacts[reference] = open_artifact(reference)
        return self._artifacts[reference]

    def take(self, reference: str) -> Artifact:
        """The artifact, for the last time: its memory is not held during the run."""
        artifact = self.look(reference)
        del self._artifacts[reference]
        return artifact


def starting_from(config: Config, init: str, opened: Opened | None = None) -> Config:
    """The config with the architecture of an artifact or a released file, as the verb needs it.

    All else stays the recipe's: drop path, augmentation, masks, heads and what they read.
    """
    artifact = (opened or Opened()).look(init)
    backbone = _backbone(artifact, init)
    if artifact.details.value_range:  # what the backbone has seen is what it goes on with
        loader = replace(config.loader, value_range=artifact.details.value_range)
        config = replace(config, loader=loader)
    if isinstance(config, FinetuneRunConfig):
        return replace(config, init=init, model=finetune_recipes.for_classifying(backbone, config))
    if isinstance(config, SegmentRunConfig):
        return replace(config, init=init, model=segment_recipes.for_segmenting(backbone, config))
    if isinstance(config, PretrainRunConfig):
        return replace(config, init=init, model=pretrain_recipes.for_pretraining(backbone, config))
    raise ConfigError("a tokenizer starts from nothing", remedy="leave --init out")


def check_start(config: RunConfig, opened: Opened) -> None:
    """Raise CheckpointError if the model that a run starts from has no backbone or another one than
    the run, before any data are read."""
    if isinstance(config, FinetuneRunConfig | SegmentRunConfig | PretrainRunConfig) and config.init:
        backbone = _backbone(opened.look(config.init), config.init)
        check_same_architecture(config.model, backbone)


def _backbone(artifact: Artifact, init: str) -> VisionTransformerConfig:
    if artifact.backbone is None:
        raise CheckpointError(
            f"{init} holds a {artifact.kind}, which has no backbone to start from",
            remedy="give the run of `beit pretrain` or `beit finetune`, or a released model",
        )
    return artifact.backbone


def take_over(model: BackboneModel, details: Details, init: str, opened: Opened) -> tuple[str, ...]:
    """Load what the artifact `init` has for a new model; what was taken and what was not, line by
    line. Without `init` the model stays as it is, and there is nothing to say."""
    if not init:
        return ()
    return tuple(warm_start(model, details, opened.take(init)).lines(init))
