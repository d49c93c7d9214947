"""Shapes of COCO and LabelMe files, drawn as label maps.

COCO's are drawn by faster-coco-eval (Apache 2.0, maintained), which draws as the COCO API does and
refuses broken run lengths; the API itself (pycocotools) warns under today's NumPy.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from beit.data.pixel_types import UnreadableError
from beit.errors import ResourceError
from beit.terminal import printable

Kind = Literal["coco", "polygon", "rectangle", "circle", "bitmap"]


class Shape(NamedTuple):
    """A region with one label. How it is written goes into fingerprints: other names in here would
    make known data look changed."""

    kind: Kind
    label: str
    data: Any
    """Of COCO its polygons or run lengths; of LabelMe points [[x, y], ...]; of a bitmap its corner
    and a PNG file in base64."""


class Shapes(NamedTuple):
    """What is drawn for one image, later shapes over earlier ones."""

    name: str
    """Where it comes from, for messages."""
    height: int
    width: int
    shapes: tuple[Shape, ...]


def draw(image: Shapes, labels: Mapping[str, int]) -> np.ndarray:
    """The label map of an image, uint8 [H,W]; 0 where nothing is drawn.

    Errors: UnreadableError for a shape that cannot be drawn.
    """
    drawn = np.zeros((image.height, image.width), np.uint8)
    for number, shape in enumerate(image.shapes, start=1):
        try:
            if shape.kind == "coco":
                region = _coco_region(shape.data, image.height, image.width)
            else:
                region = _labelme_region(shape, image.height, image.width)
        except ResourceError:
            raise
        except Exception as error:  # whatever a file holds in place of points
            reason = error.reason if isinstance(error, UnreadableError) else str(error)
            raise UnreadableError(
                f"shape {number} ('{printable(shape.label)}') cannot be drawn: {reason}"
            ) from error
        drawn[region] = labels[shape.label]
    return drawn


def _labelme_region(shape: Shape, height: int, width: int) -> np.ndarray:
    canvas = Image.new("1", (width, height))
    if shape.kind == "bitmap":
        (left, top), encoded = shape.data
        with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=("PNG",)) as image:
            bitmap = np.asarray(image.convert("L")) > 0
        canvas.paste(Image.fromarray(bitmap), (round(left), round(top)))
        return np.asarray(canvas)
    drawing = ImageDraw.Draw(canvas)
    points = [(float(x), float(y)) for x, y in shape.data]
    if shape.kind == "circle":
        (x, y), edge = points
        radius = float(np.hypot(edge[0] - x, edge[1] - y))
        drawing.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    elif shape.kind == "rectangle":
        (left, right), (top, bottom) = map(sorted, zip(points[0], points[1], strict=True))
        drawing.rectangle((left, top, right, bottom), fill=1)
    else:
        drawing.polygon(points, fill=1, outline=1)
    return np.asarray(canvas)


def _coco_region(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Polygons, or run lengths (plain or packed), as the COCO API draws them."""
    try:
        from faster_coco_eval.core import mask as api
    except ImportError as error:
        raise ResourceError(
            "masks of COCO files need faster-coco-eval, which is not installed",
            remedy='pip install "beit[coco]"',
        ) from error
    if isinstance(segmentation, list):
        for polygon in segmentation:
            # The API takes four numbers for a box, and draws nothing where there are fewer.
            if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
                raise UnreadableError(
                    f"a polygon has {len(polygon)} numbers, and three corners have six"
                )
        runs = api.merge(api.frPyObjects(segmentation, height, width))
    else:
        size = list(segmentation["size"])
        if size != [height, width]:
            raise UnreadableError(
                f"its run lengths are for {size} pixels, and the image has {[height, width]}"
            )
        packed = not isinstance(segmentation["counts"], list)
        runs = segmentation if packed else api.frPyObjects(segmentation, height, width)
    region: np.ndarray = np.asarray(api.decode(runs)).astype(bool)
    return region
