"""Export a model for other runtimes: one file that needs nothing of this package."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from beit.atomic_io import beside
from beit.claim import claim_output
from beit.config.data import BY_HEADINGS, LabelFileConfig
from beit.errors import ConfigError
from beit.models.heads import BackboneModel, weights_digest
from beit.tokenizers.base import VisualTokenizer
from beit.weights.answering import answering
from beit.weights.export import formats
from beit.weights.export.formats import NAMES, Format
from beit.weights.export.graph import (
    LARGEST,
    Answer,
    Precision,
    Shape,
    build_graph,
    choose_answer,
    choose_shape,
)
from beit.weights.export.parity import TOLERANCE, Parity, check
from beit.weights.export.preprocessing import RESIZING_LEVELS, Preprocess
from beit.weights.export.samples import Samples, built_in, from_data
from beit.weights.load import open_artifact
from beit.weights.store import Artifact

FORMAT = "1"
ENDINGS: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx"}
"""Of files; OpenVINO is a folder."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A published file, and what was checked about it."""

    path: Path
    metadata: dict[str, str]
    parity: Parity
    samples: str
    """The images it was checked on."""

    def lines(self) -> list[str]:
        """What was written, on what it was checked, and what came of that."""
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
    label_file: LabelFileConfig = BY_HEADINGS,
) -> Exported:
    """Write a model for another runtime, check it against the model, and only then publish it.

    `artifact` is whatever `beit.load` takes; `out` is a file (.pt2, .onnx) or, for OpenVINO, a
    folder. The answer is what the model is for: logits, tokens, or the features of the last block.
    The batch size is free; with `dynamic` the size of the images too. `data` are the images it
    is checked on, `samples` of them; without it a built-in set. `label_file` says how a label file
    among these is read.
    Raises ExportError for a file that does not give what the model gives; then nothing is
    published. ConfigError, before any work, for what cannot be exported.
    """
    place = Path(out)
    ending = ENDINGS.get(to, place.suffix)
    if place.suffix != ending:
        raise ConfigError(
            f"{place.name} does not end in {ending}, as a file for {to} does",
            remedy=f"name it {place.stem}{ending}",
        )
    if _is_foreign(place.absolute()):
        raise ConfigError(
            f"the path {place.absolute()} is not UTF-8, and the libraries that write models for "
            "other runtimes take no other",
            remedy="export into a folder whose path is UTF-8, and move the file",
        )
    formats.check_libraries(to, quantised=precision == "int8")
    with claim_output(place, folder=to == "openvino", remedy="choose another name") as temporary:
        source = open_artifact(artifact)
        what = choose_answer(source, answer)
        shape = choose_shape(source, what, size=size, dynamic=dynamic, preprocess=preprocess)
        images = (
            from_data(
                data,
                shape.channels,
                samples,
                _one_of(source),
                label_file,
                source.details.value_range,
            )
            if data
            else built_in(shape.channels)
        )
        metadata = describe(source, what, shape, precision, to)
        folder = beside(place, "exporting")
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        try:
            folder.mkdir()
            parity = _write(source, what, shape, precision, to, folder, metadata, images)
            (folder if to == "openvino" else folder / NAMES[to]).rename(temporary)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Exported(path=place, metadata=metadata, parity=parity, samples=images.origin)


def _one_of(source: Artifact) -> tuple[str, ...]:
    """The classes of which an image has one; a multi-label model has none, so that no accuracy is
    compared."""
    return () if source.details.multi_label else source.details.classes


def _is_foreign(path: Path) -> bool:
    """Whether the path holds bytes that are not UTF-8, which Python writes as surrogates."""
    return any("\ud800" <= character <= "\udfff" for character in str(path))


def _write(
    source: Artifact,
    what: Answer,
    shape: Shape,
    precision: Precision,
    to: Format,
    folder: Path,
    metadata: dict[str, str],
    images: Samples,
) -> Parity:
    graph = build_graph(source, what, shape, precision)
    program = formats.trace(graph, shape)
    file = folder / NAMES[to]
    if to == "torch":
        formats.write_torch(program, file, metadata)
    else:
        onnx_file = folder / NAMES["onnx"]
        formats.write_onnx(program, graph, onnx_file, metadata)
        if precision == "int8":
            formats.quantise(onnx_file)
        if to == "openvino":
            formats.write_openvino(onnx_file, file, metadata)
            onnx_file.unlink()
    run = formats.open_file(file, to)
    return check(run, source, graph, shape, images, precision)


def describe(
    source: Artifact, answer: Answer, shape: Shape, precision: Precision, to: Format
) -> dict[str, str]:
    """What the file says about itself: all that using it takes, and where it comes from.

    Neither paths nor anything of the run's settings.
    """
    import beit

    model, details = source.model, source.details
    mean: tuple[float, ...] = (0.0,) * shape.channels
    std: tuple[float, ...] = (1.0,) * shape.channels
    if isinstance(model, BackboneModel):
        mean, std = model.backbone.config.mean, model.backbone.config.std
    values = {
        "format": FORMAT,
        "kind": source.kind,
        "answer": answer,
        "precision": precision,
        "preprocess": shape.preprocess,
        "classes": list(details.classes) if answer == "logits" else [],
        "multi_label": details.multi_label,
        "thresholds": list(answering(details).thresholds) if answer == "logits" else [],
        "mean": list(mean),
        "std": list(std),
        "channels": shape.channels,
        "size": list(shape.size),
        "multiple_of": shape.unit,
        "largest": LARGEST * shape.unit if shape.dynamic else 0,
        "dynamic": shape.dynamic,
        "value_range": details.value_range or "",
        "crop": details.crop,
        "interpolation": "bicubic, antialiased",
        "tokenizer": model.digest() if isinstance(model, VisualTokenizer) else details.tokenizer,
        "weights_sha256": weights_digest(model),
        "versions": {"beit": beit.__version__, "torch": torch.__version__} | formats.versions(to),
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }
