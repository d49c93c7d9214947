"""Foreign weights, brought to published names: one file, or a folder of timm or transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from beit.artifact.architecture import Stated
from beit.artifact.container import Contents, read_contents
from beit.artifact.names import (
    Family,
    Tensors,
    any_starts,
    from_dalle,
    from_transformers,
)
from beit.artifact.published import is_published_hub, recognise_name
from beit.errors import CheckpointError

TRANSFORMERS_TAP = 2  # its out_indices count from the embedding, and from 1
FLAVA_CODEBOOK = "image_codebook."
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read
EPSILONS = (
    1e-6,
    1e-12,
)  # published, and the default of transformers: they differ by less than 1e-6


@dataclass(kw_only=True)
class Source:
    """Tensors under published names, what is stated of them, and what was noted on the way."""

    place: Path
    tensors: Tensors
    stated: Stated
    notes: list[str] = field(default_factory=list)
    sha256: str = ""
    """Of the bytes that were read, if they are those of one file."""


def read_source(path: Path, *, name: str = "") -> Source:
    """Read weights that are not ours. `name` is what the file is called where it was published.

    Raises CheckpointError for files that hold no weights, or weights of no known layout.
    """
    if path.is_dir():
        return _folder(path, name)
    beside = path.parent / CONFIG
    if path.name in WEIGHTS and beside.is_file() and _has_foreign_keys(_json(beside)):
        return _folder(path.parent, name)
    return _file(path, name or path.name)


def is_foreign(path: Path) -> bool:
    """Whether a path is for `read_source`: any file, or a folder of timm or transformers."""
    if path.is_file():
        return True
    config = path / CONFIG
    return config.is_file() and _has_foreign_keys(_json(config))


def _widened(tensors: Tensors, notes: list[str]) -> Tensors:
    """Floating tensors in float32, which all models here keep their weights in."""
    narrow = {str(value.dtype).removeprefix("torch.") for value in tensors.values()
              if value.is_floating_point() and value.dtype != torch.float32}  # fmt: skip
    if not narrow:
        return tensors
    notes.append(f"weights of {', '.join(sorted(narrow))} are widened to float32"
                 if "float64" not in narrow else "weights are brought to float32")  # fmt: skip
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
    }


# -- one file ------------------------------------------------------------------------------------


def _file(path: Path, name: str) -> Source:
    contents = read_contents(path)
    notes = list(_reading(contents))
    known = recognise_name(name, contents.sha256)
    stated = _from_metadata(contents.metadata)
    if known is not None:
        notes.append(f"known as the published {known.name}")
        stated = Stated(mean=known.mean, std=known.std, crop=known.crop).over(stated)
    tensors = _codebook(_widened(contents.tensors, notes))
    if any_starts(tensors, "blocks.group_1."):
        tensors = _dalle(tensors, path, notes)
    elif any_starts(tensors, "beit."):
        tensors = from_transformers(tensors, _transformers_family(tensors))
    return Source(place=path, tensors=tensors, stated=stated, notes=notes, sha256=contents.sha256)


def _reading(contents: Contents) -> Iterator[str]:
    """What there is to say about how a file was read."""
    if contents.wrapper:
        yield f"weights taken from '{contents.wrapper}'"
    if contents.left_out:
        yield f"left out of the file: {', '.join(contents.left_out)}"


def _from_metadata(metadata: Mapping[str, object]) -> Stated:
    """The class names that segmentation files carry."""
    meta = metadata.get("meta", metadata)
    names = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return Stated(classes=tuple(map(str, names)))
    return Stated()


def _codebook(tensors: Tensors) -> Tensors:
    """Of a whole FLAVA the tokenizer alone, which is DALL-E's encoder; everything else as it is."""
    if not any_starts(tensors, FLAVA_CODEBOOK):
        return tensors
    return {
        name.removeprefix(FLAVA_CODEBOOK): value
        for name, value in tensors.items()
        if name.startswith(FLAVA_CODEBOOK)
    }


def _dalle(tensors: Tensors, path: Path, notes: list[str]) -> Tensors:
    """The encoder, with the decoder that lies beside it, if one does."""
    entrance = next((tensors[name] for name in tensors if name.startswith("blocks.input.w")), None)
    if entrance is None or entrance.ndim != 4 or entrance.shape[-1] == 1:
        raise CheckpointError(
            f"{path} holds the decoder of the DALL-E tokenizer, which gives no tokens",
            remedy="give the encoder; a decoder.pkl beside it is read with it",
        )
    ours = from_dalle(tensors, "encoder")
    decoder = path.with_name("decoder.pkl")
    if path.name == "encoder.pkl" and decoder.is_file():
        ours |= from_dalle(read_contents(decoder).tensors, "decoder")
        notes.append(f"pictures are painted by {decoder.name}")
    else:
        notes.append("without a decoder.pkl beside it: it gives tokens, but paints no pictures")
    return ours


# -- a folder of timm or transformers ------------------------------------------------------------


def _has_foreign_keys(config: Mapping[str, Any]) -> bool:
    """transformers writes `model_type`; timm `architecture`, a name where we have a tree."""
    return "model_type" in config or isinstance(config.get("architecture"), str)


def _folder(folder: Path, name: str) -> Source:
    config = _json(folder / CONFIG)
    tensors, notes = _weights(folder)
    if "model_type" in config:
        return _transformers(folder, config, tensors, notes, name)
    if isinstance(config.get("architecture"), str):
        return _timm(folder, config, tensors, notes)
    raise CheckpointError(
        f"{folder / CONFIG} is neither ours, nor of transformers, nor of timm",
        remedy="give the folder of a BEiT model, or its weight file",
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise CheckpointError(
            f"{file.parent} has no readable {file.name}: {error.strerror}",
            remedy="give a weight file, or the folder of a model with its config.json",
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}", remedy="get it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object", remedy="get it again")
    return config


def _weights(folder: Path) -> tuple[Tensors, list[str]]:
    """The tensors of a folder, whole or in shards; safetensors before anything pickled."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            contents = read_contents(folder / name)
            notes = list(_reading(contents))
            return _widened(contents.tensors, notes), notes
        if index.is_file():
            placed = _json(index).get("weight_map")
            files = set(placed.values()) if isinstance(placed, dict) else set()
            if not files or any(Path(str(file)).name != file for file in files):
                raise CheckpointError(f"{index} names no files beside it", remedy="get it again")
            tensors: Tensors = {}
            for file in sorted(files):
                tensors |= read_contents(folder / file).tensors
            notes = [f"weights from {len(files)} files"]
            return _widened(tensors, notes), notes
    raise CheckpointError(
        f"{folder} has a {CONFIG}, but no {' or '.join(WEIGHTS)}",
        remedy="get the weights too, or give the weight file",
    )


def _transformers_family(tensors: Tensors) -> Family:
    """What a model of transformers is for."""
    if any_starts(tensors, "decode_head."):
        return "segmenter"
    if "lm_head.weight" in tensors:
        return "masked"
    if "classifier.weight" in tensors:
        return "classifier"
    raise CheckpointError(
        "the file holds a BeitModel of transformers without a head",
        remedy="save it with its head: BeitForMaskedImageModeling, BeitForImageClassification or "
        "BeitForSemanticSegmentation",
    )


def _transformers(
    folder: Path, config: dict[str, Any], tensors: Tensors, notes: list[str], name: str
) -> Source:
    kind = config["model_type"]
    tensors = _codebook(tensors)
    if any_starts(tensors, "blocks.group_1."):
        return Source(place=folder, tensors=_dalle(tensors, folder, notes), stated=Stated(),
                      notes=notes)  # fmt: skip
    if kind != "beit":
        raise CheckpointError(
            f"{folder} holds a model of type '{kind}'", remedy="give a model of the BEiT family"
        )
    family = _transformers_family(tensors)
    epsilon, activation = config.get("layer_norm_eps", 1e-12), config.get("hidden_act", "gelu")
    if epsilon not in EPSILONS or activation != "gelu":
        raise CheckpointError(
            f"{folder} has layer_norm_eps {epsilon} and activation '{activation}'",
            remedy="only gelu and an epsilon of 1e-6 (or transformers' 1e-12) are BEiT",
        )
    side = config.get("image_size", 224)
    labels = config.get("id2label") or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    named = bool(names) and names != tuple(f"LABEL_{index}" for index in range(len(names)))
    stated = Stated(
        size=(side, side) if isinstance(side, int) else (int(side[0]), int(side[1])),
        heads=config.get("num_attention_heads"),
        classes=names if named and family != "masked" else None,
        **_segmentation(config, name, notes) if family == "segmenter" else {},
    )
    preprocessor = folder / PREPROCESSOR
    if preprocessor.is_file():
        stated = stated.over(_preprocessing(_json(preprocessor)))
    return Source(
        place=folder, tensors=from_transformers(tensors, family), stated=stated, notes=notes
    )


def _segmentation(config: dict[str, Any], name: str, notes: list[str]) -> dict[str, Any]:
    """What a UperNet of transformers reads: the blocks it reads in truth, not those it names.

    Its `out_indices` are those that unilm counts from 0, but it reads two blocks earlier. The files
    that Microsoft converted were trained with the blocks named.
    """
    indices = config.get("out_indices", [3, 5, 7, 11])
    said: dict[str, Any] = {"pools": tuple(config.get("pool_scales", (1, 2, 3, 6)))}
    if is_published_hub(name):
        return said
    taps = tuple(index - TRANSFORMERS_TAP for index in indices)
    if min(taps) < 0:
        raise CheckpointError(
            f"out_indices {indices} read the patch embedding, which is no block",
            remedy="only outputs of blocks can be read here",
        )
    notes.append(f"the head reads blocks {', '.join(map(str, taps))}, as transformers does where "
                 f"its out_indices say {indices}")  # fmt: skip
    return said | {"taps": taps}


def _preprocessing(config: dict[str, Any]) -> Stated:
    """Pixel statistics and crop of an image processor; without a crop the family's stands."""

    def side(value: object) -> float | None:
        if isinstance(value, Mapping):
            value = value.get("shortest_edge", value.get("height"))
        return float(value) if isinstance(value, int | float) else None

    mean, std = config.get("image_mean"), config.get("image_std")
    whole, cropped = side(config.get("size")), side(config.get("crop_size"))
    crop = cropped / whole if config.get("do_center_crop") and whole and cropped else None
    return Stated(mean=tuple(mean) if mean else None, std=tuple(std) if std else None, crop=crop)


def _timm(folder: Path, config: dict[str, Any], tensors: Tensors, notes: list[str]) -> Source:
    if not config["architecture"].startswith("beit"):
        raise CheckpointError(
            f"{folder} holds timm's '{config['architecture']}'",
            remedy="give a model of the BEiT family",
        )
    said = config.get("pretrained_cfg") or {}
    shape, names = said.get("input_size"), said.get("label_names")
    stated = Stated(
        size=(int(shape[1]), int(shape[2])) if shape else None,
        mean=tuple(said["mean"]) if said.get("mean") else None,
        std=tuple(said["std"]) if said.get("std") else None,
        crop=said.get("crop_pct"),
        classes=tuple(names) if names else None,
    )
    return Source(place=folder, tensors=tensors, stated=stated, notes=notes)
