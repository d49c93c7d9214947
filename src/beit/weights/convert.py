"""Ours to the layouts that others load: released files, timm, transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from beit.atomic_io import write_file
from beit.claim import claim_output
from beit.errors import CheckpointError, ConfigError
from beit.models.heads import BackboneModel, MaskedImageModel, PretrainedBackbone
from beit.models.position import relative_position_index
from beit.models.segmenter import Segmenter
from beit.models.vit import VisionTransformer
from beit.tokenizers.vq import VQKDTokenizer
from beit.weights.fetch import Fetched
from beit.weights.hf_timm_export import (
    check_epsilon,
    family_and_names,
    write_timm,
    write_transformers,
)
from beit.weights.keymap import INDEX, TABLE, Tensors, to_published
from beit.weights.load import NOTHING, import_foreign, open_artifact
from beit.weights.overrides import Overrides
from beit.weights.store import Artifact, write_artifact
from beit.weights.transfer import start_from

Layout = Literal["beit", "unilm", "timm", "hf"]
Bias = Literal["shared", "per-block"]
STATED = ("size", "heads", "mean", "std", "crop", "classes")
"""What can be stated where a file is loaded, as an option or in Python."""


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: Layout,
    bias: Bias | None = None,
    overrides: Overrides = NOTHING,
    sha256: str = "",
) -> tuple[Path, list[str]]:
    """Write a model in another layout; the place, and what was left out or assumed.

    Args:
        source: Whatever `open_artifact` takes.
        destination: A file or folder that does not exist yet.
        to: `unilm` is a file as Microsoft released them, `timm` and `hf` (transformers) are folders
            that these libraries load strictly, `beit` is an artifact.
        bias: Copy a shared relative bias into every block, or join equal tables.
        overrides: What is known about a foreign file beside its weights.
        sha256: What a file must have.
    """
    place = Path(destination)
    folder = to != "unilm"
    with claim_output(place, folder=folder, remedy="choose another destination") as temporary:
        artifact = open_artifact(source, overrides=overrides, sha256=sha256)
        if bias is not None:
            artifact = replace(artifact, model=rebiased(artifact.model, bias))
        notes = WRITERS[to](artifact, temporary)
        if to != "beit":
            notes += _unsaid(artifact, temporary)
    return place, notes


def rebiased(model: nn.Module, bias: Bias) -> nn.Module:
    """The same model with its relative bias shared by all blocks, or one table per block.

    Raises CheckpointError for tables that are not equal, ConfigError for a model without bias.
    """
    if not isinstance(model, BackboneModel) or model.backbone.config.relative_position == "none":
        raise ConfigError("the model has no relative position bias", remedy="leave --bias out")
    old = model.backbone
    if old.config.relative_position == bias:
        return model
    weights = dict(old.state_dict())
    new = VisionTransformer(replace(old.config, relative_position=bias))
    if bias == "shared":
        names = [f"blocks.{block}.attn.rel_pos_bias.{TABLE}" for block in range(old.config.depth)]
        tables = [weights.pop(name) for name in names]
        for name, table in zip(names, tables, strict=True):
            if not torch.equal(table, tables[0]):
                raise CheckpointError(
                    f"{name} differs from the table of the first block: they cannot be shared",
                    remedy="keep one table per block",
                )
        weights[f"rel_pos_bias.{TABLE}"] = tables[0]
        new.load_state_dict(weights)
    else:
        start_from(new, weights, old.config)
    model.backbone = new.eval()
    return model


def _unsaid(artifact: Artifact, place: Path) -> list[str]:
    """What whoever opens a written file has to state, or would take for something else: found by
    opening it, so that no list of it can be incomplete.

    Raises ConfigError for what the layout does not hold and nobody can state.
    """
    config = artifact.backbone or getattr(artifact.model, "config", None)
    shape = Overrides(**{name: getattr(config, name, None) for name in ("size", "heads")})
    unsaid: dict[str, object] = {}
    written = Fetched(place, place.name, "")
    try:
        again = import_foreign(written, "", NOTHING)
    except CheckpointError:
        unsaid = {name: value for name, value in vars(shape).items() if value is not None}
        try:
            again = import_foreign(written, "", shape)
        except CheckpointError as error:
            raise ConfigError(
                f"the layout does not hold this model: {error.problem}", remedy="use --to beit"
            ) from error
    here, there = _answers_by(artifact), _answers_by(again)
    unsaid |= {name: value for name, value in here.items()
               if name in there and value != there[name]}  # fmt: skip
    stated, lost = (
        "; ".join(f"{name} {value!s:.80}" for name, value in unsaid.items()
                  if (name in STATED) == may_be)
        for may_be in (True, False)
    )  # fmt: skip
    notes = []
    if stated:
        notes.append(f"state this where the file is loaded, as the layout does not: {stated}")
    if lost:
        notes.append(f"left out, as the layout has no place for it: {lost}")
    return notes


def _answers_by(artifact: Artifact) -> dict[str, Any]:
    """What a model answers by beside its weights."""
    model = artifact.model
    values: dict[str, Any] = dict(vars(artifact.details), trained={})
    if not artifact.details.classes:
        del values["classes"]  # then they have numbers for names, wherever they are
    if isinstance(model, BackboneModel):
        config = model.backbone.config
        values |= {name: getattr(config, name)
                   for name in ("size", "heads", "mean", "std", "norm_epsilon")}  # fmt: skip
        values["crop"] = round(config.size[0] / int(config.size[0] / artifact.details.crop), 3)
    if isinstance(model, Segmenter):  # which slides over images of any size
        values |= {"out_indices": model.out_indices, "crop": None, "resize": None}
        values |= vars(values.pop("inference"))
    if isinstance(model, MaskedImageModel) and model.aggregation is not None:
        values["early_layer"] = model.aggregation.config.early_layer
    return values


# -- the published layout ------------------------------------------------------------------------


def published(model: nn.Module) -> Tensors:
    """The weights under published names, with the index that released files hold."""
    tensors = to_published(model.state_dict(), family_and_names(model)[1])
    if isinstance(model, BackboneModel):
        grid = model.backbone.config.grid
        tables = [name for name in tensors if name.endswith(TABLE)]
        for name in tables:
            tensors[name.replace(TABLE, INDEX)] = relative_position_index(grid).clone()
    return tensors


def _unilm(artifact: Artifact, place: Path) -> list[str]:
    model = artifact.model
    if not isinstance(model, BackboneModel | VQKDTokenizer) or isinstance(
        model, PretrainedBackbone
    ):
        raise ConfigError(
            f"a {type(model).__name__} was never published as plain weights",
            remedy="the encoder of DALL-E goes to transformers (--to hf), a backbone alone to "
            "timm, any of them to our own layout (--to beit)",
        )
    if isinstance(model, BackboneModel):
        check_epsilon(model.backbone.config, "a released file")
    content: dict[str, Any] = {"model": published(model)}
    if isinstance(model, Segmenter):
        content = {"state_dict": content["model"]}
    if artifact.details.classes:
        content["meta"] = {"CLASSES": list(artifact.details.classes)}
    whole = BytesIO()  # torch's own writer may end the process where the disk is full
    torch.save(content, whole)
    write_file(place, [whole.getbuffer()])
    return []


def _ours(artifact: Artifact, place: Path) -> list[str]:
    write_artifact(place, artifact.model, artifact.details)
    return []


WRITERS: dict[Layout, Callable[[Artifact, Path], list[str]]] = {
    "beit": _ours,
    "unilm": _unilm,
    "timm": write_timm,
    "hf": write_transformers,
}
