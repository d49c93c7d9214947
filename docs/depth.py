"""A task with a head of its own for docs/own-task.md: the depth of every patch of an image."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from beit.batch import SegmentedBatch
from beit.config import RunConfig
from beit.config.artifact import BackboneArchitecture
from beit.config.data import AS_RECOGNISED
from beit.config.model import VisionTransformerConfig, sized
from beit.config.training import TrainingConfig
from beit.config.tree import to_json
from beit.data.augment import central_view
from beit.data.sources import ImageSource, Record, SelectedSource, Target
from beit.errors import ConfigError
from beit.evaluation.eval_loader import EvalLoader
from beit.inference.abilities import EMBED, Ability, view
from beit.inference.predictor import Predictor
from beit.models.heads import BackboneModel
from beit.objectives.base import Loss, Objective
from beit.rng import seed_everything
from beit.tasks import Inputs, Setup, Task, register
from beit.training.distributed import Processes
from beit.training.spec import Evaluation
from beit.weights.kinds import ModelKind
from beit.weights.store import Details

# -- the model, and how an artifact holds it -------------------------------------------------------


class DepthModel(BackboneModel):
    """A backbone with a linear head on its patches."""

    def __init__(self, backbone: VisionTransformerConfig) -> None:
        super().__init__(backbone)
        self.head = nn.Linear(backbone.width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Depths in [0, 1] of the patches, [B, h, w]."""
        depths = self.head(self.backbone(images).patches)[..., 0].sigmoid()
        return depths.unflatten(1, self.backbone.config.grid)


@dataclass(frozen=True, kw_only=True)
class DepthArchitecture(BackboneArchitecture):
    """The backbone says it all."""


DEPTH_MODEL = ModelKind(
    name="depth",
    model=DepthModel,
    architecture=DepthArchitecture,
    describe=lambda model: {"backbone": to_json(model.backbone.config)},
    build=lambda architecture: DepthModel(architecture.backbone),
    answers=("logits", "features"),
    summary="A Vision Transformer that estimates the depth of each patch of an image.",
)

# -- the images and the loss -----------------------------------------------------------------------


class DepthSource(SelectedSource):
    """Images, each with a depth map of the same name below another folder."""

    def __init__(self, source: ImageSource, depths: Path) -> None:
        super().__init__(source, np.arange(len(source)), None, ())
        self._depths = depths

    def read(self, index: int) -> Record:
        record = super().read(index)
        with Image.open(self._depths / record.key) as depths:
            return record._replace(labels=np.asarray(depths.convert("L")))


@dataclass(frozen=True)
class DepthView:
    """The whole image, stretched to the size of the model; its labels are the depths of the
    patches, in 256 steps."""

    size: tuple[int, int]
    grid: tuple[int, int]

    def __call__(
        self, pixels: np.ndarray, _target: Target | None, _generator: random.Random
    ) -> SegmentedBatch:
        image, depths = pixels[..., :-1], Image.fromarray(pixels[..., -1])
        small = np.array(depths.resize(self.grid[::-1], Image.Resampling.BOX))
        seen = central_view(np.ascontiguousarray(image), self.size, 1.0, "stretch")
        return SegmentedBatch(seen[None], torch.from_numpy(small)[None])


class DepthEstimation(Objective[SegmentedBatch]):
    """Mean absolute error."""

    model: DepthModel

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SegmentedBatch, progress: float) -> Loss:
        total = (self.model(batch.images) - batch.labels / 255).abs().mean()
        return Loss(total, {"loss": total.detach()})


# -- the run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DepthRunConfig(RunConfig):
    """Depth from images: those of `data`, and depth maps of the same names below `depths`."""

    depths: str = ""
    """Folder of depth maps, 8 bits, named and nested as the images are."""
    init: str = ""
    """Model to start from: a run, an artifact or a released file."""
    model: VisionTransformerConfig


def small() -> DepthRunConfig:
    """Images of 224 pixels."""
    training = TrainingConfig(steps=2000, batch=32, lr=5e-4, warmup_steps=100, layer_decay=0.75)
    return DepthRunConfig(model=sized("small"), training=training)


def start_from(
    config: DepthRunConfig, backbone: VisionTransformerConfig, init: str
) -> DepthRunConfig:
    return replace(config, init=init, model=replace(backbone, mask_token=False))


def prepare(config: DepthRunConfig, processes: Processes, inputs: Inputs) -> Setup[DepthRunConfig]:
    if not config.depths:
        raise ConfigError("no depth maps were given", remedy="add --depths FOLDER")
    built, loader = config.model, config.loader
    images = inputs.images(config.data, AS_RECOGNISED, built.channels, loader.value_range)
    source = DepthSource(images, Path(config.depths))
    seed_everything(config.training.seed)
    model, details, seen = (
        DepthModel(built),
        Details(resize="stretch"),
        DepthView(built.size, built.grid),
    )
    start = inputs.take_over(model, details, config.init)
    batches = EvalLoader(SegmentedBatch, source, seen, channels=built.channels, loader=loader)

    def measure(model: nn.Module) -> Mapping[str, float]:
        with torch.no_grad():
            errors = [
                (model(batch.images.to(processes.device)).cpu() - batch.labels / 255).abs().mean()
                for batch in batches
            ]
        return {"depth_error": float(torch.stack(errors).mean())}

    return Setup(
        config=config,
        objective=DepthEstimation(model),
        source=source,
        view=seen,
        channels=built.channels,
        evaluation=Evaluation(measure, skips=batches.skips),
        details=details,
        start=start,
    )


# -- the answers -----------------------------------------------------------------------------------


@torch.no_grad()
def depths_of(
    predictor: Predictor, views: Sequence[Tensor], _options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    maps = predictor.model(predictor.batch(views))
    return [{"depth": one.tolist()} for one in maps.cpu()]


DEPTH = register(
    Task(
        verb="depth",
        config=DepthRunConfig,
        recipes={"small": small},
        prepare=prepare,
        start_from=start_from,
        publishes=(DEPTH_MODEL,),
        abilities={"depth": Ability(view, depths_of), "embed": EMBED},
        title=lambda _: "Depth",
        use='predictor.model(predictor.batch(["image.jpg"]))   # of each patch, [1, h, w]',
        next="beit --import depth serve {run}",
    )
)
