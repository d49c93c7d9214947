"""Export a model for other runtimes, as one file that does not need this package."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from beit.atomic_io import beside
from beit.claim import claim_output
from beit.config.data import AS_RECOGNISED, Reading
from beit.config.validation import require
from beit.models.heads import weights_digest
from beit.tokenizers.base import VisualTokenizer
from beit.weights.export import formats
from beit.weights.export.graph import (
    LARGEST,
    OPSET,
    Format,
    Precision,
    Preprocess,
    Target,
    build_graph,
    choose_target,
    pixel_statistics,
)
from beit.weights.export.layers import RESIZING_LEVELS
from beit.weights.export.parity import TOLERANCE, Parity, built_in, check, from_data
from beit.weights.kinds import Answer
from beit.weights.load import open_artifact
from beit.weights.store import Artifact

logger = logging.getLogger(__name__)

FORMAT = "1"
ENDINGS: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx"}
"""Suffixes of the files; OpenVINO is a folder."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported model, and how it was checked."""

    path: Path
    metadata: dict[str, str]
    parity: Parity
    samples: str
    """The images it was checked on."""

    def lines(self) -> list[str]:
        """What was written, which images it was checked on, and the result."""
        found, kind = self.parity, self.metadata["precision"]
        sizes = ", ".join(f"{height} x {width}" for height, width in found.sizes)
        batches = ", ".join(str(batch) for batch in found.batches)
        lines = [
            str(self.path),
            f"checked  against the model in fp32 on {self.samples}",
            f"         batches of {batches}; images of {sizes}; {found.images} answers",
        ]
        if found.scale:
            allowed = f" (allowed {TOLERANCE:.0e})" if kind == "fp32" else ""
            lines.append(
                f"largest  difference {found.difference:.1e}{allowed}; largest output "
                f"{found.scale:.3g}"
            )
        if found.same is not None:
            labels = "labels" if self.metadata["multi_label"] == "true" else "best classes"
            what = "tokens" if self.metadata["answer"] == "tokens" else labels
            lines.append(f"same     {what} in {found.same:.2%}")
        if found.levels is not None:
            lines.append(
                f"resized  pixels differ by up to {found.levels} of 255 levels from `beit predict`"
                f" (allowed {RESIZING_LEVELS})"
            )
        if found.accuracy is not None:
            model, file = found.accuracy
            lines.append(
                f"accuracy {file:.2%}; the model has {model:.2%}; {kind} costs "
                f"{100 * (model - file):.2f} points"
            )
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def export(
    artifact: str | Path,
    out: str | Path,
    *,
    to: Format = "onnx",
    answer: Answer | None = None,
    precision: Precision = "fp32",
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    preprocess: Preprocess = "none",
    data: str = "",
    samples: int = 64,
    opset: int = OPSET,
    reading: Reading = AS_RECOGNISED,
) -> Exported:
    """Write a model for another runtime, check it against the model, and only then publish it.

    Args:
        artifact: Whatever `beit.load` takes.
        out: A file (.pt2, .onnx) or, for OpenVINO, a folder; it must not exist.
        to: The format.
        answer: What the file outputs: logits, tokens, or the features of the last block. None: what
            the model is for.
        precision: Number format of the weights.
        size: Height and width in pixels, if not those of the model. The batch size is free.
        dynamic: Read images of any size that the patch divides.
        preprocess: What the file does to images before the model; see `Preprocess`.
        data: Images to check the file on; without it a built-in set.
        samples: How many images of `data` to use.
        opset: Version of the operators of an ONNX file; the default is the oldest one.
        reading: How `data` is read, where it leaves that open.

    Raises:
        ExportError: The file answers differently from the model; then nothing is published.
        ConfigError: The model cannot be exported like this; found before any work is done.
        ResourceError: A library is not installed, or the disk is full.
    """
    place = Path(out)
    ending = ENDINGS.get(to, place.suffix)
    require(
        place.suffix == ending,
        f"{place.name} does not end in {ending}, as a file for {to} does",
        f"name it {place.stem}{ending}",
    )
    require(
        not any("\ud800" <= character <= "\udfff" for character in str(place.absolute())),
        f"the path {place.absolute()} is not UTF-8, and the libraries that write models for other "
        "runtimes take no other",
        "export into a folder whose path is UTF-8, and move the file",
    )
    formats.check_libraries(to, precision)
    with claim_output(place, folder=to == "openvino", remedy="choose another name") as temporary:
        source = open_artifact(artifact)
        target = choose_target(
            source, to=to, answer=answer, precision=precision, size=size, dynamic=dynamic,
            preprocess=preprocess, opset=opset,
        )  # fmt: skip
        images = built_in(target.channels)
        if data:
            details = source.details
            # Images of a multi-label model have no single class, so no accuracy is compared.
            classes = () if details.multi_label else details.classes
            images = from_data(
                data, target.channels, samples, classes, reading, details.value_range
            )
        logger.info("writing %s and comparing its answers with the model's", place)
        metadata = describe(source, target)
        folder = beside(place, "exporting")
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        try:
            folder.mkdir()
            graph = build_graph(source, target)
            file = formats.write(graph, folder, metadata)
            parity = check(formats.open_file(file, to), source, graph, images)
            (folder if to == "openvino" else file).rename(temporary)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Exported(path=place, metadata=metadata, parity=parity, samples=images.origin)


def describe(source: Artifact, target: Target) -> dict[str, str]:
    """The metadata of the file: all that is needed to use it, and where it comes from.

    They contain neither paths nor settings of the run.
    """
    import beit

    model, details = source.model, source.details
    mean, std = pixel_statistics(source, target)
    logits = target.answer == "logits"
    values = {
        "format": FORMAT,
        "kind": source.kind,
        "answer": target.answer,
        "precision": target.precision,
        "preprocess": target.preprocess,
        "classes": list(details.classes) if logits else [],
        "multi_label": details.multi_label,
        "thresholds": list(details.effective_thresholds) if logits else [],
        "mean": list(mean),
        "std": list(std),
        "channels": target.channels,
        "size": list(target.size),
        "multiple_of": target.unit,
        "largest": LARGEST * target.unit if target.dynamic else 0,
        "dynamic": target.dynamic,
        "value_range": details.value_range or "",
        "crop": details.crop,
        "interpolation": "bicubic, antialiased",
        "tokenizer": model.digest() if isinstance(model, VisualTokenizer) else details.tokenizer,
        "weights_sha256": weights_digest(model),
        "versions": {"beit": beit.__version__, "torch": torch.__version__}
        | formats.versions(target.to),
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }
