"""Convert our models to the layouts that others load: released files, timm, transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import nn

from beit.atomic_io import write_file
from beit.claim import claim_output
from beit.config import UperNetConfig, VisionTransformerConfig
from beit.config.validation import require
from beit.errors import CheckpointError, ConfigError
from beit.models.heads import BackboneModel, Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.layers import NORM_EPSILON
from beit.models.position import relative_position_index
from beit.models.segmenter import Segmenter
from beit.terminal import shown
from beit.tokenizers.dalle import DalleTokenizer
from beit.tokenizers.vq import VQKDTokenizer
from beit.weights import keymap
from beit.weights.fetch import Fetched
from beit.weights.foreign import CONFIG, PREPROCESSOR
from beit.weights.keymap import Family, Pairs, Tensors, to_published
from beit.weights.library_configs import OFFSET, PILLOW
from beit.weights.load import NOTHING, import_foreign, open_artifact
from beit.weights.overrides import Overrides
from beit.weights.store import WEIGHTS, Artifact, write_artifact
from beit.weights.transfer import Bias, rebiased

Layout = Literal["beit", "unilm", "timm", "hf"]
STATED = ("size", "heads", "mean", "std", "crop", "classes")
"""What can be stated where a file is loaded, as an option or in Python."""
ARCHITECTURES: dict[Family, str] = {
    "masked": "BeitForMaskedImageModeling",
    "classifier": "BeitForImageClassification",
    "segmenter": "BeitForSemanticSegmentation",
}


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: Layout,
    bias: Bias | None = None,
    overrides: Overrides = NOTHING,
    sha256: str = "",
) -> tuple[Path, list[str]]:
    """Write a model in another layout.

    Args:
        source: Whatever `open_artifact` takes.
        destination: A file or folder that does not exist yet.
        to: `unilm` is a file as Microsoft released them, `timm` and `hf` (transformers) are folders
            that these libraries load strictly, `beit` is an artifact.
        bias: Copy a shared relative bias into every block, or join equal tables; None changes
            nothing.
        overrides: What is known about a foreign file beside its weights.
        sha256: Hash that a file must have; see `fetch`.

    Returns:
        The destination, and notes on what was left out or assumed.
    """
    place = Path(destination)
    folder = to != "unilm"
    with claim_output(place, folder=folder, remedy="choose another destination") as temporary:
        artifact = open_artifact(source, overrides=overrides, sha256=sha256)
        if bias is not None:
            artifact = replace(artifact, model=rebiased(artifact.model, bias))
        if to == "beit":
            write_artifact(temporary, artifact.model, artifact.details)
            return place, []
        writers = {"unilm": write_released, "timm": write_timm, "hf": write_transformers}
        notes = writers[to](artifact, temporary)
        return place, notes + _unsaid(artifact, temporary)


def _unsaid(artifact: Artifact, place: Path) -> list[str]:
    """Notes on what has to be stated where the written file is opened, and on what is lost.

    They are found by opening it, so that no list can be incomplete. Raises ConfigError for what the
    layout does not hold and nobody can state.
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
        "; ".join(f"{name} {value if isinstance(value, str) else shown(value)}"
                  for name, value in unsaid.items()
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
    """What decides the answers of a model besides its weights."""
    model = artifact.model
    values: dict[str, Any] = dict(vars(artifact.details), trained={})
    if not artifact.details.classes:
        del values["classes"]  # then they have numbers for names in every layout
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


def family_and_names(model: nn.Module) -> tuple[Family, Pairs]:
    """What a model is for, and how its names relate to the published ones."""
    if isinstance(model, MaskedImageModel | PretrainedBackbone):
        return "masked", keymap.MASKED
    if isinstance(model, Classifier):
        return "classifier", keymap.CLASSIFIER[model.pooling]
    if isinstance(model, Segmenter):
        return "segmenter", keymap.SEGMENTER
    assert isinstance(model, VQKDTokenizer)
    return "vqkd", keymap.VQKD


def check_epsilon(backbone: VisionTransformerConfig, reader: str) -> None:
    """Raise ConfigError if a reader that knows only BEiT's epsilon would change the norms much."""
    require(
        backbone.norm_epsilon <= 10 * NORM_EPSILON,
        f"{reader} has no place for the epsilon of its norms, {backbone.norm_epsilon}: it uses "
        f"{NORM_EPSILON}",
        "use --to hf or beit",
    )


def _write(folder: Path, tensors: Tensors, files: dict[str, dict[str, Any]]) -> None:
    folder.mkdir()
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    safetensors.torch.save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))


# -- the published layout ------------------------------------------------------------------------


def published(model: nn.Module) -> Tensors:
    """The weights under published names, with the index that released files hold."""
    tensors = to_published(model.state_dict(), family_and_names(model)[1])
    if isinstance(model, BackboneModel):
        grid = model.backbone.config.grid
        for name in [name for name in tensors if name.endswith(keymap.TABLE)]:
            index = name.replace(keymap.TABLE, keymap.INDEX)
            tensors[index] = relative_position_index(grid).clone()
    return tensors


def write_released(artifact: Artifact, place: Path) -> list[str]:
    """Write a file as Microsoft released them. Nothing is left out, so there are no notes."""
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


# -- timm ----------------------------------------------------------------------------------------


def write_timm(artifact: Artifact, place: Path) -> list[str]:
    """Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    Pre-trained models lose what only pre-training needs, as timm has no such model. Returns notes
    on what was left out.
    """
    model, details, notes = artifact.model, artifact.details, []
    if not isinstance(model, MaskedImageModel | PretrainedBackbone | Classifier):
        raise ConfigError(
            f"timm has no model for a {artifact.kind}", remedy="use --to unilm, hf or beit"
        )
    backbone = model.backbone.config
    check_epsilon(backbone, "timm")
    tensors = to_published(model.state_dict(), family_and_names(model)[1])
    if isinstance(model, MaskedImageModel):
        dropped = [name for name in tensors
                   if name.startswith(("lm_head.", "cls_pt_")) or name == "mask_token"]  # fmt: skip
        tensors = {name: value for name, value in tensors.items() if name not in dropped}
        notes.append(f"left out, as timm has no place for them: {', '.join(sorted(dropped))}")
    outputs = model.head.out_features if isinstance(model, Classifier) else 0
    mean_pooled = isinstance(model, Classifier) and model.pooling == "mean"
    config = {
        "architecture": "beit_base_patch16_224",  # the rest of it follows in model_args
        "num_classes": outputs,
        "num_features": backbone.width,
        "model_args": {
            "global_pool": "avg" if mean_pooled else "token",
            "img_size": list(backbone.size),
            "patch_size": backbone.patch,
            "in_chans": backbone.channels,
            "embed_dim": backbone.width,
            "depth": backbone.depth,
            "num_heads": backbone.heads,
            "mlp_ratio": backbone.hidden / backbone.width,
            "init_values": backbone.layer_scale,
            "use_abs_pos_emb": backbone.absolute_position,
            "use_rel_pos_bias": backbone.relative_position == "per-block",
            "use_shared_rel_pos_bias": backbone.relative_position == "shared",
        },
        "pretrained_cfg": {
            "input_size": [backbone.channels, *backbone.size],
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "crop_pct": details.crop,
            "crop_mode": "center" if details.resize == "cover" else "squash",
            "interpolation": details.interpolation,
            "fixed_input_size": True,
            "num_classes": outputs,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if details.classes:
        config["label_names"] = list(details.classes)
    _write(place, tensors, {CONFIG: config})
    return notes


# -- transformers --------------------------------------------------------------------------------


def write_transformers(artifact: Artifact, place: Path) -> list[str]:
    """Write a folder for `BeitFor...from_pretrained` or `FlavaImageCodebook.from_pretrained`.

    Returns notes on what was left out.
    """
    model = artifact.model
    if isinstance(model, DalleTokenizer):
        return _flava(model, place)
    if not isinstance(model, BackboneModel) or isinstance(model, PretrainedBackbone):
        raise ConfigError(
            f"transformers has no model for a {type(model).__name__}",
            remedy="use --to beit, or --to timm for a backbone alone",
        )
    backbone = model.backbone.config
    # It mistakes the positions of other grids for those of another shape, and resizes them on every
    # forward pass, which no table can make up for: see `library_configs.as_read`.
    placed = backbone.absolute_position or backbone.relative_position != "none"
    require(
        not placed or backbone.grid[0] == backbone.grid[1],
        f"transformers computes wrong positions for images of {backbone.size[0]} x "
        f"{backbone.size[1]} pixels, which are not square",
        "use --to timm, unilm or beit",
    )
    family, pairs = family_and_names(model)
    tensors, notes = to_published(model.state_dict(), pairs), []
    second = [name for name in tensors if name.startswith("cls_pt_")]
    tensors = {name: value for name, value in tensors.items() if name not in second}
    if second:
        notes.append(f"left out, as transformers has no place for them: {', '.join(second)}")
    outputs = model.head.out_features if isinstance(model, Classifier) else 0
    count = model.classes if isinstance(model, Segmenter) else outputs
    names = artifact.details.classes or tuple(f"LABEL_{index}" for index in range(count))
    config = beit_config(backbone) | {
        "architectures": [ARCHITECTURES[family]],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
    if isinstance(model, MaskedImageModel):
        # The final norm belongs to the head, so the trunk must not have one of its own.
        config |= {"vocab_size": model.outputs, "use_mean_pooling": True}
    if isinstance(model, Classifier):
        config["use_mean_pooling"] = model.pooling == "mean"
        if artifact.details.multi_label:
            config["problem_type"] = "multi_label_classification"
    if isinstance(model, Segmenter):
        config |= _segmentation_config(model)
    preprocessor = _preprocessor(artifact, backbone)
    tensors = keymap.to_transformers(tensors, family)
    _write(place, tensors, {CONFIG: config, PREPROCESSOR: preprocessor})
    return notes


def beit_config(backbone: VisionTransformerConfig) -> dict[str, Any]:
    height, width = backbone.size
    return {
        "model_type": "beit",
        "image_size": height if height == width else [height, width],
        "patch_size": backbone.patch,
        "num_channels": backbone.channels,
        "hidden_size": backbone.width,
        "num_hidden_layers": backbone.depth,
        "num_attention_heads": backbone.heads,
        "intermediate_size": backbone.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": backbone.norm_epsilon,
        "layer_scale_init_value": backbone.layer_scale or 0.0,
        "use_mask_token": backbone.mask_token,
        "use_absolute_position_embeddings": backbone.absolute_position,
        "use_relative_position_bias": backbone.relative_position == "per-block",
        "use_shared_relative_position_bias": backbone.relative_position == "shared",
    }


def _segmentation_config(model: Segmenter) -> dict[str, Any]:
    head = model.config
    width = model.backbone.config.width
    if not isinstance(head, UperNetConfig) or head.head_channels not in (None, width):
        raise ConfigError(
            "transformers only has segmenters with a UperNet head as wide as the backbone",
            remedy="use --to unilm or beit",
        )
    require(
        max(model.out_indices) + OFFSET <= model.backbone.config.depth,
        f"the head reads block {max(model.out_indices)} of {model.backbone.config.depth}, "
        "which transformers cannot: its BeitForSemanticSegmentation reads the output of block "
        "i - 2 where out_indices says i, and i may not exceed the depth",
        "use --to unilm or beit",
    )
    return {
        "out_indices": [index + OFFSET for index in model.out_indices],
        "pool_scales": list(head.pools),
        "use_auxiliary_head": head.auxiliary,
        "auxiliary_channels": head.auxiliary_channels,
        "auxiliary_num_convs": 1,
        "auxiliary_concat_input": False,
    }


def _preprocessor(artifact: Artifact, backbone: VisionTransformerConfig) -> dict[str, Any]:
    """The image processor: that of BEiT stretches images, that of CLIP keeps their proportions."""
    (height, width), details = backbone.size, artifact.details
    whole = int(height / details.crop), int(width / details.crop)
    keeps = details.resize == "cover" and artifact.kind != "segmenter"
    size = {"shortest_edge": whole[0]} if keeps else {"height": whole[0], "width": whole[1]}
    return {
        "image_processor_type": "CLIPImageProcessor" if keeps else "BeitImageProcessor",
        "do_resize": True,
        "size": size,
        "do_center_crop": keeps or details.crop < 1,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(backbone.mean),
        "image_std": list(backbone.std),
        "resample": next(key for key, name in PILLOW.items() if name == details.interpolation),
        "do_convert_rgb": backbone.channels == 3,
        **({} if keeps else {"do_reduce_labels": False}),
    }


def _flava(tokenizer: DalleTokenizer, place: Path) -> list[str]:
    codebook = tokenizer.config
    config = {
        "model_type": "flava_image_codebook",
        "architectures": ["FlavaImageCodebook"],
        "num_groups": 4,
        "input_channels": codebook.channels,
        "num_blocks_per_group": codebook.blocks_per_group,
        "hidden_size": codebook.hidden,
        "vocab_size": codebook.codes,
    }
    _write(place, keymap.to_flava(tokenizer.state_dict()), {CONFIG: config})
    return ["the decoder, as transformers has no place for it"] if codebook.decoder else []
