"""Open weights: an artifact of ours, or any released file of the BEiT family.

A foreign file goes through four steps: fetch, read (`foreign`), detect, build. Each returns what
the next one takes, and its assumptions become notes of the artifact.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from torch import nn

from beit.config.model import published_crop
from beit.config.plugins import call_outside, find_outside, names_outside
from beit.config.segment_run import InferenceConfig
from beit.data.class_names import ADE20K_CLASSES, IMAGENET, imagenet_classes
from beit.errors import BeitError, CheckpointError, ConfigError
from beit.hardware import raise_if_exhausted
from beit.models.heads import BackboneModel, Classifier
from beit.models.segmenter import Segmenter
from beit.terminal import printable
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.teachers import OurTeacher, Teacher, TimmTeacher, TransformersTeacher
from beit.weights.build import build_model
from beit.weights.detect import MERGE, Detected, detect
from beit.weights.fetch import Fetched, fetch, first_line
from beit.weights.foreign import find_processor, foreign_config, is_foreign, read_foreign
from beit.weights.kinds import describe
from beit.weights.library_configs import read_statistics
from beit.weights.overrides import Entries, Overrides
from beit.weights.store import CONFIG, WEIGHTS, Artifact, Details, load_artifact

logger = logging.getLogger(__name__)

NOTHING = Overrides()
PRESETS = {
    "clip": "vit_base_patch16_clip_quickgelu_224.openai",
    "dino": "vit_base_patch16_224.dino",
}
"""The teachers of the released tokenizers, by their names in timm."""


def open_artifact(
    reference: str | Path, *, overrides: Overrides = NOTHING, sha256: str = ""
) -> Artifact:
    """Open a model, wherever it comes from, ready for use.

    Args:
        reference: The folder of a run or an artifact, a released weight file, a folder of timm or
            transformers, `hf:org/name`, `timm/name`, or a URL.
        overrides: What is known about a foreign file beside its weights; it takes precedence over
            what the file says.
        sha256: Hash that a file must have; see `fetch`.

    Raises:
        CheckpointError: There is no such model, or it is damaged, or not of the BEiT family.
        ConfigError: There are overrides for an artifact of ours, which needs none.
    """
    fetched = _with_its_config(fetch(reference, sha256=sha256))
    if is_foreign(fetched.path):
        artifact = import_foreign(fetched, str(reference), overrides)
        for note in artifact.details.trained["notes"]:
            _say_once(fetched.path, note)
        return artifact
    if overrides != NOTHING:
        raise ConfigError(
            f"{reference} is an artifact of ours, which says all about itself",
            remedy="leave size, heads, mean, std, crop and classes out",
        )
    return load_artifact(fetched.path)


def _with_its_config(fetched: Fetched) -> Fetched:
    """The folder of an artifact of ours where only its weight file was given.

    Raises CheckpointError for an adapter to weights that are elsewhere, and for a checkpoint that
    PyTorch has divided among processes.
    """
    path = fetched.path
    if path.suffix == ".distcp" or (path / ".metadata").is_file():
        raise CheckpointError(
            f"{path} holds weights divided among processes (torch.distributed.checkpoint)",
            remedy="join them: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            "FOLDER weights.pth",
        )
    if (path / "adapter_config.json").is_file() and not (path / CONFIG).is_file():
        raise CheckpointError(f"{path} holds an adapter (PEFT) to other weights", remedy=MERGE)
    ours = path.name == WEIGHTS and (path.parent / CONFIG).is_file()
    if ours and not is_foreign(path.parent):
        return fetched._replace(path=path.parent)
    return fetched


def open_tokenizer(
    reference: str | Path, *, may_import: bool = True, artifact: Artifact | None = None
) -> VisualTokenizer:
    """Open a visual tokenizer, frozen.

    Args:
        reference: An artifact, a released file, or `module:function`, which returns a tokenizer.
        may_import: Whether the module of a function may be imported: true for names that a user
            typed, false for those that a file holds.
        artifact: What is at the reference, if it was opened already.

    Raises:
        CheckpointError: The reference holds no tokenizer.
        ConfigError: The function returns no tokenizer.
    """
    name = str(reference)
    if names_outside(name):
        function = find_outside(name, "tokenizer", may_import=may_import)
        tokenizer = call_outside(function, name, "tokenizer") if callable(function) else function
        if not isinstance(tokenizer, VisualTokenizer):
            raise ConfigError(
                f"tokenizer '{name}' gives {type(tokenizer).__name__}",
                remedy="name a function without arguments that returns a VisualTokenizer",
            )
        return tokenizer.freeze()
    artifact = artifact or open_artifact(reference)
    if not isinstance(artifact.model, VisualTokenizer):
        raise CheckpointError(
            f"{reference} holds a {artifact.kind} model, not a tokenizer",
            remedy="give the run of `beit tokenizer`, or a released tokenizer",
        )
    return artifact.model.freeze()


def open_teacher(reference: str) -> Teacher:
    """Open a teacher: `clip` or `dino` as published, `timm:NAME`, `hf:ORG/NAME`, a folder of timm
    or transformers, or any model of ours or of the BEiT family.

    Raises:
        CheckpointError: There is no such model.
        ResourceError: It cannot be fetched.
    """
    if reference in PRESETS:
        return _from_timm(PRESETS[reference], reference)
    if reference.startswith("timm:"):
        return _from_timm(reference.removeprefix("timm:"), reference)
    try:
        folder = fetch(reference).path
    except CheckpointError as error:
        if ":" in reference:
            raise
        remedy = f"give clip, dino or timm:NAME; or {error.remedy}"
        raise CheckpointError(error.problem, remedy=remedy) from error
    config = foreign_config(folder)
    if config is not None and isinstance(config.content.get("architecture"), str):
        return _from_timm(f"local-dir:{folder}", reference)
    if config is not None:
        return _from_transformers(folder, config, reference)
    found = open_artifact(reference).model
    if not isinstance(found, BackboneModel):
        raise CheckpointError(
            f"{reference} has no backbone whose features could be taught",
            remedy="give a pre-trained or fine-tuned model as --teacher",
        )
    return OurTeacher(reference, found)


def value_range_of(reference: str | Path) -> tuple[float, float] | None:
    """The range of values of the images that a model was trained on, if its artifact states one."""
    if not reference or names_outside(str(reference)):
        return None
    return open_artifact(reference).details.value_range


def import_foreign(fetched: Fetched, reference: str, overrides: Overrides) -> Artifact:
    """The model of another library's file or folder, with the notes on how it was read.

    Args:
        fetched: Where it lies, and the hash it had when it was fetched.
        reference: What the user gave, by which a published model is recognised.
        overrides: What is known about the model beside its weights.

    Raises:
        CheckpointError: The weights are not of the BEiT family, or were replaced meanwhile.
    """
    foreign = read_foreign(fetched.path, reference)
    if fetched.sha256 and foreign.sha256 not in ("", fetched.sha256):
        raise CheckpointError(
            f"{fetched.path} was replaced while it was opened: its SHA-256 was {fetched.sha256}, "
            f"and is {foreign.sha256}",
            remedy="see who writes there, and open it again",
        )
    try:
        found = detect(foreign, overrides)
    except (CheckpointError, ConfigError) as error:
        if str(foreign.place) in error.problem:
            raise
        raise CheckpointError(f"{foreign.place}: {error.problem}", remedy=error.remedy) from error
    try:
        model = build_model(found)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(
            f"{foreign.place} seems to be a BEiT file ({found.family}), but {error.problem}",
            remedy=error.remedy,
        ) from error
    known, inference, crop = found.known, InferenceConfig(), 1.0
    if isinstance(model, Segmenter):
        side = min(model.backbone.config.size)
        inference = InferenceConfig(short_side=side)
        found.notes.append(f"images are read with a shorter side of {side} pixels, as published")
    elif isinstance(model, BackboneModel):
        crop = published_crop(min(model.backbone.config.size))
    details = Details(
        classes=_classes(model, found, foreign.place),
        multi_label=bool(known.multi_label) and found.family == "classifier",
        crop=crop if known.crop is None else known.crop,
        resize=known.resize or "cover",
        interpolation=known.interpolation or "bicubic",
        inference=inference,
        trained={"from": fetched.reference, "notes": found.notes},
    )
    return Artifact(kind=describe(model)["kind"], model=model, details=details)


@functools.cache
def _say_once(place: Path, note: str) -> None:
    """Log a note once: a run opens one file for its architecture, its weights and its images."""
    logger.info("%s: %s", printable(place.name), note)


def _classes(model: nn.Module, found: Detected, place: Path) -> tuple[str, ...]:
    """Class names: stated, or those of ImageNet or ADE20K where the number of outputs matches."""
    if not isinstance(model, Classifier | Segmenter):
        return ()
    count = model.classes if isinstance(model, Segmenter) else model.head.out_features
    names = found.known.classes
    if names is not None:
        if len(names) != count:
            raise CheckpointError(
                f"{len(names)} class names are given for the {count} outputs of {place}",
                remedy="give one name per output, in their order",
            )
        return names
    if isinstance(model, Classifier) and count in IMAGENET:
        info = imagenet_classes(count)
        found.notes.append(f"class names of {IMAGENET[count]}, as it has {count} outputs")
        return tuple(info.index_to_description(index) for index in range(count))
    if isinstance(model, Segmenter) and count == len(ADE20K_CLASSES):
        found.notes.append(f"class names of ADE20K, as it has {count} outputs")
        return ADE20K_CLASSES
    found.notes.append("classes have numbers for names: the file does not name them")
    return tuple(f"class {index}" for index in range(count))


# -- teachers --------------------------------------------------------------------------------------


def _from_timm(name: str, reference: str) -> Teacher:
    """A model of timm with its weights; where it can, one that reads images of any size."""
    import timm  # here, as it takes seconds to import

    model: nn.Module
    try:
        try:
            model = timm.create_model(name, pretrained=True, dynamic_img_size=True)
        except TypeError:  # convolutional: it reads any size as it is
            model = timm.create_model(name, pretrained=True)
        return TimmTeacher(reference, model, project=reference == "clip")
    except Exception as error:  # of timm, the hub or its HTTP library
        raise_if_exhausted(error)
        raise CheckpointError(
            f"the teacher {reference} does not come from timm: {first_line(error)}",
            remedy="check the name with timm.list_pretrained(), and that the hub is reached",
        ) from error


def _from_transformers(folder: Path, config: Entries, reference: str) -> Teacher:
    """A vision model of transformers, from safetensors only."""
    try:
        from transformers import AutoModel, CLIPVisionModelWithProjection
    except ImportError as error:
        raise ConfigError(
            f"the teacher {reference} is a model of transformers, which is not installed",
            remedy="pip install transformers",
        ) from error
    clip = config.content["model_type"] in ("clip", "clip_vision_model")
    kind: Any = CLIPVisionModelWithProjection if clip else AutoModel
    try:
        model = kind.from_pretrained(str(folder), use_safetensors=True)
        processor, side = find_processor(folder), getattr(model.config, "image_size", 224)
        if processor is None:
            raise LookupError("it has no preprocessor_config.json")
        known = read_statistics(processor, getattr(model.config, "num_channels", 3))
        return TransformersTeacher(
            reference,
            model,
            mean=known.mean or (),
            std=known.std or (),
            size=(side, side) if isinstance(side, int) else tuple(side),
            patch=getattr(model.config, "patch_size", None),
            project=clip,
        )
    except BeitError:
        raise
    except Exception as error:  # of transformers, which finds what is wrong while it builds
        raise_if_exhausted(error)
        raise CheckpointError(
            f"the teacher {reference} cannot be opened: {first_line(error)}",
            remedy="give a folder with config.json, preprocessor_config.json and safetensors",
        ) from error
