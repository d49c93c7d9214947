"""Use an artifact: images in; labels, features or tokens out. Nothing else is needed."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor, nn

from beit.config.bulk import InferencePrecision
from beit.config.segment_run import InferenceConfig
from beit.data.augment import central_view
from beit.data.colours import ValueRange
from beit.data.decode import decode
from beit.errors import ConfigError, DataError, RunFolderError
from beit.hardware import find_device
from beit.models.features import FeatureExtractor
from beit.models.heads import BackboneModel, Classifier, Logits, flip_averaged
from beit.models.inference import optimize_for_inference
from beit.models.segmenter import Segmenter
from beit.models.sliding import label_map
from beit.tokenizers.base import VisualTokenizer
from beit.weights.load import open_artifact
from beit.weights.overrides import Overrides
from beit.weights.push import Pushed, push_to_hub
from beit.weights.store import Artifact, Label, save_artifact

PNG_MODES = ("1", "I;16", "L", "LA", "P", "RGB", "RGBA")
TIFF_MODES = ("CMYK", "F", "I", "LAB", "YCbCr")
ImageLike = str | Path | bytes | Image.Image | np.ndarray
PreparedOrNot = ImageLike | Tensor
"""An image, or what `Predictor.prepare` made of one."""
Model = TypeVar("Model", bound=nn.Module)
NO_BACKBONE = "load the artifact of a pre-training or a classifier"


class Predictor:
    """A trained model with everything it takes to use it.

    `model` is the plain module in evaluation mode: it normalises uint8 images, and takes floats as
    already normalised (a tokenizer takes floats in [0, 1]).
    """

    def __init__(
        self, artifact: Artifact, device: str | torch.device = "cpu", *, flip: bool = False
    ) -> None:
        self.artifact = artifact
        self.flip = flip
        """Whether class probabilities are averaged over each image and its mirror image."""
        self.device = find_device(device)
        self.model: nn.Module = artifact.model.to(self.device).eval()
        self.tokenizer: VisualTokenizer | None = None
        """The tokenizer that a pre-trained model learned from, if the caller has set it."""
        self._may_be_saved = True

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty for models that do not classify."""
        return self.artifact.details.classes

    def _expect(self, kind: type[Model], fault: str, remedy: str) -> Model:
        if not isinstance(self.model, kind):
            raise ConfigError(f"a {self.artifact.kind} {fault}", remedy=remedy)
        return self.model

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of prepared images, in pixels."""
        if isinstance(self.model, VisualTokenizer):
            return self.model.size
        return self._expect(BackboneModel, "has no backbone", NO_BACKBONE).backbone.config.size

    @property
    def channels(self) -> int:
        """Channels of an image."""
        if isinstance(self.model, VisualTokenizer):
            return self.model.config.channels
        return self._expect(BackboneModel, "has no backbone", NO_BACKBONE).backbone.config.channels

    @property
    def value_range(self) -> ValueRange | None:
        """The values that become black and white in images of more than 8 bits."""
        return self.artifact.details.value_range

    def optimized(
        self,
        *,
        precision: InferencePrecision = "fp32",
        compile: bool = False,  # noqa: A002
        graphs: bool = False,
    ) -> Predictor:
        """A predictor that answers faster, and cannot be saved: see `optimize_for_inference`.

        Args:
            precision: Of weights and computation; `auto` is bf16 where the hardware is faster so.
            compile: Compile the model on its first use, and again for each new size.
            graphs: Record answers as CUDA graphs, which helps with small batches.

        Raises:
            ConfigError: The model has no backbone, or `graphs` is not possible with it.
        """
        model = self._expect(BackboneModel, "has nothing to fold", "use it as it is")
        faster = optimize_for_inference(model, precision=precision, compile=compile, graphs=graphs)
        fast = Predictor(replace(self.artifact, model=faster), self.device, flip=self.flip)
        fast._may_be_saved = False
        return fast

    @classmethod
    def from_pretrained(
        cls, reference: str | Path, *, device: str | torch.device = "cpu", sha256: str = ""
    ) -> Predictor:
        """`beit.load` under the name that other libraries gave it.

        Args:
            reference: A path, `timm/name`, a URL, or an id of the hub as `hf:owner/name`.
            device: cpu, cuda, mps, or auto: a GPU where there is one.
            sha256: Hash of the file behind a URL, where it is not known already.
        """
        return load(reference, device=device, sha256=sha256)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model as an artifact, which `beit.load` and every verb take.

        Raises:
            ConfigError: The model is an optimized one.
            RunFolderError: The folder exists.
        """
        place = Path(folder)
        if not self._may_be_saved:
            raise ConfigError(
                "an optimized model cannot be saved", remedy="save the one it was made of"
            )
        if place.exists():
            raise RunFolderError(
                f"{place} exists, and nothing is overwritten", remedy="choose another folder"
            )
        return save_artifact(place, self.model, self.artifact.details, then="")

    def push_to_hub(
        self,
        repository: str,
        *,
        public: bool = False,
        license: str = "",  # noqa: A002
        update: bool = False,
        message: str = "",
        dry_run: str | Path = "",
    ) -> Pushed:
        """Upload the model as it is now to the hub: `beit.push_to_hub`.

        Args:
            repository: `owner/name`.
            public: Whether anybody can read a repository that is made now.
            license: Identifier of the hub's list, e.g. apache-2.0.
            update: Add a commit to a repository that exists, instead of refusing it.
            message: Of the commit.
            dry_run: Folder to write everything to, instead of sending it.
        """
        with tempfile.TemporaryDirectory() as folder:
            return push_to_hub(
                self.save_pretrained(Path(folder) / "model"),
                repository,
                public=public,
                license=license,
                update=update,
                message=message,
                dry_run=dry_run,
            )

    def feature_extractor(self) -> FeatureExtractor:
        """A copy of the backbone with the interface of timm's models, for other libraries."""
        model = self._expect(BackboneModel, "has no backbone", "use tokens()")
        view = self.artifact.details
        return FeatureExtractor(
            model, crop=view.crop, resize=view.resize, interpolation=view.interpolation
        )

    def prepare(self, image: PreparedOrNot, size: tuple[int, int] | None = None) -> Tensor:
        """The image as the model sees it: uint8 [C, H, W], resized and centre-cropped.

        Paths and bytes are decoded, PIL images converted; arrays are uint8 [H, W, C] or [H, W].
        Tensors are prepared images, and returned as they are. `size` replaces the model's own.
        """
        if isinstance(image, Tensor):
            return image
        pixels = to_pixels(image, self.channels, self.value_range)
        view = self.artifact.details
        return central_view(pixels, size or self.size, view.crop, view.resize, view.interpolation)

    def batch(self, images: Iterable[PreparedOrNot]) -> Tensor:
        """Several prepared images, on the device of the model."""
        return torch.stack([self.prepare(image) for image in images]).to(self.device)

    def probabilities(self, images: Iterable[PreparedOrNot]) -> Float[Tensor, "batch classes"]:
        """Class probabilities of several images; those of a multi-label model are independent."""
        return self.class_probabilities(self.batch(images)).cpu()

    @torch.no_grad()
    def class_probabilities(
        self, batch: UInt8[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """`probabilities` of a batch that is on the model's device; the result stays there."""
        remedy = "fine-tune it with `beit finetune --init`, or use embed()"
        if isinstance(self.model, Segmenter):
            remedy = "use segment(), or `beit predict --out FOLDER`"
        model = self._expect(Classifier, "model does not classify", remedy)
        logits: Logits = model
        if self.flip:
            logits = flip_averaged(model, multi_label=self.artifact.details.multi_label)
        return self.artifact.details.probabilities(logits(batch))

    def predict(self, image: ImageLike, *, top: int | None = None) -> list[Label]:
        """The classes of one image, most probable first.

        With `top`, that many, whether they count or not. Without it the five most probable or, from
        a multi-label model, the labels whose probability reaches their threshold, maybe none.
        """
        return self.artifact.details.labels(self.probabilities([image])[0], top)

    def segment(self, image: ImageLike) -> UInt8[np.ndarray, "height width"]:
        """The class id of each pixel of an image, at the image's own size.

        The image is read as in the run's evaluation: through a sliding window, at the same scales.
        """
        remedy = "train one with `beit segment --init`"
        model = self._expect(Segmenter, "model does not segment", remedy)
        pixels = torch.from_numpy(to_pixels(image, self.channels, self.value_range))
        return label_map(model, pixels.permute(2, 0, 1), self.inference).cpu().numpy()

    @property
    def inference(self) -> InferenceConfig:
        """How a segmenter reads whole images."""
        given = self.artifact.details.inference
        return replace(given, flip=given.flip or self.flip)

    def embed(
        self, images: Iterable[PreparedOrNot], *, block: int | None = None
    ) -> Float[Tensor, "batch width"]:
        """One vector per image: the mean patch vector after a block (the last one by default)."""
        return self.mean_patches(self.batch(images), block).cpu()

    @torch.no_grad()
    def mean_patches(
        self, batch: UInt8[Tensor, "batch channels height width"], block: int | None = None
    ) -> Float[Tensor, "batch width"]:
        """`embed` for a batch that is on the model's device; the result stays there."""
        model = self._expect(BackboneModel, "has no features", "use tokens()")
        index = model.backbone.config.block(block)
        found = model.backbone(batch, out_indices=(index,)).intermediates[0]
        vectors: Tensor = found[:, 1:].float().mean(dim=1)
        return vectors

    def tokens(self, images: Iterable[PreparedOrNot]) -> Int64[Tensor, "batch patches"]:
        """Visual tokens in row-major order."""
        tokenizer = self._expect(VisualTokenizer, "model gives no tokens", "load a tokenizer")
        return tokenizer.encode(self.batch(images)).cpu()


def to_pixels(
    image: ImageLike,
    channels: int,
    value_range: ValueRange | None = None,
) -> UInt8[np.ndarray, "height width channels"]:
    """Any form of an image as uint8 [H, W, C].

    Args:
        image: A path, the bytes of a file, a PIL image, or uint8 [H, W, C] or [H, W].
        channels: Channels of the result.
        value_range: Values that become black and white in images of more than 8 bits.

    Raises:
        DataError: There is no such file, or the array has another type or shape.
        UnreadableError: The image cannot be decoded.
    """
    if isinstance(image, str | Path):
        path = Path(image)
        if not path.is_file():
            raise DataError(f"there is no file {path}", remedy="give the path of an image")
        return decode(path.read_bytes(), channels=channels, value_range=value_range)
    if isinstance(image, bytes):
        return decode(image, channels=channels, value_range=value_range)
    if isinstance(image, Image.Image):
        # Through the one decoder, so that every mode is read as a file of that mode would be.
        image = ImageOps.exif_transpose(image)
        if image.mode not in PNG_MODES + TIFF_MODES:
            image = image.convert("RGBA")
        buffer = io.BytesIO()
        image.save(buffer, format="PNG" if image.mode in PNG_MODES else "TIFF")
        return decode(buffer.getvalue(), channels=channels, value_range=value_range)
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, channels):
        raise DataError(
            f"the array has type {image.dtype} and shape {image.shape}",
            remedy=f"give uint8 [height, width, {channels}]",
        )
    return np.broadcast_to(pixels, (*pixels.shape[:2], channels)).copy()


def as_rgb(pixels: UInt8[np.ndarray, "height width channels"]) -> np.ndarray:
    """Pixels to look at: the first three channels as RGB or, of one or two, the first as grey."""
    return pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., [0, 0, 0]]


def load(
    reference: str | Path,
    *,
    device: str | torch.device = "cpu",
    sha256: str = "",
    flip: bool = False,
    size: tuple[int, int] | None = None,
    heads: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    crop: float | None = None,
    classes: tuple[str, ...] | None = None,
) -> Predictor:
    """A predictor from a run, an artifact, or any released file of the BEiT family.

    Args:
        reference: A path, `hf:org/name`, `timm/name`, or a URL.
        device: cpu, cuda, mps, or auto: a GPU where there is one.
        sha256: Hash of the file behind a URL, where it is not known already.
        flip: Average the probabilities of each image and its mirror image.
        size: Height and width of images. This and what follows is for foreign files, which may
            not tell it themselves.
        heads: Attention heads.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel.
        crop: Fraction of the side that the evaluation crop keeps.
        classes: Class names in the order of the logits.

    Raises:
        CheckpointError: The file is missing, damaged, hostile, or of another architecture.
    """
    overrides = Overrides(size=size, heads=heads, mean=mean, std=std, crop=crop, classes=classes)
    return Predictor(
        open_artifact(reference, overrides=overrides, sha256=sha256), device, flip=flip
    )
