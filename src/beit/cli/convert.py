"""The verbs that bring a model elsewhere: convert, export, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from beit.cli.options import AS_READ, Artifact, AsRead
from beit.terminal import print_lines


def convert(
    source: Artifact,
    destination: Annotated[str, tyro.conf.Positional],
    to: Literal["beit", "unilm", "timm", "hf"] = "beit",
    bias: Literal["shared", "per-block"] | None = None,
    sha256: str = "",
    size: tuple[int, int] | None = None,
    heads: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    crop: float | None = None,
    classes: str = "",
) -> None:
    """Bring a model from one layout to another: released files, timm, transformers, ours.

    SOURCE is written to DESTINATION. Nothing in SOURCE is executed.

    Args:
        source: A run, an artifact, a released file, a folder of timm or transformers,
            hf:org/name, timm/name, or a URL.
        destination: File (unilm) or folder to write; it must not exist.
        to: beit: an artifact; unilm: a file as Microsoft released them; timm, hf: folders that
            timm and transformers load.
        bias: Share the relative position bias among all blocks, or give each its own.
        sha256: Hash the source must have; "record" takes a URL's first download as it comes.
        size: Height and width of its images, where the source does not say.
        heads: Attention heads, where the source does not say.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, for pixels in [0, 1].
        crop: Fraction of the side that the evaluation crop keeps.
        classes: File with one class name per line.
    """
    from beit.data.legends import read_names
    from beit.weights.convert import convert as write
    from beit.weights.overrides import Overrides

    overrides = Overrides(
        size=size,
        heads=heads,
        mean=mean,
        std=std,
        crop=crop,
        classes=read_names(Path(classes)) if classes else None,
    )
    place, left_out = write(
        source, destination, to=to, bias=bias, overrides=overrides, sha256=sha256
    )
    print_lines(*left_out, place)


def export(
    artifact: Artifact,
    out: Annotated[str, tyro.conf.Positional],
    to: Literal["torch", "onnx", "openvino"] = "onnx",
    answer: Literal["logits", "features", "tokens"] | None = None,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    preprocess: Literal["none", "normalise", "resize"] = "none",
    data: str = "",
    samples: int = 64,
    opset: int = 18,
    options: AsRead = AS_READ,
) -> None:
    """Write a model for other runtimes: ONNX, OpenVINO, torch.export; checked before published.

    The answers of OUT are compared with those of ARTIFACT, and it is printed what was compared.

    Args:
        artifact: A run, an artifact, a released file, a folder of timm or transformers,
            hf:org/name, timm/name, or a URL.
        out: File to write (.pt2, .onnx), or folder (OpenVINO); it must not exist.
        to: torch: a program of torch.export; onnx; openvino.
        answer: What the file gives, if not what the model is for: logits of a classifier or a
            segmenter, tokens of a tokenizer, features of any other.
        precision: Of the weights. int8 also quantises what they are multiplied with.
        size: Height and width in pixels, if not those of the model.
        dynamic: Read images of any size that the patch divides.
        preprocess: none: floats, normalised, [B,C,H,W]. normalise: uint8 [B,H,W,C] of the
            size. resize: uint8 [B,H,W,C] of any size; resized and cropped in the file.
        data: Images to check it on: a folder, a list, tar shards, hf:NAME. With labels, the
            accuracy is compared too.
        samples: How many of them.
        opset: Version of the operators of an ONNX file, 18 to 23; newer ones need newer runtimes.
        options: How images are read, where they leave it open.
    """
    from beit.weights.export import export as write

    print_lines(
        *write(
            artifact,
            out,
            to=to,
            answer=answer,
            precision=precision,
            size=size,
            dynamic=dynamic,
            preprocess=preprocess,
            data=data,
            samples=samples,
            opset=opset,
            reading=options.reading,
        ).lines()
    )


def push(
    artifact: Artifact,
    repository: Annotated[str, tyro.conf.Positional],
    public: bool = False,
    license: str = "",  # noqa: A002 (the name of the option)
    update: bool = False,
    message: str = "",
    dry_run: str = "",
) -> None:
    """Upload a model with its card to the Hugging Face hub.

    Weights, config.json and a generated README.md are listed before.

    Args:
        artifact: Folder of a run, or its `model` folder; `beit convert` makes one of others.
        repository: owner/name on the hub, which is made, private.
        public: Make it for everybody to see.
        license: Identifier of the licence, e.g. apache-2.0, for the model card.
        update: Add a commit to a repository that exists.
        message: What the commit says.
        dry_run: Folder to write all of it to; nothing is uploaded.
    """
    from beit.weights.push import push_to_hub

    pushed = push_to_hub(
        artifact,
        repository,
        public=public,
        license=license,
        update=update,
        message=message,
        dry_run=dry_run,
    )
    print_lines(dry_run or pushed.reference)
