"""The one entrance for weights: an artifact of ours, or any released file of the BEiT family."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from beit.atomic_io import cache_dir
from beit.config.plugins import call_outside, find_outside, names_outside
from beit.config.segment_run import InferenceConfig
from beit.data.class_names import ADE20K_CLASSES, IMAGENET, imagenet_classes
from beit.errors import CheckpointError, ConfigError
from beit.models.heads import BackboneModel
from beit.models.segmenter import Segmenter
from beit.terminal import printable
from beit.tokenizers.base import VisualTokenizer
from beit.weights.architecture import Overrides
from beit.weights.build import build_model
from beit.weights.detect import MERGE, Detected, detect
from beit.weights.fetch import Fetched, fetch, file_hash
from beit.weights.foreign import Foreign, is_foreign, read_foreign
from beit.weights.kinds import Kind
from beit.weights.names import Family
from beit.weights.store import CONFIG, WEIGHTS, Artifact, Details, load_artifact, save_artifact

logger = logging.getLogger(__name__)

KINDS: dict[Family, Kind] = {
    "masked": "masked",
    "backbone": "backbone",
    "classifier": "classifier",
    "segmenter": "segmenter",
    "vqkd": "tokenizer",
    "dalle": "tokenizer",
}
NOTHING = Overrides()


def open_artifact(
    reference: str | Path, *, stated: Overrides = NOTHING, sha256: str = ""
) -> Artifact:
    """A model ready for use, wherever it comes from.

    `reference` is the folder of a run or an artifact, a released weight file, a folder of timm or
    transformers, `hf:org/name`, `timm/name`, or a URL. `stated` is what is known about a foreign
    file beside its weights, and stands over what the file says. Raises CheckpointError.
    """
    fetched = _with_its_config(fetch(reference, sha256=sha256))
    if not is_foreign(fetched.path):
        if stated != NOTHING:
            raise ConfigError(
                f"{reference} is an artifact of ours, which says all about itself",
                remedy="leave size, heads, mean, std, crop and classes out",
            )
        return load_artifact(fetched.path)
    if fetched.path.is_file():
        return _imported_once(fetched, str(reference), stated)
    return _imported(read_foreign(fetched.path, str(reference)), fetched.reference, stated)


def _with_its_config(fetched: Fetched) -> Fetched:
    """The folder of an artifact of ours where only its weight file was given.

    Raises CheckpointError for a folder that holds an adapter to weights that are elsewhere.
    """
    path = fetched.path
    if (path / "adapter_config.json").is_file() and not (path / CONFIG).is_file():
        raise CheckpointError(f"{path} holds an adapter (PEFT) to other weights", remedy=MERGE)
    beside = path.with_name(CONFIG)
    if path.name == WEIGHTS and beside.is_file() and not is_foreign(path.parent):
        return fetched._replace(path=path.parent)
    return fetched


def open_tokenizer(
    reference: str | Path, *, may_import: bool = True, artifact: Artifact | None = None
) -> VisualTokenizer:
    """The tokenizer of an artifact or a released file, or what `module:function` returns; frozen.

    `may_import` is for names that a user typed, not for those that a file holds. `artifact` is what
    is at the reference, if it was opened already.
    """
    if names_outside(str(reference)):
        return _outside_tokenizer(str(reference), may_import)
    artifact = artifact or open_artifact(reference)
    if not isinstance(artifact.model, VisualTokenizer):
        raise CheckpointError(
            f"{reference} holds a {artifact.kind} model, not a tokenizer",
            remedy="give the run of `beit tokenizer`, or a released tokenizer",
        )
    return artifact.model.freeze()


def value_range_of(reference: str | Path) -> tuple[float, float] | None:
    """The range of values that the model of an artifact has seen images in, if it states one."""
    if not reference or names_outside(str(reference)):
        return None
    return open_artifact(reference).details.value_range


def _outside_tokenizer(name: str, may_import: bool) -> VisualTokenizer:
    function = find_outside(name, "tokenizer", may_import=may_import)
    tokenizer = call_outside(function, name, "tokenizer") if callable(function) else function
    if not isinstance(tokenizer, VisualTokenizer):
        raise ConfigError(
            f"tokenizer '{name}' gives {type(tokenizer).__name__}",
            remedy="name a function without arguments that returns a VisualTokenizer",
        )
    return tokenizer.freeze()


def read_class_names(file: Path) -> tuple[str, ...]:
    """One class name per line. Raises CheckpointError for a file that cannot be read."""
    try:
        names = tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"the class names in {file} cannot be read: {error}",
            remedy="give a text file with one name per line",
        ) from error
    return names


def _imported_once(fetched: Fetched, reference: str, stated: Overrides) -> Artifact:
    """A tokenizer out of a pickle is kept as an artifact under the hash of its files."""
    file = fetched.path
    pickles = [file, file.with_name("decoder.pkl")] if file.name == "encoder.pkl" else []
    hashes = [file_hash(each) for each in pickles if each.is_file()]
    place = cache_dir() / "imported" / "-".join(hashes)
    if pickles and place.is_dir() and stated == NOTHING:
        logger.info("%s was imported before, to %s", file, place)
        return load_artifact(place)
    foreign = read_foreign(file, reference)
    expected = fetched.sha256 or "".join(hashes[:1])
    if expected and foreign.sha256 not in ("", expected):
        raise CheckpointError(
            f"{file} was replaced while it was opened: its SHA-256 was {expected}, and is "
            f"{foreign.sha256}",
            remedy="see who writes there, and open it again",
        )
    artifact = _imported(foreign, fetched.reference, stated)
    if pickles and stated == NOTHING and isinstance(artifact.model, VisualTokenizer):
        place.parent.mkdir(parents=True, exist_ok=True)
        save_artifact(place, artifact.model, artifact.details)
        logger.info("kept as %s", place)
    return artifact


def _imported(foreign: Foreign, origin: str, stated: Overrides) -> Artifact:
    """Read, detected, built: what the road ends with, and all that was noted on it."""
    try:
        detected = detect(foreign, stated)
    except CheckpointError as error:
        if str(foreign.place) in error.problem:
            raise
        raise CheckpointError(f"{foreign.place}: {error.problem}", remedy=error.remedy) from error
    family, said = detected.family, detected.stated
    try:
        model, assumed = build_model(detected.tensors, family, said)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(
            f"{foreign.place} seems to be a BEiT file ({family}), but {error.problem}",
            remedy=error.remedy,
        ) from error
    classes, how = _classes(detected, foreign)
    inference, tested = _inference(model)
    notes = (*detected.notes, *assumed, *tested, *how)
    details = Details(
        classes=classes,
        multi_label=bool(said.multi_label) and family == "classifier",
        crop=_crop(model, family, said),
        resize=said.resize or "cover",
        interpolation=said.interpolation or "bicubic",
        inference=inference,
        trained={"from": origin, "notes": list(notes)},
    )
    for note in notes:
        logger.info("%s: %s", printable(foreign.place.name), note)
    return Artifact(kind=KINDS[family], model=model, details=details)


def _crop(model: nn.Module, family: Family, stated: Overrides) -> float:
    """The evaluation crop: stated, or as published: 0.875 below 384 pixels, else 1."""
    if stated.crop is not None:
        return stated.crop
    if family != "segmenter" and isinstance(model, BackboneModel):
        return 0.875 if min(model.backbone.config.size) < 384 else 1.0
    return 1.0


def _inference(model: nn.Module) -> tuple[InferenceConfig, tuple[str, ...]]:
    """How the published segmenters were tested: images brought to the side of the window."""
    if not isinstance(model, Segmenter):
        return InferenceConfig(), ()
    side = min(model.backbone.config.size)
    note = f"images are read with a shorter side of {side} pixels, as published"
    return InferenceConfig(short_side=side), (note,)


def _classes(detected: Detected, foreign: Foreign) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names and how they were found: stated, or those of ImageNet or ADE20K where the number
    of outputs is its."""
    family, names = detected.family, detected.stated.classes
    if family not in ("classifier", "segmenter"):
        return (), ()
    head = "head.weight" if family == "classifier" else "decode_head.conv_seg.weight"
    count = len(detected.tensors[head])
    if names is None and family == "classifier" and count in IMAGENET:
        info = imagenet_classes(count)
        found = tuple(info.index_to_description(index) for index in range(count))
        return found, (f"class names of {IMAGENET[count]}, as it has {count} outputs",)
    if names is None and family == "segmenter" and count == len(ADE20K_CLASSES):
        return ADE20K_CLASSES, (f"class names of ADE20K, as it has {count} outputs",)
    if names is None:
        numbered = tuple(f"class {index}" for index in range(count))
        return numbered, ("classes have numbers for names: the file does not name them",)
    if len(names) != count:
        raise CheckpointError(
            f"{len(names)} class names are given for the {count} outputs of {foreign.place}",
            remedy="give one name per output, in their order",
        )
    return names, ()
