"""The smallest models that can be trained, and a loader that reads nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beit.batch import Batch, ImageBatch, LabelledBatch, MaskedBatch
from beit.config import (
    AugmentConfig,
    DiscreteVAEConfig,
    MaskedConfig,
    ReconstructConfig,
    TrainingConfig,
    VisionTransformerConfig,
)
from beit.models.heads import Classifier, MaskedImageModel
from beit.objectives.base import AnyObjective
from beit.objectives.classify import Classification
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.tokenizer import VAEReconstruction
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import VisualTokenizer
from beit.training.distributed import Processes
from beit.training.run_folder import RunFolder
from beit.training.spec import Evaluation, FitSpec

BATCH = 8
CLASSES = 3
BACKBONE = VisionTransformerConfig(
    size=(16, 16), patch=4, width=24, depth=2, heads=2, hidden=48, absolute_position=True
)
VAE = DiscreteVAEConfig(size=(8, 8), stride=2, codes=12, width=12, narrowest=8, codebook_width=6)
"""Its grid is that of BACKBONE: 4 x 4."""
PLAIN = AugmentConfig(rand_augment="", erasing=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0)
CPU = Processes(0, 1, torch.device("cpu"))

Make = Callable[[int], Batch]


class Told(VisualTokenizer):
    """Gives the tokens it was told, whatever the image."""

    def __init__(self, tokens: Tensor, **config: Any) -> None:
        super().__init__(DiscreteVAEConfig(**config))
        self.tokens = tokens

    def _vectors(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(self.tokens, self.codes).float()

    def _scores(self, rows: Tensor) -> Tensor:
        return rows

    def _trunk(self) -> tuple[nn.Module, ...]:
        return ()

    def _decode(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


@torch.no_grad()
def spread_codes(tokenizer: VisualTokenizer, bias: Tensor, images: Tensor) -> None:
    """Shift the bias of the scores so that every code has the same mean over these images: at
    random weights one or two codes would win everywhere."""
    bias -= tokenizer._scores(tokenizer._vectors(images).flatten(0, 1)).mean(dim=0)


def draw_images(step: int = 0, number: int = BATCH, size: int = 16) -> Tensor:
    """Colour gradients in random directions: a different batch for every step."""
    chance = torch.Generator().manual_seed(step)
    first, second, third = torch.rand(3, number, 3, 1, 1, generator=chance)
    across = torch.linspace(0, 1, size).expand(size, size)
    return ((first + second * across + third * across.t()) / 3 * 255).to(torch.uint8)


def image_batch(step: int) -> ImageBatch:
    return ImageBatch(draw_images(step, size=8), names(step))


def masked_batch(step: int) -> MaskedBatch:
    """Six hidden patches per image."""
    chance = torch.Generator().manual_seed(step)
    mask = torch.rand(BATCH, 16, generator=chance).argsort(dim=1) < 6
    return MaskedBatch(draw_images(step), draw_images(step, size=8), mask, names(step))


def labelled_batch(step: int) -> LabelledBatch:
    """The brighter, the higher the class."""
    images = draw_images(step)
    brightness = images.float().mean(dim=(1, 2, 3))
    return LabelledBatch(images, (brightness > 100).long() + (brightness > 140), names(step))


def names(step: int) -> tuple[str, ...]:
    return tuple(f"{step}/{number}" for number in range(BATCH))


def reconstruct() -> VAEReconstruction:
    torch.manual_seed(1)
    return VAEReconstruction(
        build_tokenizer(VAE), ReconstructConfig(revive_every=2, usage_decay=0.2), seed=0
    )


def masked(**options: Any) -> MaskedImageModeling:
    torch.manual_seed(1)
    model = MaskedImageModel(BACKBONE, VAE.codes)
    return MaskedImageModeling(model, MaskedConfig(**options), build_tokenizer(VAE))


def classification(augment: AugmentConfig = PLAIN, **backbone: Any) -> Classification:
    torch.manual_seed(1)
    fine: dict[str, Any] = {"mask_token": False, "relative_position": "per-block"}
    config = VisionTransformerConfig(**(vars(BACKBONE) | fine | backbone))
    return Classification(Classifier(config, CLASSES), augment, classes=CLASSES)


class InMemory:
    """The micro-batches of every step as a function of the step; `before` is told each step."""

    restarts = 0

    def __init__(self, make: Make, micro_batch: int = BATCH, before: Callable[[int], None] = id):
        self.make, self.micro_batch, self.before = make, micro_batch, before

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        for step in range(first_step, last_step):
            self.before(step)
            yield from split(self.make(step), self.micro_batch)


def split(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, BATCH, size):
        parts = (None if column is None else column[start : start + size] for column in batch)
        yield type(batch)(*parts)


def evaluation(best: str = "") -> Evaluation:
    """The mean of the weights stands for a score."""

    def measure(model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"score": float(sum(weight.sum() for weight in model.state_dict().values()))}

    return Evaluation(measure, best)


@contextmanager
def opened(folder: Path, loader: InMemory, **options: Any) -> Iterator[FitSpec]:
    """A run in a folder, with 6 steps unless told otherwise."""
    values: dict[str, Any] = {
        "steps": 6, "batch": BATCH, "lr": 1e-2, "warmup_steps": 2, "clip": 1.0, "precision": "fp32",
        "log_every": 1, "evaluate_every": 2, "save_every": 2, "device": "cpu",
    }  # fmt: skip
    given = {name: options.pop(name) for name in list(options) if name in FitSpec._fields}
    folder.mkdir(parents=True, exist_ok=True)
    yield FitSpec(
        config=TrainingConfig(**(values | options)),
        folder=RunFolder(folder),
        processes=CPU,
        loader=loader,
        **({
            "images": 100, "bad_limit": 0.02, "evaluation": evaluation(),
            "publish": lambda model, best, metrics: None, "quiet": True,
        } | given),
    )  # fmt: skip


KINDS: dict[str, tuple[Callable[[], AnyObjective], Make]] = {
    "tokenizer": (reconstruct, image_batch),
    "pretrain": (masked, masked_batch),
    "finetune": (
        lambda: classification(AugmentConfig(rand_augment="", erasing=0.5), drop_path=0.3),
        labelled_batch,
    ),
}
"""Of each kind of run: its objective, anew, and its batches."""
