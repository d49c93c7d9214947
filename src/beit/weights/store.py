"""Artifacts: self-contained models. `model.safetensors` with `config.json` beside it.

The config holds everything that is needed to use the model: architecture, classes, pixel
statistics, the evaluation crop, the identity of the tokenizer, versions, and the SHA-256 of the
weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import safetensors.torch
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from beit.atomic_io import beside, make_folder, replace_folder, write_file
from beit.config.artifact import ClassifierArchitecture, SegmenterArchitecture
from beit.config.data import Resize, check_value_range
from beit.config.model import VisionTransformerConfig
from beit.config.segment_run import InferenceConfig
from beit.config.tokenizer import Interpolation
from beit.config.tree import from_json, to_json
from beit.config.validation import (
    Config,
    Crop,
    Entries,
    Fraction,
    Measured,
    NonNegativeInt,
    checked,
    require,
)
from beit.data.augment import EvaluationView
from beit.errors import (
    BeitError,
    CheckpointError,
    ConfigError,
    ResourceError,
    nearest,
    of_another_format,
)
from beit.hardware import raise_if_exhausted
from beit.json_object import parse_object, read_bytes
from beit.models.heads import BackboneModel, weights_digest
from beit.terminal import shown
from beit.weights.keymap import listed
from beit.weights.kinds import Architecture, architecture_of, build, describe
from beit.weights.transfer import build_strictly

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
LIKELY = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.tar", "*.ckpt", "*/config.json",
          "*/.metadata")  # fmt: skip
"""Where a folder that is no artifact may hold weights."""
AGAIN = "copy the artifact again from where it was made"
TRAINED = Entries(
    {
        "recipe": str,
        "steps": NonNegativeInt,
        "images": NonNegativeInt,
        "data": str,
        "division": dict[str, Any],
        "metrics": dict[str, Measured],
        "from": str,
        "notes": tuple[str, ...],
    }
)


BEST = 5
"""Classes in an answer of a single-label model."""
EVEN = 0.5
"""Threshold of a label for which the artifact states none."""


class Label(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float
    threshold: float | None = None
    """The probability from which a label of a multi-label model counts."""

    @property
    def selected(self) -> bool:
        """Whether the label counts; the classes of a single-label model are only ranked."""
        return self.threshold is None or self.probability >= self.threshold

    def answer(self) -> dict[str, str | float]:
        """The label as JSON; without a threshold where there is none."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Details(Config):
    """What an artifact states besides its architecture, and so how the logits of a classifier are
    read: only this class decides between softmax and sigmoid.

    The probabilities of a single-label model add up to one for each image. Those of a multi-label
    model are independent, and a label counts from its threshold on.
    """

    classes: tuple[str, ...] = ()
    """Class names in the order of the logits."""
    multi_label: bool = False
    """Whether each class is answered independently, by a sigmoid, and an image may have several."""
    thresholds: tuple[Fraction, ...] = ()
    """The probability from which each class of a multi-label classifier counts; empty: 0.5."""
    value_range: tuple[float, float] | None = None
    """The values that become black and white in images of more than 8 bits, as in training; None:
    what each file states, or all of its type."""
    crop: Crop = 1.0
    """Fraction of the image that evaluation looks at: centre crop of size / crop."""
    resize: Resize = "cover"
    """Whether an image keeps its proportions when it is resized."""
    interpolation: Interpolation = "bicubic"
    """How an image is resized."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """How a segmenter reads a whole image."""
    tokenizer: str = ""
    """SHA-256 of the tokenizer whose tokens were predicted."""
    trained: Annotated[dict[str, Any], TRAINED] = field(default_factory=dict)
    """Where it comes from: recipe, steps, data fingerprint, metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_value_range(self.value_range)

    def view(
        self, size: tuple[int, int], *, crop: float | None = None, labelled: bool = False
    ) -> EvaluationView:
        """How images are prepared for the model.

        Args:
            size: Height and width in pixels.
            crop: Fraction of the image to look at; None: that of the artifact.
            labelled: Whether each image comes with its label.
        """
        crop = self.crop if crop is None else crop
        return EvaluationView(size, crop, self.resize, self.interpolation, labelled)

    @property
    def effective_thresholds(self) -> tuple[float, ...]:
        """The probability from which each class of a multi-label model counts; else empty."""
        return (self.thresholds or (EVEN,) * len(self.classes)) if self.multi_label else ()

    def probabilities(
        self, logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes"]:
        """The probabilities of the classes, in float32, on the device of the logits."""
        logits = logits.float()
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def decided(self, logits: Float[Tensor, "batch classes"]) -> Bool[Tensor, "batch classes"]:
        """The predicted classes: the best one, or those that reach their thresholds."""
        probabilities = self.probabilities(logits)
        if self.multi_label:
            thresholds = torch.tensor(self.effective_thresholds, dtype=torch.float64)
            return probabilities.double() >= thresholds.to(probabilities.device)
        best = torch.zeros_like(probabilities, dtype=torch.bool)
        return best.scatter(1, probabilities.argmax(dim=1, keepdim=True), value=True)

    def labels(
        self, probabilities: Float[Tensor, " classes"], top: int | None = None
    ) -> list[Label]:
        """The labels of an image, most probable first.

        With `top`, that many classes, whether they count or not. Without it the five most probable;
        of a multi-label model the labels that count, which may be none.
        """
        most = top
        if most is None:
            most = len(self.classes) if self.multi_label else BEST
        values, indices = probabilities.topk(min(most, len(self.classes)))
        thresholds = self.effective_thresholds or (None,) * len(self.classes)
        found = [
            Label(self.classes[index], value, thresholds[index])
            for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        return [label for label in found if label.selected or top is not None]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model in evaluation mode, on the CPU, with its details."""

    kind: str
    """The name of its `ModelKind`."""
    model: nn.Module
    details: Details

    @property
    def backbone(self) -> VisionTransformerConfig | None:
        """The config of the backbone, if the model has one."""
        return self.model.backbone.config if isinstance(self.model, BackboneModel) else None

    def version(self) -> str:
        """16 hex digits that differ where answers do: from weights, architecture and details."""
        answers = replace(self.details, trained={})
        parts = [describe(self.model), to_json(answers), weights_digest(self.model)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def save_artifact(
    folder: Path, model: nn.Module, details: Details, *, then: str = ", then continue with --resume"
) -> Path:
    """Write an artifact; an older one in its place is replaced only once the new one is whole.

    Args:
        folder: The folder of the artifact.
        model: A model of one of the `KINDS`.
        details: What the artifact states about the model.
        then: End of the error's remedy: what to do once there is room.

    Raises:
        ResourceError: The artifact cannot be written.
    """
    try:
        return write_artifact(folder, model, details)
    except OSError as error:
        raise ResourceError(
            f"the artifact cannot be written to {folder}: {error.strerror}",
            remedy=f"make room or permit writing{then}",
        ) from error


def write_artifact(folder: Path, model: nn.Module, details: Details) -> Path:
    """Write an artifact as `save_artifact` does.

    Args:
        folder: The folder of the artifact.
        model: A model of one of the `KINDS`.
        details: What the artifact states about the model.

    Raises:
        OSError: The artifact cannot be written; then nothing of it is left.
    """
    import beit

    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    data = safetensors.torch.save(tensors)
    fields = {name: value for name, value in to_json(details).items() if name != "type"}
    config = {
        "format": FORMAT,
        "architecture": describe(model),
        **fields,
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": {"beit": beit.__version__, "torch": torch.__version__},
    }
    temporary = beside(folder, "writing")
    try:
        make_folder(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_file(temporary / WEIGHTS, [data])
        write_file(temporary / CONFIG, [json.dumps(config, indent=1).encode()])
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def find_artifact(path: str | Path) -> Path:
    """The artifact's folder: the path itself, or the `model` folder of a run. Raises
    CheckpointError if there is neither."""
    folder = Path(path)
    for candidate in (folder, folder / "model"):
        if (candidate / WEIGHTS).is_file() and (candidate / CONFIG).is_file():
            return candidate
    if (folder / "folds.json").is_file():
        remedy = "its folds only measure: train once more without --folds"
    elif (folder / "checkpoints").is_dir():
        remedy = "that run is not finished: continue with --resume"
    else:
        inside = {each.relative_to(folder).parts[0]
                  for pattern in LIKELY for each in folder.glob(pattern)}  # fmt: skip
        remedy = "give the folder of a finished run, or its `model` folder"
        remedy += f", or what may be weights in it: {listed(sorted(inside))}" if inside else ""
    raise CheckpointError(
        f"{path} is not an artifact: it has no {WEIGHTS} with a {CONFIG}", remedy=remedy
    )


class Described(NamedTuple):
    """What the config of an artifact states, checked, without its weights."""

    architecture: Architecture
    details: Details
    versions: dict[str, str]


def read_described(path: str | Path) -> Described:
    """What an artifact states about itself. Raises CheckpointError for a config with errors."""
    file = find_artifact(path) / CONFIG
    return _described(file, read_bytes(file, CheckpointError, AGAIN))


def described(path: str | Path) -> Described | None:
    """What an artifact states about itself; None where there is none that can be read."""
    try:
        return read_described(path)
    except (BeitError, OSError):
        return None


def _described(file: Path, content: bytes) -> Described:
    config = _parsed(file, content)
    try:
        names = [item.name for item in fields(Details)]
        known = {*names, "format", "architecture", "sha256", "versions"}
        for key in config:
            if key not in known:
                raise ConfigError(f"there is no entry {shown(key)}", remedy=nearest(key, known))
        for key in ("classes", "crop", "tokenizer", "trained", "versions"):
            require(key in config, f"the entry '{key}' is missing", AGAIN)  # others are younger
        checked("versions", config["versions"], dict[str, str])
        if isinstance(config["trained"], dict) and "pictures" in config["trained"]:
            config["trained"]["images"] = config["trained"].pop("pictures")  # an old name
        details = from_json({name: config[name] for name in names if name in config}, Details)
        architecture = architecture_of(config.get("architecture"))
        _check_classes(details, architecture)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(
            f"{file} is not understood: {error.problem}", remedy=error.remedy
        ) from error
    return Described(architecture, details, config["versions"])


def _parsed(file: Path, content: bytes) -> dict[str, Any]:
    config = parse_object(file, content, CheckpointError, AGAIN)
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


def _check_classes(details: Details, architecture: Architecture) -> None:
    """Raise CheckpointError for class names or thresholds that are not as many as the outputs."""
    if not isinstance(architecture, ClassifierArchitecture | SegmenterArchitecture):
        return
    for what, values in (("class names", details.classes), ("thresholds", details.thresholds)):
        if values and len(values) != architecture.outputs:
            raise CheckpointError(
                f"{len(values)} {what} are given for {architecture.outputs} outputs",
                remedy="give one for each output, in their order",
            )


class ArtifactFiles(NamedTuple):
    """The files of an artifact, read once and verified: what is used is what was hashed, whatever
    becomes of the files meanwhile."""

    folder: Path
    config: bytes
    weights: bytes


def read_artifact(path: str | Path) -> ArtifactFiles:
    """The bytes of an artifact; if it is replaced meanwhile, both files are from the same one.

    Raises:
        CheckpointError: The weights are not those that the config names.
    """
    folder = find_artifact(path)
    config = read_bytes(folder / CONFIG, CheckpointError, AGAIN)
    while True:
        weights = read_bytes(folder / WEIGHTS, CheckpointError, AGAIN)
        stated = _parsed(folder / CONFIG, config).get("sha256")
        if hashlib.sha256(weights).hexdigest() == stated:
            return ArtifactFiles(folder, config, weights)
        before, config = config, read_bytes(folder / CONFIG, CheckpointError, AGAIN)
        if config == before:
            raise CheckpointError(
                f"{folder / WEIGHTS} is damaged: its hash is not the one in {CONFIG}", remedy=AGAIN
            )


def load_artifact(path: str | Path) -> Artifact:
    """Load an artifact. Raises CheckpointError if it is damaged or contradicts itself."""
    return artifact_of(read_artifact(path))


def artifact_of(files: ArtifactFiles) -> Artifact:
    """The model in the files of an artifact. Raises CheckpointError as `load_artifact` does."""
    folder = files.folder
    architecture, details, _ = _described(folder / CONFIG, files.config)
    try:
        weights = safetensors.torch.load(files.weights)
        model = build_strictly(partial(build, architecture), weights, CONFIG)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{folder}: {error.problem}", remedy=error.remedy) from error
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise_if_exhausted(error)
        raise CheckpointError(
            f"{folder} does not hold what its {CONFIG} says: {error}",
            remedy=AGAIN,
        ) from error
    model.eval()
    return Artifact(kind=describe(model)["kind"], model=model, details=details)
