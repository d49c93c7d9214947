"""The models of a server: loaded, tried, and found by name in a table that never changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beit.artifact.store import Artifact
from beit.errors import BeitError, CheckpointError, ConfigError
from beit.models.heads import MaskedImageModel
from beit.serving.abilities import Abilities, Options
from beit.serving.predictor import load
from beit.serving.refusals import MODEL_NEEDED, NO_SUCH_MODEL, WRONG_MODEL, Refused
from beit.tokenizers.base import VisualTokenizer

NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)
TOLERANCE = 1e-4
TRIED: Options = {"top": 5, "block": None, "seed": 0}


def read_names(references: Sequence[str]) -> dict[str, str]:
    """NAME=ARTIFACT to artifacts by name; a single one may go without a name, and is `model`.

    Errors: ConfigError.
    """
    if not references:
        raise ConfigError("no artifact was given", remedy="beit serve runs/classifier")
    if len(references) == 1 and NAME.fullmatch(references[0]) is None:
        return {"model": references[0]}
    found: dict[str, str] = {}
    for reference in references:
        parts = NAME.fullmatch(reference)
        if parts is None:
            raise ConfigError(
                f"'{reference}' has no name, and several artifacts are served",
                remedy="write NAME=ARTIFACT; names have letters, digits, '.', '_' and '-'",
            )
        if parts[1] in found:
            raise ConfigError(f"two artifacts are called '{parts[1]}'", remedy="rename one")
        found[parts[1]] = parts[2]
    return found


class Served:
    """The models by name. Names of requests are looked up here and used for nothing else."""

    def __init__(self, models: Mapping[str, Abilities]) -> None:
        self._models = dict(models)

    def find(self, ability: str, name: str | None) -> tuple[str, Abilities]:
        """The model that does this. Raises Refused if there is none, or several and no name."""
        if name is not None:
            if name not in self._models:
                raise Refused(NO_SUCH_MODEL)
            if ability not in self._models[name].of:
                raise Refused(WRONG_MODEL)
            return name, self._models[name]
        able = [(key, model) for key, model in self._models.items() if ability in model.of]
        if not able:
            raise Refused(WRONG_MODEL)
        if len(able) > 1:
            raise Refused(MODEL_NEEDED)
        return able[0]

    def describe(self) -> list[dict[str, Any]]:
        """For clients: name, kind, abilities and classes of each model."""
        return [
            {
                "name": name,
                "kind": model.predictor.artifact.kind,
                "abilities": list(model.of),
                "classes": list(model.predictor.classes),
                "size": list(model.predictor.size),
            }
            for name, model in self._models.items()
        ]

    def try_all(self) -> None:
        """Let each model do what it can with made pictures.

        Raises CheckpointError if numbers are not finite, a model fails, or a batch is answered
        otherwise than its pictures one by one.
        """
        chance = np.random.default_rng(0)
        for name, model in self._models.items():
            pictures = chance.integers(0, 256, (2, 48, 64, model.predictor.channels), np.uint8)
            for word, ability in model.of.items():
                try:
                    items = [ability.prepare(pixels, TRIED) for pixels in pictures]
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
                f"the model '{name}' answers a batch otherwise than single pictures: {apart:.2g}",
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
