"""Numbers: those of the reference, of the published models and of the official training engines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beit.config import AggregationConfig
from beit.doctor.agreement import compare, distance, without_tf32
from beit.models.heads import Classifier, MaskedImageModel
from benchmarks.gpu.checks import Check, Setting, at_most
from benchmarks.machine import ROOT

sys.path.insert(0, str(ROOT / "tests"))  # for the records, and for how their names are read

from reference import FINE, TINY, from_published
from trajectories import RECORDS, ours, replayed

FLOAT32, HALF = 1e-4, 0.03
"""Errors relative to the largest value. Under bf16 autocast about three digits are left in each
product, and the logits of tiny random models are small differences of large ones."""


def checks(setting: Setting) -> Iterator[Check]:
    for one in compare(setting.device):
        yield at_most(one.name, one.error, one.tolerance)
    with without_tf32():
        yield from _published(setting)
        for record in RECORDS:
            yield from _trajectory(setting, record)


def _facts(name: str) -> dict[str, Any]:
    path = ROOT / "tests" / "golden" / f"{name}.pt"
    facts: dict[str, Any] = torch.load(path, weights_only=True)
    return facts


def _published(setting: Setting) -> Iterator[Check]:
    """Logits that the official code computed from tiny weights in the published layout."""
    device = setting.device
    for dtype, tolerance in ((None, FLOAT32), (torch.bfloat16, HALF)):
        kind = "float32" if dtype is None else "bfloat16"
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            for name, logits, expected in _logits(device):
                yield at_most(f"{name}, {kind}", distance(logits, expected), tolerance)


def _logits(device: torch.device) -> Iterator[tuple[str, Tensor, Tensor]]:
    facts = _facts("mim_shared_rel")
    masked = MaskedImageModel(TINY, 64)
    masked.load_state_dict(from_published(facts["model"]))
    image, mask = facts["image"].to(device), facts["mask"].to(device)
    yield "published BEiT", masked.to(device).eval()(image, mask), facts["logits"]
    facts = _facts("cls_rel_mean")
    classifier = Classifier(FINE, len(facts["logits"][0]))
    classifier.load_state_dict(from_published(facts["model"]))
    image = facts["image"].to(device)
    yield "published classifier", classifier.to(device).eval()(image), facts["logits"]
    facts = _facts("v2_mim_cls_shared")
    model = MaskedImageModel(replace(TINY, depth=4), 64, AggregationConfig(early_layer=2))
    model.load_state_dict(ours(facts["model"]))
    image, mask = facts["image"].to(device), facts["mask"].to(device)
    main, aggregated = model.to(device).eval().predictions(image, mask)
    yield "published BEiT v2", main, facts["logits"]
    yield "published BEiT v2, aggregated", aggregated, facts["logits_cls"]


def _trajectory(setting: Setting, record: str) -> Iterator[Check]:
    """Twelve steps of an official engine: losses, gradient norms, weights after them."""
    facts = _facts(record)
    updater, batch = RECORDS[record](facts, setting.device)
    made = replayed(updater, batch, facts["settings"]["steps"])
    name = record.replace("trajectory_", "12 official steps of ").replace("_", " ")
    for what, found, expected in (
        ("losses", torch.tensor(made.losses), facts["losses"]),
        ("gradient norms", torch.tensor(made.norms), facts["grad_norms"]),
    ):
        yield at_most(f"{name}: {what}", distance(found, expected), FLOAT32)
    after = ours(facts["after"])
    state = updater.objective.model.state_dict()
    worst = max(float((state[key].cpu() - value).abs().max()) for key, value in after.items())
    yield at_most(f"{name}: weights", worst, FLOAT32)
