"""The one entrance for weights: an artifact of ours, or any released file of the BEiT family."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from beit.artifact.architecture import Stated
from beit.artifact.fetch import Fetched, fetch, file_hash
from beit.artifact.kinds import Kind
from beit.artifact.names import Family
from beit.artifact.recognise import family_of, model_of
from beit.artifact.source import Source, is_foreign, read_source
from beit.artifact.store import Artifact, Details, load_artifact, save_artifact
from beit.config.outside import call_outside, find_outside, names_outside
from beit.config.segment_run import InferenceConfig
from beit.data.class_names import ADE20K_CLASSES, IMAGENET, imagenet_classes
from beit.errors import CheckpointError, ConfigError
from beit.home import home
from beit.models.heads import BackboneModel
from beit.models.segmenter import Segmenter
from beit.tokenizers.base import VisualTokenizer

logger = logging.getLogger(__name__)

KINDS: dict[Family, Kind] = {
    "masked": "masked",
    "classifier": "classifier",
    "segmenter": "segmenter",
    "vqkd": "tokenizer",
    "dalle": "tokenizer",
}
NOTHING = Stated()


def open_artifact(reference: str | Path, *, stated: Stated = NOTHING, sha256: str = "") -> Artifact:
    """A model ready for use, wherever it comes from.

    `reference` is the folder of a run or an artifact, a released weight file, a folder of timm or
    transformers, `hf:org/name`, `timm/name`, or a URL. `stated` is what is known about a foreign
    file beside its weights, and stands over what the file says. Raises CheckpointError.
    """
    fetched = fetch(reference, sha256=sha256)
    if not is_foreign(fetched.path):
        if stated != NOTHING:
            raise ConfigError(
                f"{reference} is an artifact of ours, which says all about itself",
                remedy="leave size, heads, mean, std, crop and classes out",
            )
        return load_artifact(fetched.path)
    if fetched.path.is_file():
        return _imported_once(fetched, str(reference), stated)
    source = read_source(fetched.path, name=str(reference))
    return _imported(source, fetched.reference, stated)


def open_tokenizer(reference: str | Path, *, may_import: bool = True) -> VisualTokenizer:
    """The tokenizer of an artifact or a released file, or what `module:function` returns; frozen.

    `may_import` is for names that a user typed, not for those that a file holds.
    """
    if names_outside(str(reference)):
        return _outside_tokenizer(str(reference), may_import)
    artifact = open_artifact(reference)
    if not isinstance(artifact.model, VisualTokenizer):
        raise CheckpointError(
            f"{reference} holds a {artifact.kind} model, not a tokenizer",
            remedy="give the run of `beit tokenizer`, or a released tokenizer",
        )
    return artifact.model.freeze()


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
        names = tuple(file.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"the class names in {file} cannot be read: {error}",
            remedy="give a text file with one name per line",
        ) from error
    return names


def _imported_once(fetched: Fetched, reference: str, stated: Stated) -> Artifact:
    """A tokenizer out of a pickle is kept as an artifact under the hash of its files."""
    file = fetched.path
    pickles = [file, file.with_name("decoder.pkl")] if file.name == "encoder.pkl" else []
    hashes = [file_hash(each) for each in pickles if each.is_file()]
    place = home() / "imported" / "-".join(hashes)
    if pickles and place.is_dir() and stated == NOTHING:
        logger.info("%s was imported before, to %s", file, place)
        return load_artifact(place)
    source = read_source(file, name=reference)
    expected = fetched.sha256 or "".join(hashes[:1])
    if expected and source.sha256 not in ("", expected):
        raise CheckpointError(
            f"{file} was replaced while it was opened: its SHA-256 was {expected}, and is "
            f"{source.sha256}",
            remedy="see who writes there, and open it again",
        )
    artifact = _imported(source, fetched.reference, stated)
    if pickles and stated == NOTHING and isinstance(artifact.model, VisualTokenizer):
        place.parent.mkdir(parents=True, exist_ok=True)
        save_artifact(place, artifact.model, artifact.details)
        logger.info("kept as %s", place)
    return artifact


def _imported(source: Source, origin: str, stated: Stated) -> Artifact:
    source.stated = stated.over(source.stated)
    family = family_of(source.tensors)
    try:
        model = model_of(source, family)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(
            f"{source.place} seems to be a BEiT file ({family}), but {error.problem}",
            remedy=error.remedy,
        ) from error
    details = Details(
        classes=_classes(family, source),
        crop=_crop(model, family, source.stated),
        inference=_inference(model, source),
        trained={"from": origin, "notes": list(source.notes)},
    )
    for note in source.notes:
        logger.info("%s: %s", source.place.name, note)
    return Artifact(kind=KINDS[family], model=model, details=details)


def _crop(model: nn.Module, family: Family, stated: Stated) -> float:
    """The evaluation crop: stated, or as published: 0.875 below 384 pixels, else 1."""
    if stated.crop is not None:
        return stated.crop
    if family in ("masked", "classifier") and isinstance(model, BackboneModel):
        return 0.875 if min(model.backbone.config.size) < 384 else 1.0
    return 1.0


def _inference(model: nn.Module, source: Source) -> InferenceConfig:
    """How the published segmenters were tested: pictures brought to the side of the window."""
    if not isinstance(model, Segmenter):
        return InferenceConfig()
    side = min(model.backbone.config.size)
    source.notes.append(f"pictures are read with a shorter side of {side} pixels, as published")
    return InferenceConfig(short_side=side)


def _classes(family: Family, source: Source) -> tuple[str, ...]:
    """Class names: stated, or those of ImageNet or ADE20K where the number of outputs is its."""
    if family not in ("classifier", "segmenter"):
        return ()
    head = source.tensors["head.weight" if family == "classifier" else "decode_head.conv_seg.bias"]
    count, names = len(head), source.stated.classes
    if names is None and family == "classifier" and count in IMAGENET:
        source.notes.append(f"class names of {IMAGENET[count]}, as it has {count} outputs")
        info = imagenet_classes(count)
        return tuple(info.index_to_description(index) for index in range(count))
    if names is None and family == "segmenter" and count == len(ADE20K_CLASSES):
        source.notes.append(f"class names of ADE20K, as it has {count} outputs")
        return ADE20K_CLASSES
    if names is None:
        source.notes.append("classes have numbers for names: the file does not name them")
        return tuple(f"class {index}" for index in range(count))
    if len(names) != count:
        raise CheckpointError(
            f"{len(names)} class names are given for the {count} outputs of {source.place}",
            remedy="give one name per output, in their order",
        )
    return names
