"""The verbs that take a model elsewhere: convert, export, push."""

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
    """Convert a model between layouts: released files, timm, transformers, ours.

    SOURCE is written to DESTINATION in the layout requested. Nothing in SOURCE is executed.

    Args:
        source: A run, an artifact, a released file, a folder of timm or transformers, hf:org/name,
            timm/name, or a URL.
        destination: File (unilm) or folder to write; it must not exist.
        to: beit: an artifact; unilm: a file in Microsoft's layout; timm, hf: folders that timm and
            transformers load.
        bias: shared: one relative position bias for all blocks; per-block: one for each.
        sha256: Hash the source must have; "record" accepts the first download of a URL as it is.
        size: Height and width of its images in pixels, if the source does not say.
        heads: Attention heads, if the source does not say.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, for pixels in [0, 1].
        crop: Fraction of the side kept by the centre crop for evaluation.
        classes: File with one class name per line.
    """
    from beit.data.mask_classes import read_names
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
    """Export a model to ONNX, OpenVINO or torch.export; the file is checked before it is kept.

    The answers of OUT are compared with those of ARTIFACT, and the comparison is printed.

    Args:
        artifact: A run, an artifact, a released file, a folder of timm or transformers,
            hf:org/name, timm/name, or a URL.
        out: File to write (.pt2, .onnx), or folder (OpenVINO); it must not exist.
        to: torch: a program of torch.export; onnx; openvino.
        answer: What the file gives, if not what the model is for: logits (classifiers, segmenters),
            tokens (tokenizers) or features (all others).
        precision: Precision of the weights; int8 also quantises the inputs of matrix products.
        size: Height and width in pixels, if not those of the model.
        dynamic: Take images of any size that the patch divides.
        preprocess: Input of the file. none: normalised floats [B,C,H,W]; normalise: uint8 [B,H,W,C]
            of the model's size; resize: uint8 [B,H,W,C] of any size, resized and cropped in the
            file.
        data: Images to check the file on: a folder, a list, tar shards, hf:NAME. With labels,
            accuracies are compared, too.
        samples: Number of images for the check.
        opset: Version of ONNX operators, 18 to 23; newer ones need newer runtimes.
        options: How images are read, if they leave it open.
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
    """Upload a model and its model card to the Hugging Face hub.

    Weights, config.json and the generated README.md are listed first.

    Args:
        artifact: Folder of a run, or its `model` folder; for other models, use `beit convert`
            first.
        repository: owner/name on the hub, which is created, private unless --public.
        public: Make the repository public.
        license: Identifier of the licence for the model card, such as apache-2.0.
        update: Add a commit to an existing repository.
        message: Commit message.
        dry_run: Folder to write everything to instead of uploading it.
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
