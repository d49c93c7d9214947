"""Artifacts: a model that works alone. `model.safetensors` with `config.json` beside it.

The config says everything that using the model takes: architecture, classes, pixel statistics, the
evaluation crop, the identity of the tokenizer, versions, and the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import safetensors.torch
import torch
from torch import Tensor, nn

from beit.config.data import Resize, check_value_range
from beit.config.model import VisionTransformerConfig
from beit.config.runs import AggregationConfig, HeadConfig
from beit.config.segment_run import InferenceConfig
from beit.config.segmentation import SegmentationHeadConfig
from beit.config.tokenizer import Interpolation, TokenizerConfig
from beit.config.tree import from_json, to_json
from beit.durable import make_folder, replace_folder, write_file
from beit.errors import BeitError, CheckpointError, ConfigError, ResourceError, of_another_format
from beit.models.digest import weights_digest
from beit.models.heads import BackboneModel, BareBackbone, Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.tokenizers.base import VisualTokenizer

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
AGAIN = "copy the artifact again from where it was made"
Kind = Literal["tokenizer", "masked", "backbone", "classifier", "segmenter"]


@dataclass(frozen=True, kw_only=True)
class Details:
    """What an artifact says beside its architecture."""

    classes: tuple[str, ...] = ()
    """Class names in the order of the logits."""
    multi_label: bool = False
    """Whether each class is answered independently, by a sigmoid, and an image may have several."""
    thresholds: tuple[float, ...] = ()
    """Of a multi-label classifier, the probability from which each class counts; empty: 0.5."""
    value_range: tuple[float, float] | None = None
    """The values that become black and white in images of more than 8 bits, as in training; None:
    what each file states, or all of its type."""
    crop: float = 1.0
    """Share of the picture that evaluation looks at: centre crop of size / crop."""
    resize: Resize = "cover"
    """Whether an image keeps its proportions when it is resized."""
    interpolation: Interpolation = "bicubic"
    """How an image is resized."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """How a segmenter reads a whole picture."""
    tokenizer: str = ""
    """SHA-256 of the tokenizer whose tokens were predicted."""
    trained: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: recipe, steps, data fingerprint, metrics."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model in evaluation mode, on the CPU, with its details."""

    kind: Kind
    model: nn.Module
    details: Details

    @property
    def backbone(self) -> VisionTransformerConfig | None:
        """The config of the backbone, if the model has one."""
        return self.model.backbone.config if isinstance(self.model, BackboneModel) else None

    def version(self) -> str:
        """16 hex digits that differ where answers do: from weights, architecture and details."""
        answers = replace(self.details, trained={})
        told = [_describe(self.model), to_json(answers), weights_digest(self.model)]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _describe(model: nn.Module) -> dict[str, Any]:
    """Kind and architecture of a model."""
    if isinstance(model, VisualTokenizer):
        return {"kind": "tokenizer", "tokenizer": to_json(model.config)}
    if isinstance(model, MaskedImageModel):
        extra = model.aggregation
        return {
            "kind": "masked",
            "backbone": to_json(model.backbone.config),
            "outputs": model.outputs,
            "aggregation": None if extra is None else to_json(extra.config),
        }
    if isinstance(model, BareBackbone):
        return {"kind": "backbone", "backbone": to_json(model.backbone.config)}
    if isinstance(model, Segmenter):
        return {
            "kind": "segmenter",
            "backbone": to_json(model.backbone.config),
            "head": to_json(model.config),
            "outputs": model.classes,
        }
    assert isinstance(model, Classifier)
    return {
        "kind": "classifier",
        "backbone": to_json(model.backbone.config),
        "head": {"pooling": model.pooling},
        "outputs": model.head.out_features,
    }


def _build(architecture: dict[str, Any]) -> nn.Module:
    """The model that `_describe` described, with fresh weights."""
    kind = architecture["kind"]
    if kind not in get_args(Kind):
        raise CheckpointError(
            f"the artifact holds a model of kind '{kind}', which this version does not know",
            remedy="use the version of beit that wrote it",
        )
    if kind == "tokenizer":
        return from_json(architecture["tokenizer"], TokenizerConfig).build()
    backbone = from_json(architecture["backbone"], VisionTransformerConfig)
    if kind == "masked":
        extra = architecture.get("aggregation")
        aggregation = from_json(extra, AggregationConfig) if extra else None
        return MaskedImageModel(backbone, architecture["outputs"], aggregation)
    if kind == "backbone":
        return BareBackbone(backbone)
    if kind == "segmenter":
        segmentation = from_json(architecture["head"], SegmentationHeadConfig)
        return Segmenter(backbone, architecture["outputs"], segmentation)
    head = HeadConfig(pooling=architecture["head"]["pooling"])
    return Classifier(backbone, architecture["outputs"], head)


def save_artifact(folder: Path, model: nn.Module, details: Details) -> Path:
    """Write an artifact; an older one in its place is replaced only once the new one is whole."""
    import beit

    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    data = safetensors.torch.save(tensors)
    config = {
        "format": FORMAT,
        "architecture": _describe(model),
        "classes": list(details.classes),
        "multi_label": details.multi_label,
        "thresholds": list(details.thresholds),
        "value_range": details.value_range,
        "crop": details.crop,
        "resize": details.resize,
        "interpolation": details.interpolation,
        "inference": to_json(details.inference),
        "tokenizer": details.tokenizer,
        "trained": details.trained,
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": {"beit": beit.__version__, "torch": torch.__version__},
    }
    temporary = folder.with_name(f".writing-{folder.name}")
    try:
        make_folder(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_file(temporary / WEIGHTS, [data])
        write_file(temporary / CONFIG, [json.dumps(config, indent=1).encode()])
        replace_folder(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ResourceError(
            f"the artifact cannot be written to {folder}: {error.strerror}",
            remedy="make room or permit writing, then go on with --resume",
        ) from error
    return folder


def find_artifact(path: str | Path) -> Path:
    """The artifact's folder: the path itself, or the `model` folder of a run.

    Raises CheckpointError if there is neither.
    """
    folder = Path(path)
    for candidate in (folder, folder / "model"):
        if (candidate / WEIGHTS).is_file() and (candidate / CONFIG).is_file():
            return candidate
    unfinished = (folder / "checkpoints").is_dir()
    raise CheckpointError(
        f"{path} is no artifact: it has no {WEIGHTS} with a {CONFIG}",
        remedy="that run is not finished: go on with --resume"
        if unfinished
        else "give the folder of a finished run, or its `model` folder",
    )


class ArtifactFiles(NamedTuple):
    """The files of an artifact, read once and verified: what is used is what was hashed, whatever
    becomes of the files meanwhile."""

    folder: Path
    config: bytes
    weights: bytes


def read_config(path: str | Path) -> dict[str, Any]:
    """The config of an artifact, checked for its format. Reads no weights."""
    file = find_artifact(path) / CONFIG
    return _parsed(file, _read(file))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", remedy=AGAIN) from error


def _parsed(file: Path, content: bytes) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}", remedy=AGAIN) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object", remedy=AGAIN)
    if config.get("format") != FORMAT:
        versions = config.get("versions")
        raise of_another_format(
            CheckpointError,
            f"the artifact {file.parent}",
            found=config.get("format"),
            reads=FORMAT,
            made_by=versions.get("beit") if isinstance(versions, dict) else None,
        )
    return config


def read_artifact(path: str | Path) -> ArtifactFiles:
    """The bytes of an artifact; of one that is replaced meanwhile, both of the same.

    Raises CheckpointError if the weights are not those that the config names.
    """
    folder = find_artifact(path)
    config = _read(folder / CONFIG)
    while True:
        weights = _read(folder / WEIGHTS)
        stated = _parsed(folder / CONFIG, config).get("sha256")
        if hashlib.sha256(weights).hexdigest() == stated:
            return ArtifactFiles(folder, config, weights)
        before, config = config, _read(folder / CONFIG)
        if config == before:
            raise CheckpointError(
                f"{folder / WEIGHTS} is damaged: its hash is not the one in {CONFIG}", remedy=AGAIN
            )


def load_artifact(path: str | Path) -> Artifact:
    """Load an artifact, verified and complete.

    Raises CheckpointError for damaged weights, or weights that do not fit the architecture.
    """
    return artifact_of(read_artifact(path))


def artifact_of(files: ArtifactFiles) -> Artifact:
    """The model in the files of an artifact. Raises CheckpointError as `load_artifact` does."""
    folder, config = files.folder, _parsed(files.folder / CONFIG, files.config)
    try:
        model = _build(config["architecture"])
        weights = safetensors.torch.load(files.weights)
        _refuse_narrowing(folder, weights, model)
        model.load_state_dict(weights)
        details = Details(
            classes=tuple(config["classes"]),
            multi_label=config.get("multi_label", False),  # older artifacts have neither
            thresholds=tuple(config.get("thresholds", ())),
            value_range=_value_range(config.get("value_range")),
            crop=config["crop"],
            resize=config.get("resize", "cover"),  # older artifacts do not say
            interpolation=config.get("interpolation", "bicubic"),
            inference=from_json(config["inference"], InferenceConfig)
            if "inference" in config  # older artifacts have none
            else InferenceConfig(),
            tokenizer=config["tokenizer"],
            trained=config["trained"],
        )
    except BeitError:
        raise
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} does not hold what its {CONFIG} says: {error}",
            remedy=AGAIN,
        ) from error
    model.eval()
    return Artifact(kind=config["architecture"]["kind"], model=model, details=details)


def _value_range(stated: Any) -> tuple[float, float] | None:
    """As written by `save_artifact`; older artifacts have none. Raises CheckpointError."""
    if stated is None:
        return None
    if (
        not isinstance(stated, list)
        or len(stated) != 2
        or not all(type(value) in (int, float) for value in stated)
    ):
        raise CheckpointError(f"the artifact's value_range is {stated!r}", remedy=AGAIN)
    found = (float(stated[0]), float(stated[1]))
    try:
        check_value_range(found)
    except ConfigError as error:
        raise CheckpointError(f"the artifact's {error.problem}", remedy=AGAIN) from error
    return found


def _refuse_narrowing(folder: Path, weights: dict[str, Tensor], model: nn.Module) -> None:
    """Raise CheckpointError for weights of which the model, in the types of its own, would lose
    digits. Narrower ones are widened, which changes no value."""
    own = model.state_dict()
    lost = [
        f"{name} in {value.dtype}, not {own[name].dtype}"
        for name, value in weights.items()
        if name in own and torch.promote_types(value.dtype, own[name].dtype) != own[name].dtype
    ]
    if lost:
        raise CheckpointError(
            f"{folder} holds {', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}: loading it "
            "would lose digits",
            remedy="save it again from a model in float32: `model.float()`",
        )
