"""The model of a run, where its report computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from beit.errors import CheckpointError
from beit.weights.answering import Answering, answering
from beit.weights.store import load_artifact

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Trained(Generic[Model]):
    """What a run published, on the device of its report."""

    model: Model
    classes: tuple[str, ...]
    answering: Answering
    device: torch.device


def trained(run: Path, kind: type[Model]) -> Trained[Model]:
    """The artifact of a run of that kind. Errors: BeitError if it is not there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    artifact = load_artifact(run)
    model = artifact.model.to(device)
    if not isinstance(model, kind):
        raise CheckpointError(
            f"the model in {run} is a {artifact.kind}, which is not what its run trains",
            remedy="copy the whole folder of the run again from where it was made",
        )
    return Trained(
        model=model,
        classes=artifact.details.classes,
        answering=answering(artifact.details),
        device=device,
    )
