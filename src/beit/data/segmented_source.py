"""A source of images with masks: files, or drawn from shapes of COCO and LabelMe files.

The shapes of COCO are drawn by faster-coco-eval (Apache 2.0, maintained), which draws as the COCO
API does and refuses broken run lengths; the API itself (pycocotools) warns under today's NumPy.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from beit.config.segment_run import IGNORE
from beit.data.colours import orientation_of
from beit.data.decode import pillow_is_quiet
from beit.data.file_types import FORMATS
from beit.data.mask_files import LabelMap, MaskPixels, count_values, read_mask, written
from beit.data.mask_labels import MaskReading, Surveyed
from beit.data.mask_pairs import Pairs, Shape, Shapes
from beit.data.several_masks import Layers
from beit.data.shape_files import IGNORED
from beit.data.sources import FileSource, Record, read_file
from beit.errors import DataError, ResourceError, UnreadableError, optional_library
from beit.hardware import cores
from beit.terminal import printable

MOST_OVERLAP = 0.25
"""The largest fraction of an object's pixels that several of its masks may share: if they share
more, several people drew the same object."""
MOST_VALUES = 4096
"""The most distinct values of one mask; if there are more, they are not labels."""


class SegmentedSource(FileSource):
    """Images in files, each with a mask: also a file, or shapes, which are drawn when it is read.

    Args:
        root: The folder to which all paths are relative.
        pairs: The images with their masks.
        reading: How the values of masks are read.
    """

    def __init__(self, root: str, pairs: Pairs, reading: MaskReading) -> None:
        super().__init__(root, [image for image, _ in pairs], classes=reading.classes)
        self._pairs = pairs
        self._masks = [mask for _, mask in pairs]
        self._reading = reading
        self._ids = {name: label for label, name in enumerate(self.classes)} | {IGNORED: IGNORE}

    def only(self, indices: np.ndarray) -> SegmentedSource:
        """The source restricted to some images; it keeps the account of all."""
        part = SegmentedSource(self._root, [self._pairs[at] for at in indices], self._reading)
        part.account = self.account
        return part

    def read(self, index: int) -> Record:
        """The encoded image and its labels. Raises UnreadableError if either cannot be read."""
        return super().read(index)._replace(labels=self.labels(index))

    def labels(self, index: int) -> LabelMap:
        """The labels of an image, uint8 [H,W]. Raises UnreadableError if they cannot be read."""
        mask = self._masks[index]
        if isinstance(mask, Shapes):
            return _draw(mask, self._ids)
        if isinstance(mask, Layers) and mask.words:
            return self._layered(mask)
        if mask is not None:
            return self._reading(self._values(mask).values)
        size = _size(self.path(index))
        if size is None:
            raise UnreadableError("the size of its image cannot be read")
        labels = np.zeros(size, np.uint8)
        return labels if self._reading.legend else self._reading(labels)

    def _values(self, mask: str | Layers) -> MaskPixels:
        """The values of a mask; of several files for one object, the largest at each pixel."""
        if isinstance(mask, Layers):
            return MaskPixels(np.maximum.reduce(self._each(mask)))
        data = read_file(Path(self._root, mask))
        return read_mask(data, colours=self._reading.legend is not None)

    def _each(self, layers: Layers) -> list[np.ndarray]:
        """The values of several files. Raises UnreadableError if they do not fit together."""
        values = [self._values(file).values for file in layers.files]
        if len({each.shape for each in values}) > 1:
            raise UnreadableError("the masks of its image have different sizes")
        shown = np.sum([each != 0 for each in values], axis=0)
        twice, whole = int((shown > 1).sum()), int((shown > 0).sum())
        if twice > (0 if layers.words else MOST_OVERLAP * whole) and not layers.may_overlap:
            raise UnreadableError(
                f"{twice} of {whole} pixels that the masks of its image show are in several"
            )
        return values

    def _layered(self, layers: Layers) -> np.ndarray:
        """The label map from files that show one class each, drawn in the order of the classes."""
        values = self._each(layers)
        labels = np.zeros(values[0].shape, np.uint8)
        ids = [self._ids[word] for word in layers.words]
        for at in np.argsort(ids, kind="stable").tolist():
            shown = values[at][values[at] != 0]
            if shown.size and shown.min() != shown.max():
                raise UnreadableError(
                    f"{printable(layers.files[at])} shows one of several classes, and holds more "
                    "than 0 and another value"
                )
            labels[values[at] != 0] = ids[at]
        return labels

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(super().fingerprint().encode(), digest_size=16)
        files, others = list[str](), list[str]()
        for index, mask in enumerate(self._masks):
            if isinstance(mask, str):
                files.append(mask)
            elif isinstance(mask, Layers):
                files += mask.files
                others.append(f"{index} {mask.files} {mask.words}")
            else:
                others.append(f"{index} {mask!r}")
        digest.update(FileSource(self._root, files).fingerprint().encode())
        digest.update("".join(others).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def mask_name(self, index: int) -> str:
        """The path of the mask, safe to print."""
        mask = self._masks[index]
        if isinstance(mask, Shapes):
            return printable(mask.name)
        if isinstance(mask, Layers):
            return f"{printable(Path(self._root, mask.files[0]))} (or another of its image)"
        return printable(Path(self._root, mask)) if mask else "(none: all background)"

    def survey(self) -> list[Surveyed]:
        """Read every mask once, and report what it holds.

        Raises:
            DataError: A mask, which the message names, cannot be read, has another size than its
                image, or holds measurements instead of labels.
        """
        with ThreadPoolExecutor(cores()) as threads:
            return list(threads.map(self._survey, range(len(self))))

    def _survey(self, index: int) -> Surveyed:
        mask, name = self._masks[index], self.mask_name(index)
        in_files = isinstance(mask, str) or (isinstance(mask, Layers) and not mask.words)
        try:
            if isinstance(mask, str | Layers) and in_files:
                values, nodata = self._values(mask)
            else:
                values, nodata = self.labels(index), None
        except UnreadableError as error:
            raise DataError(
                f"the mask {name} cannot be read: {error.reason}",
                remedy=_remedy(mask),
            ) from error
        size = _size(self.path(index))
        if size is not None and size != values.shape:
            raise DataError(
                f"the mask {name} has {values.shape[0]} x {values.shape[1]} pixels, its image "
                f"{size[0]} x {size[1]}",
                remedy="make them alike, images and masks that are turned by EXIF count upright; "
                "masks are resized by the nearest label only",
            )
        counts = count_values(values)
        if len(counts.values) > MOST_VALUES:
            first, last = (written(counts.values[at]) for at in (0, -1))
            raise DataError(
                f"the mask {name} holds {len(counts.values)} different values, from {first} to "
                f"{last}",
                remedy="labels are whole numbers from 0 to 254: turn probabilities or measurements "
                "into labels first",
            )
        return Surveyed(name, counts, nodata, drawn=not in_files)


def _remedy(mask: object) -> str:
    """What to do about a mask that cannot be read."""
    if isinstance(mask, Shapes):
        return "repair the shape where it was drawn, and export the file anew"
    if isinstance(mask, Layers):
        return (
            "masks that show one object or class each hold 0 and another value; where they overlap "
            "and are no drawings of several people, say what they are with --several-masks object "
            "or classes, and the order of classes in classes.txt; or read one with --mask-suffix"
        )
    return (
        "masks are indexed or grey PNG, TIFF, BMP or GIF; or in colours, with legend.json, "
        "labelmap.txt or class_dict.csv beside the folders (--legend)"
    )


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width of an image once it is upright, from its header; None if unreadable."""
    try:
        with pillow_is_quiet, Image.open(path, formats=FORMATS) as image:
            turned = orientation_of(image) >= 5
            width, height = image.size
    except Exception:  # reported when the image itself is read, as for every task
        return None
    return (width, height) if turned else (height, width)


def _draw(image: Shapes, labels: Mapping[str, int]) -> np.ndarray:
    """The label map of an image, uint8 [H,W]; 0 where nothing is drawn.

    Raises UnreadableError for a shape that cannot be drawn.
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
        except Exception as error:  # a file may hold anything in place of points
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
    """Draw polygons, or run lengths (plain or packed), as the COCO API does; bool [H,W]."""
    with optional_library("masks of COCO files need faster-coco-eval", "coco"):
        from faster_coco_eval.core import mask as api
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
