"""Segmentation with the UperNet head: a training step and the labelling of one image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from beit.batch import SegmentedBatch
from beit.config import UperNetConfig
from beit.models.inference import optimize_for_inference
from beit.models.segmenter import Segmenter
from beit.objectives.segment import Segmentation
from benchmarks.peers import gather, in_transformers, normalised
from benchmarks.race import Clock, Contest, Contestant
from benchmarks.setting import Setting

CLASSES = 150
AUXILIARY_WEIGHT = 0.4


def contests(setting: Setting) -> Iterator[Contest]:
    """Of 512 x 512 or 128 x 128 pixels: two forward and backward, then one forward alone."""
    side = 128 if setting.quick else 512
    # transformers cannot read the last two blocks, so both read earlier ones than published.
    taps = (0, 1, 2, 3) if setting.quick else (3, 5, 7, 9)
    depth = 6 if setting.quick else 12
    backbone = replace(setting.classifying, size=(side, side), depth=depth)
    torch.manual_seed(0)
    model = Segmenter(backbone, CLASSES, UperNetConfig(out_indices=taps, dropout=0.0))
    model = model.to(setting.device)
    peers, skipped = gather({"transformers": lambda: in_transformers(model)})
    images = setting.images((side, side), number=2)  # fewer cannot train: batch norm
    pixels = normalised(images, backbone)
    labels = torch.randint(CLASSES, (2, side, side)).to(setting.device, torch.uint8)
    objective = Segmentation(model, auxiliary_weight=AUXILIARY_WEIGHT)
    batch = SegmentedBatch(images, labels, ("", ""))
    for precision in setting.precisions:
        fast = optimize_for_inference(model)
        losses: dict[str, Callable[[], Tensor]] = {"beit": lambda: objective(batch, 0.0).total}
        answers: dict[str, Callable[[], Tensor]] = {"beit": lambda fast=fast: fast(images[:1])}
        for name, peer in peers.items():
            losses[name] = lambda peer=peer: peer(pixels, labels=labels.long()).loss
            answers[name] = lambda peer=peer: _labelled(peer(pixels[:1]).logits, side)
        modules, answering = {"beit": model, **peers}, {"beit": fast, **peers}
        yield Contest(
            case=f"forward and backward {precision}",
            contestants={
                name: _training(setting, modules[name], loss, precision)
                for name, loss in losses.items()
            },
            skipped=skipped,
            precision=precision,
            counts_flops=True,
            uncut="transformers",
        )
        yield Contest(
            case=f"inference {precision}",
            contestants={
                name: _inference(setting, answering[name], answer, precision)
                for name, answer in answers.items()
            },
            skipped=skipped,
            precision=precision,
            counts_flops=True,
            uncut="transformers",
        )


def _labelled(logits: Tensor, side: int) -> Tensor:
    """transformers leaves it to its user to bring the logits to the size of the image."""
    return torch.nn.functional.interpolate(logits.float(), size=(side, side), mode="bilinear")


def _training(
    setting: Setting, model: torch.nn.Module, loss: Callable[[], Tensor], precision: str
) -> Contestant:
    def step(_clock: Clock) -> None:
        model.train()
        with setting.autocast(precision):
            total = loss()
        total.backward()
        model.zero_grad(set_to_none=True)

    return step


def _inference(
    setting: Setting, model: torch.nn.Module, answer: Callable[[], Tensor], precision: str
) -> Contestant:
    def step(_clock: Clock) -> None:
        model.eval()
        with torch.no_grad(), setting.autocast(precision):
            answer().argmax(dim=1)

    return step
