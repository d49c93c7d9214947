"""The verbs that use a model: predict, embed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from beit.cli.options import Artifact, Paths
from beit.terminal import print_lines


def predict(
    artifact: Artifact,
    images: Paths,
    out: str = "",
    top: int | None = None,
    format: Literal["table", "json", "csv"] = "table",  # noqa: A002 (the name of the option)
    flip: bool = False,
    batch: int = 32,
    device: str = "cpu",
) -> None:
    """Name the classes of images, or of their pixels.

    Of a segmenter, label maps and overlays are written. The probabilities of a multi-label model
    are independent, and a label counts from its threshold on.

    Exit code 3 if an image cannot be read; all others are answered.

    Args:
        artifact: Folder of a fine-tuning or segmentation run, or its `model` folder.
        images: Files or folders.
        out: Of a segmenter: new folder for `labels/` (indexed PNG) and `overlays/`.
        top: Classes per image, by default 5; of a multi-label model all that count, and with
            this option so many, whether they count or not.
        format: A table for people; JSON, one object per line; or CSV, one line per class.
        flip: Average the probabilities of each image and its mirror image.
        batch: Images at a time.
        device: cpu, cuda or mps.
    """
    from beit.inference.files import (
        must_be_readable,
        predict_files,
        print_predictions,
        segment_files,
    )

    if out:
        must_be_readable(segment_files(artifact, images, Path(out), device=device, flip=flip))
        return
    found = predict_files(artifact, images, top=top, batch=batch, device=device, flip=flip)
    must_be_readable(print_predictions(found, format))


def embed(
    artifact: Artifact,
    images: Paths,
    out: str,
    block: int | None = None,
    batch: int = 32,
    device: str = "cpu",
) -> None:
    """Write one feature vector per image to a file.

    It is the mean patch vector.

    Args:
        artifact: Folder of a pre-training or fine-tuning run, or its `model` folder.
        images: Files or folders.
        out: File to write: .npz (features, keys), .csv or .safetensors; it must not exist.
        block: Block whose output is taken, 0 is the first; the last one by default.
        batch: Images at a time.
        device: cpu, cuda or mps.
    """
    from beit.inference.files import embed_files

    print_lines(embed_files(artifact, images, Path(out), block=block, batch=batch, device=device))
