"""Open the teacher of a VQ-KD tokenizer: by preset, by name, or from a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from beit.errors import CheckpointError, ConfigError
from beit.json_object import parse_json
from beit.models.heads import BackboneModel
from beit.tokenizers.teachers import OurTeacher, Teacher, TimmTeacher, TransformersTeacher
from beit.weights.fetch import fetch
from beit.weights.load import open_artifact

PRESETS = {
    "clip": "vit_base_patch16_clip_quickgelu_224.openai",
    "dino": "vit_base_patch16_224.dino",
}
"""The teachers of the released tokenizers, by their names in timm."""


def open_teacher(reference: str) -> Teacher:
    """`clip` or `dino` as published, `timm:NAME`, `hf:ORG/NAME`, a folder of timm or transformers,
    or any model of ours or of the BEiT family.

    Raises CheckpointError if there is none, ResourceError if it cannot be fetched.
    """
    if reference in PRESETS:
        model = _from_timm(PRESETS[reference], reference)
        return TimmTeacher(reference, model, project=reference == "clip")
    if reference.startswith("timm:"):
        return TimmTeacher(reference, _from_timm(reference.removeprefix("timm:"), reference))
    folder = fetch(reference).path
    described = _description(folder)
    if isinstance(described.get("architecture"), str):
        return TimmTeacher(reference, _from_timm(f"local-dir:{folder}", reference))
    if "model_type" in described:
        return _from_transformers(folder, described, reference)
    found = open_artifact(reference).model
    if not isinstance(found, BackboneModel):
        raise CheckpointError(
            f"{reference} has no backbone whose features could be taught",
            remedy="give a pre-trained or fine-tuned model as --teacher",
        )
    return OurTeacher(reference, found)


def _description(folder: Path) -> dict[str, Any]:
    """The config beside weights, if there is one that can be read."""
    try:
        found = parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _from_timm(name: str, reference: str) -> nn.Module:
    """A model of timm with its weights; where it can, one that reads images of any size."""
    import timm  # here, as it takes seconds to import

    try:
        try:
            model: nn.Module = timm.create_model(name, pretrained=True, dynamic_img_size=True)
        except TypeError:  # convolutional: it reads any size as it is
            model = timm.create_model(name, pretrained=True)
    except Exception as error:  # of timm, the hub or its HTTP library
        raise CheckpointError(
            f"the teacher {reference} does not come from timm: {str(error).partition(chr(10))[0]}",
            remedy="check the name with timm.list_pretrained(), and that the hub is reached",
        ) from error
    return model


def _from_transformers(folder: Path, described: dict[str, Any], reference: str) -> Teacher:
    """A vision model of transformers, from safetensors only."""
    try:
        from transformers import AutoModel, CLIPVisionModelWithProjection
    except ImportError as error:
        raise ConfigError(
            f"the teacher {reference} is a model of transformers, which is not installed",
            remedy="pip install transformers",
        ) from error
    clip = described["model_type"] in ("clip", "clip_vision_model")
    kind: Any = CLIPVisionModelWithProjection if clip else AutoModel
    try:
        model = kind.from_pretrained(str(folder), use_safetensors=True)
        stated = parse_json((folder / "preprocessor_config.json").read_bytes())
        mean, std = tuple(stated["image_mean"]), tuple(stated["image_std"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"the teacher {reference} cannot be opened: {str(error).partition(chr(10))[0]}",
            remedy="give a folder with config.json, preprocessor_config.json and safetensors",
        ) from error
    side = getattr(model.config, "image_size", 224)
    return TransformersTeacher(
        reference,
        model,
        mean=mean,
        std=std,
        size=(side, side) if isinstance(side, int) else tuple(side),
        patch=getattr(model.config, "patch_size", None),
        project=clip,
    )
