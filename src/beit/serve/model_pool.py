"""The models of a server: loaded and tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from beit.errors import BeitError, CheckpointError
from beit.models.heads import MaskedImageModel
from beit.serve.handlers import Abilities, Options
from beit.serve.http_errors import Refused
from beit.serve.predictor import load
from beit.serve.registry import Described
from beit.tokenizers.base import VisualTokenizer
from beit.weights.store import Artifact

TOLERANCE = 1e-4
TRIED: Options = {"top": 1, "block": None, "seed": 0}


class Served:
    """The models by name."""

    def __init__(self, models: Mapping[str, Abilities]) -> None:
        self._models = dict(models)

    def __getitem__(self, name: str) -> Abilities:
        return self._models[name]

    def describe(self) -> Described:
        """For clients."""
        return [
            {
                "name": name,
                "kind": model.predictor.artifact.kind,
                "version": model.predictor.artifact.version(),
                "abilities": list(model.of),
                "classes": list(model.predictor.classes),
                "multi_label": model.predictor.artifact.details.multi_label,
                "size": list(model.predictor.size),
            }
            for name, model in self._models.items()
        ]

    def try_all(self) -> None:
        """Let each model do what it can with made images.

        Raises CheckpointError if numbers are not finite, a model fails, or a batch is answered
        otherwise than its images one by one.
        """
        chance = np.random.default_rng(0)
        for name, model in self._models.items():
            images = chance.integers(0, 256, (2, 48, 64, model.predictor.channels), np.uint8)
            for word, ability in model.of.items():
                try:
                    items = [ability.prepare(pixels, TRIED) for pixels in images]
                    alone = [ability.answer([item], TRIED)[0] for item in items]
                    both = ability.answer(items, TRIED)
                except (BeitError, Refused, RuntimeError) as error:
                    raise CheckpointError(
                        f"the model '{name}' fails its self-test of {word}: {error}",
                        remedy="evaluate the artifact, or train it again",
                    ) from error
                for one, other in zip(alone, both, strict=True):
                    self._compare(name, word, one, other)

    @staticmethod
    def _compare(name: str, word: str, one: dict[str, Any], other: dict[str, Any]) -> None:
        apart = 0.0
        if word == "embed":
            apart = float(np.abs(np.subtract(one["features"], other["features"])).max())
            apart /= max(1.0, float(np.abs(one["features"]).max()))
        elif word == "predict":
            apart = abs(one["labels"][0]["probability"] - other["labels"][0]["probability"])
        if apart > TOLERANCE:
            raise CheckpointError(
                f"the model '{name}' answers a batch otherwise than single images: {apart:.2g}",
                remedy="serve it with --batch 1, and report the hardware and the artifact",
            )


def load_served(places: Mapping[str, str], device: str) -> Served:
    """Load the artifacts by name; a pre-training gets its tokenizer if that is served beside it.

    Errors: BeitError.
    """
    predictors = {name: load(place, device=device) for name, place in places.items()}
    by_digest = {
        predictor.model.digest(): predictor.model
        for predictor in predictors.values()
        if isinstance(predictor.model, VisualTokenizer)
    }

    def tokenizer_of(artifact: Artifact) -> VisualTokenizer | None:
        if not isinstance(artifact.model, MaskedImageModel):
            return None
        return by_digest.get(artifact.details.tokenizer)

    return Served(
        {
            name: Abilities(predictor, tokenizer_of(predictor.artifact))
            for name, predictor in predictors.items()
        }
    )
