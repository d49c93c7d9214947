"""BEiT: pre-train a vision backbone on your own images, and use it.

    import beit

    beit.pretrain(data="images", out="runs/pretrain")
    beit.finetune(data="labelled", init="runs/pretrain", out="runs/classifier")
    beit.evaluate("runs/classifier", data="labelled", kind="classifier").top1
    beit.load("runs/classifier").predict("image.jpg")

Importing this package imports neither torch nor anything else that is slow; names load on first
use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beit.inference.predictor import Predictor, load
    from beit.models.inference import optimize_for_inference
    from beit.tasks import evaluate, finetune, pretrain, probe, segment, tokenizer
    from beit.weights.export import export
    from beit.weights.push import push_to_hub

__version__ = "0.2.0"

_HOMES = {
    "Predictor": "beit.inference.predictor",
    "evaluate": "beit.tasks",
    "export": "beit.weights.export",
    "finetune": "beit.tasks",
    "load": "beit.inference.predictor",
    "optimize_for_inference": "beit.models.inference",
    "pretrain": "beit.tasks",
    "probe": "beit.tasks",
    "push_to_hub": "beit.weights.push",
    "segment": "beit.tasks",
    "tokenizer": "beit.tasks",
}

__all__ = [
    "Predictor",
    "__version__",
    "evaluate",
    "export",
    "finetune",
    "load",
    "optimize_for_inference",
    "pretrain",
    "probe",
    "push_to_hub",
    "segment",
    "tokenizer",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'beit' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
