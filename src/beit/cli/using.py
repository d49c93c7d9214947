"""The verbs that use a model: predict, embed, convert, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from beit.cli.options import Artifact, LabelFile, Paths, pixels
from beit.config.data import BY_HEADINGS
from beit.terminal import print_lines


def predict(args: list[str]) -> None:
    """Name the classes of images, or of their pixels."""

    def command(
        artifact: Artifact,
        images: Paths,
        out: str = "",
        top: int | None = None,
        format: Literal["table", "json", "csv"] = "table",  # noqa: A002 (the name of the option)
        batch: int = 32,
        device: str = "cpu",
    ) -> None:
        """Name the classes of images; of a segmenter, write label maps and overlays.

        The probabilities of a multi-label model are independent, and a label counts from its
        threshold on.

        Exit code 3 if an image cannot be read; all others are answered.

        Args:
            artifact: Folder of a fine-tuning or segmentation run, or its `model` folder.
            images: Files or folders.
            out: Of a segmenter: new folder for `labels/` (indexed PNG) and `overlays/`.
            top: Classes per image, by default 5; of a multi-label model all that count, and with
                this option so many, whether they count or not.
            format: A table for people; JSON, one object per line; or CSV, one line per class.
            batch: Images at a time.
            device: cpu or cuda.
        """
        from beit.inference.files import (
            must_be_readable,
            predict_files,
            print_predictions,
            segment_files,
        )

        if out:
            must_be_readable(segment_files(artifact, images, Path(out), device=device))
            return
        found = predict_files(artifact, images, top=top, batch=batch, device=device)
        must_be_readable(print_predictions(found, format))

    tyro.cli(command, args=args, prog="beit predict")


def embed(args: list[str]) -> None:
    """Write one feature vector per image to a file."""

    def command(
        artifact: Artifact,
        images: Paths,
        out: str,
        block: int | None = None,
        batch: int = 32,
        device: str = "cpu",
    ) -> None:
        """Write the mean patch vector of each image.

        Args:
            artifact: Folder of a pre-training or fine-tuning run, or its `model` folder.
            images: Files or folders.
            out: File to write: .npz (features, keys), .csv or .safetensors; it must not exist.
            block: Block whose output is taken, 0 is the first; the last one by default.
            batch: Images at a time.
            device: cpu or cuda.
        """
        from beit.inference.files import embed_files

        print_lines(
            embed_files(artifact, images, Path(out), block=block, batch=batch, device=device)
        )

    tyro.cli(command, args=args, prog="beit embed")


def convert(args: list[str]) -> None:
    """Bring a model from one layout to another: released files, timm, transformers, ours."""

    def command(
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
        """Write SOURCE to DESTINATION in another layout. Nothing in SOURCE is executed.

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
            crop: Share of the side that the evaluation crop keeps.
            classes: File with one class name per line.
        """
        from beit.weights.convert import convert as write
        from beit.weights.load import read_class_names
        from beit.weights.overrides import Overrides

        overrides = Overrides(
            size=size,
            heads=heads,
            mean=mean,
            std=std,
            crop=crop,
            classes=read_class_names(Path(classes)) if classes else None,
        )
        place, left_out = write(
            source, destination, to=to, bias=bias, overrides=overrides, sha256=sha256
        )
        print_lines(*left_out, place)

    with pixels():
        tyro.cli(command, args=args, prog="beit convert")


def export(args: list[str]) -> None:
    """Write a model for other runtimes: ONNX, OpenVINO, torch.export; checked before published."""

    def command(
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
        label_file: LabelFile = BY_HEADINGS,
    ) -> None:
        """Write ARTIFACT to OUT, compare its answers with the model's, and say what was compared.

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
            label_file: How a label file is read, where its headings do not say it.
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
                label_file=label_file,
            ).lines()
        )

    with pixels():
        tyro.cli(command, args=args, prog="beit export", config=(tyro.conf.FlagCreatePairsOff,))
