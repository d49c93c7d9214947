"""No step waits for a GPU, and no tensor is made on the wrong device: found without a GPU.

Operations that make the host wait for a GPU are known by name, and watched for on the CPU. Devices
that are mixed are found on a fake GPU, whose tensors have a device and a shape, and no values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from beit.batch import Batch, LabelledBatch, MaskedBatch, SegmentedBatch, map_tensors, to_device
from beit.config import (
    AggregationConfig,
    AugmentConfig,
    ContrastiveConfig,
    MaskedConfig,
    QuantiseConfig,
    TrainingConfig,
    UperNetConfig,
    VisibleConfig,
    VQConfig,
)
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.layers import Dropping
from beit.models.position import relative_position_index
from beit.models.segmenter import Segmenter
from beit.objectives.base import AnyObjective, Loss, Objective
from beit.objectives.classify import MultiLabelClassification
from beit.objectives.contrastive import ContrastiveMaskedModeling, ContrastiveModel
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.segment import Segmentation
from beit.objectives.tokenizer import VQReconstruction
from beit.objectives.visible import VisibleOnlyModel, VisibleOnlyPrediction
from beit.rng import SampleRNG
from beit.tokenizers import build_tokenizer
from beit.training.ema import average_of
from beit.training.update import Updater
from miniature import (
    BACKBONE,
    BATCH,
    CLASSES,
    CPU,
    VAE,
    classification,
    draw_images,
    image_batch,
    labelled_batch,
    masked,
    masked_batch,
    names,
    reconstruct,
    split,
)

FINE = replace(BACKBONE, mask_token=False, relative_position="per-block")


MIXED = AugmentConfig(rand_augment="", erasing=0.0, mixup=0.8, cutmix=1.0, smoothing=0.1)


def several_labels() -> MultiLabelClassification:
    model = Classifier(FINE, CLASSES)
    return MultiLabelClassification(model, MIXED, prevalence=torch.full((CLASSES,), 0.5))


def several_labels_batch(step: int) -> LabelledBatch:
    batch = labelled_batch(step)
    return batch._replace(targets=batch.targets[:, None] != torch.arange(CLASSES))


def uneven_batch(step: int) -> MaskedBatch:
    batch = masked_batch(step)
    mask = batch.mask.clone()
    mask[0] = False
    return batch._replace(mask=mask)


def segmented_batch(step: int) -> SegmentedBatch:
    labels = (draw_images(step).float().mean(dim=1) > 110).to(torch.uint8)
    return SegmentedBatch(draw_images(step), labels, names(step))


def aggregated() -> MaskedImageModeling:
    model = MaskedImageModel(BACKBONE, VAE.codes, AggregationConfig(early_layer=1))
    return MaskedImageModeling(model, MaskedConfig(), build_tokenizer(VAE))


def pixels() -> MaskedImageModeling:
    model = MaskedImageModel(BACKBONE, BACKBONE.patch**2 * 3)
    return MaskedImageModeling(model, MaskedConfig(target="pixels"), None)


def visible() -> VisibleOnlyPrediction:
    seeing = replace(BACKBONE, relative_position="none", mask_token=False)
    config = VisibleConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)
    return VisibleOnlyPrediction(
        VisibleOnlyModel(seeing, VAE.codes, config), config, build_tokenizer(VAE)
    )


def contrastive() -> ContrastiveMaskedModeling:
    config = ContrastiveConfig()
    plain = replace(BACKBONE, relative_position="none", absolute_position=True)
    model = ContrastiveModel(plain, VAE.codes, projection=config.projection)
    return ContrastiveMaskedModeling(model, config, build_tokenizer(VAE))


def repaint() -> VQReconstruction:
    config = VQConfig(
        size=(16, 16), patch=4, width=24, depth=2, decoder_depth=1, heads=2, hidden=48, codes=32,
        codebook_width=6,
    )  # fmt: skip
    return VQReconstruction(build_tokenizer(config), QuantiseConfig(revive_every=0), seed=0)


def segmentation() -> Segmentation:
    head = UperNetConfig(head_channels=8, auxiliary_channels=4, dropout=0.1)
    return Segmentation(Segmenter(FINE, CLASSES, head), auxiliary_weight=0.4)


STEPS: dict[str, tuple[Callable[[], AnyObjective], Callable[[int], Any]]] = {
    "discrete VAE": (reconstruct, image_batch),
    "VQ": (repaint, lambda step: image_batch(step)._replace(images=draw_images(step))),
    "BEiT": (masked, masked_batch),
    "BEiT, masks of different numbers": (masked, uneven_batch),
    "BEiT, all patches": (lambda: masked(predict="all"), masked_batch),
    "BEiT v2": (aggregated, masked_batch),
    "pixels": (pixels, masked_batch),
    "visible only": (visible, masked_batch),
    "contrast": (contrastive, masked_batch),
    "classification": (lambda: classification(MIXED, drop_path=0.3), labelled_batch),
    "several labels": (several_labels, several_labels_batch),
    "segmentation": (segmentation, segmented_batch),
}


WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "is_nonzero",
    "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "allclose", "histc",
    "_linalg_check_errors",
}  # fmt: skip
"""Operations whose result decides a shape or goes to the host."""


class Watch(TorchDispatchMode):
    """Collects the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        masks = [one for one in indices if one is not None and one.dtype == torch.bool]
        if name in WAITING or masks:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", STEPS)
def test_an_update_waits_for_nothing(name, monkeypatch):
    """Forward, backward, clipping and the optimizer; batches are moved before."""
    make, batches = STEPS[name]
    config = TrainingConfig(
        steps=9, batch=BATCH, micro_batch=BATCH // 2, lr=1e-3, clip=1.0, precision="bf16",
        device="cpu",
    )  # fmt: skip
    updater = Updater(make(), config, CPU, print)
    updater.update(0, iter(split(batches(0), BATCH // 2)))  # the first makes the optimizer's state
    step = 2  # between two revivals of dead codes, which may wait
    prepared = [to_device(part, CPU.device) for part in split(batches(step), BATCH // 2)]
    monkeypatch.setattr("beit.training.update.to_device", lambda batch, device: batch)
    with Watch() as watch:
        updater.update(step, iter(prepared))
    assert watch.found == []


def test_the_average_counts_on_the_host():
    """Its library reads the counter in every update."""
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    assert average_of(model, 0.9).n_averaged.device == CPU.device


@pytest.mark.parametrize("name", [*STEPS][1:])  # the first draws from a real generator
def test_no_tensor_is_made_on_another_device(name, unchecked):
    make, batches = STEPS[name]
    gpu = torch.device("cuda", 0)
    training = name != "VQ"  # whose codes are started from the first values
    objective, batch = make().train(training), to_device(batches(0), CPU.device)
    objective.draw(SampleRNG(0, 0, 0), len(batch.keys), CPU.device)
    relative_position_index.cache_clear()
    try:
        mode = FakeTensorMode()
        objective, batch = fake(objective, mode, gpu), fake_batch(batch, mode, gpu)
        with mode:
            loss = objective(batch, 0.0)
            for value in (loss.total, *loss.terms.values()):
                assert value.device == gpu
    finally:
        relative_position_index.cache_clear()


def moved(tensor: Tensor, mode: FakeTensorMode, device: torch.device) -> Tensor:
    there = mode.from_tensor(tensor)
    with mode:
        return there.to(device)


def fake(objective: AnyObjective, mode: FakeTensorMode, device: torch.device) -> AnyObjective:
    """The objective with every tensor of it on a fake device."""
    for module in objective.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                there = moved(weight.data, mode, device)
                module._parameters[name] = nn.Parameter(there, weight.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = moved(value, mode, device)
        numbers = getattr(module, "numbers", None)
        if isinstance(module, Dropping) and numbers is not None:
            module.numbers = moved(numbers, mode, device)
    return objective


def fake_batch(batch: Batch, mode: FakeTensorMode, device: torch.device) -> Batch:
    def move(tensor: Tensor) -> Tensor:
        return moved(tensor, mode, device)

    there = map_tensors(batch, move)
    if isinstance(batch, MaskedBatch) and batch.masked is not None:
        real = batch.masked.real
        masked = batch.masked._replace(
            mask=move(batch.masked.mask), real=None if real is None else move(real)
        )
        there = there._replace(masked=masked)
    return there


class Faulty(Objective[Any]):
    """Reads a value on the host, selects by a mask, or makes a tensor where the model is not."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.model, self.fault = nn.Linear(3, 1), fault

    def forward(self, batch: Any, progress: float) -> Loss:
        rows = self.model(batch.images.float().mean(dim=(2, 3)))
        if self.fault == "reads" and rows.mean() > 0:
            rows = 2 * rows
        if self.fault == "selects":
            rows = rows[rows > -9]
        if self.fault == "misplaces":
            rows = rows * torch.ones(1)
        return Loss(rows.mean(), {})


@pytest.mark.parametrize(
    ("fault", "found"), [("reads", ["_local_scalar_dense"]), ("selects", ["index"])]
)
def test_a_step_that_waits_would_be_found(fault, found):
    with Watch() as watch:
        Faulty(fault)(image_batch(0), 0.0)
    assert set(found) <= set(watch.found)


def test_a_tensor_on_another_device_would_be_found():
    gpu = torch.device("cuda", 0)
    mode = FakeTensorMode()
    objective = fake(Faulty("misplaces"), mode, gpu)
    batch = fake_batch(image_batch(0), mode, gpu)
    with mode, pytest.raises(RuntimeError, match="device"):
        objective(batch, 0.0)
