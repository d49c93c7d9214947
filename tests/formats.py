"""Files of every format that a version of this package has written, to be read by all later ones.

`python tests/formats.py` writes those of the present formats that are not there yet, into
tests/golden/formats; it is run, and they are committed, when a number of a format is raised.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import beit
from beit.config import LinearHeadConfig, VisionTransformerConfig
from beit.config.runs import HeadConfig
from beit.data import shards
from beit.data.pack import pack
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.tokenizers import build_tokenizer
from beit.training import checkpoint as checkpoints
from beit.training.checkpoint import Checkpoint, save_checkpoint
from beit.weights import store
from miniature import VAE

PLACE = Path(__file__).parent / "golden" / "formats"
EXPECTED = "expected.json"
BACKBONE = VisionTransformerConfig(
    size=(16, 16), patch=4, width=8, depth=1, heads=2, hidden=8, relative_position="per-block"
)
FORMATS = {
    "artifact": store.FORMAT,
    "checkpoint": checkpoints.FORMAT,
    "shards": shards.FORMAT,
}


def image(size: tuple[int, int]) -> torch.Tensor:
    """uint8 [1, 3, H, W], without any generator of random numbers."""
    values = torch.arange(3 * size[0] * size[1]) * 37 % 251
    return values.to(torch.uint8).view(1, 3, *size)


def answer(artifact: store.Artifact) -> list[float]:
    """What a model says of its image."""
    model: Any = artifact.model
    with torch.no_grad():
        if artifact.kind == "tokenizer":
            said = model.encode(image(model.size))
        elif artifact.kind == "masked":
            said = model(image(BACKBONE.size), torch.arange(16)[None] % 3 == 0)
        elif artifact.kind == "backbone":
            said = model.backbone(image(BACKBONE.size)).patches.mean(dim=1)
        else:
            said = model(image(BACKBONE.size))
    return [float(value) for value in said.flatten()[:64]]


def lively(model: nn.Module) -> nn.Module:
    """Weights that are a function of their place."""
    for weight in model.parameters():
        weight.data = torch.sin(torch.arange(weight.numel()) + 1.0).view(weight.shape) / 3
    return model.eval()


def state() -> Checkpoint:
    """Of each type that a checkpoint holds."""
    tensors = {
        "model": {"weight": torch.arange(6.0).view(2, 3) / 7, "usage": torch.arange(3).bfloat16()},
        "optimizer": {"weight/step": torch.tensor(2.0), "weight/exp_avg": torch.ones(2, 3) / 3},
        "average": {"weight": torch.zeros(2, 3), "n_averaged": torch.tensor(2)},
    }
    return Checkpoint(2, tensors, {"best": [1, 0.1 + 0.2], "metrics": {"top1": 0.5}})


def write_artifacts(place: Path) -> None:
    models = {
        "tokenizer": build_tokenizer(VAE),
        "masked": MaskedImageModel(BACKBONE, 12),
        "backbone": PretrainedBackbone(BACKBONE),
        "classifier": Classifier(BACKBONE, 2, HeadConfig(pooling="cls")),
        "segmenter": Segmenter(BACKBONE, 2, LinearHeadConfig()),
    }
    details = store.Details(
        classes=("cat", "Übergröße"), crop=0.875, tokenizer="ab12", trained={"recipe": "tiny"}
    )
    said = {}
    for kind, model in models.items():
        folder = store.save_artifact(place / kind, lively(model), details)
        said[kind] = answer(store.load_artifact(folder))
    (place / EXPECTED).write_text(json.dumps(said))


def write_checkpoint(place: Path) -> None:
    place.mkdir()
    save_checkpoint(place, state(), keep=1)


def write_shards(place: Path) -> None:
    """Two classes of one image."""
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(("cat", "dog")):
            Path(folder, name).mkdir()
            pixels = np.full((4, 4, 3), 50 * number, np.uint8)
            Image.fromarray(pixels).save(Path(folder, name, f"{number}.png"))
        pack(folder, str(place))


WRITE = {"artifact": write_artifacts, "checkpoint": write_checkpoint, "shards": write_shards}


def write(place: Path) -> None:
    """Files of the present formats, where there are none of that number."""
    for kind, number in FORMATS.items():
        folder = place / f"{kind}-{number}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            WRITE[kind](folder)
            print(f"{folder}: by beit {beit.__version__}")


if __name__ == "__main__":
    write(PLACE)
