"""Teachers of VQ-KD: frozen models whose patch features the tokens are to carry.

A teacher sees the image at the size that gives it the tokenizer's grid, with the statistics it was
trained with. Only the patches of its output are kept, not class tokens and registers.
"""

from __future__ import annotations

import abc
import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from beit.errors import ConfigError
from beit.hardware import raise_if_exhausted
from beit.models.heads import BackboneModel, MaskedImageModel, PretrainedBackbone, weights_digest
from beit.models.layers import layer_norm

Grid = tuple[int, int]


class Teacher(nn.Module, abc.ABC):
    """Images in [0, 1] to a vector per patch; never trained, always in evaluation mode.

    It is tried on a black image, which shows its stride and the length of its vectors.

    Args:
        name: What messages call it.
        model: The network; its parameters are frozen.
        mean: Of each channel of images in [0, 1], as it was trained with.
        std: Standard deviation of each channel, likewise.
        size: Height and width that the model was made for.
        described: What decides its features beside the weights and the modules, in any words.
    """

    mean: Tensor
    std: Tensor
    model: Any  # of another library, or several modules of ours

    def __init__(
        self, name: str, model: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...],
        size: tuple[int, int], described: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.name = name
        self._described = described
        self.model = model.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        with torch.no_grad():
            found = self._map(torch.zeros(1, len(mean), *size))
        self.width = found.shape[1]
        self.stride = size[0] // found.shape[2]

    @abc.abstractmethod
    def _map(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features h w"]:
        """A map of the features of normalised images."""

    @torch.no_grad()
    def forward(
        self, pixels: Float[Tensor, "batch channels height width"], grid: Grid
    ) -> Float[Tensor, "batch patches features"]:
        """The vectors of the patches of a grid, row by row, in float32."""
        size = [side * self.stride for side in grid]
        if list(pixels.shape[2:]) != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
        features: Tensor = self._map((pixels - self.mean) / self.std)
        return features.flatten(2).transpose(1, 2).float()

    def check(self, grid: Grid, channels: int) -> None:
        """Check that it has a vector for each token of images of this kind.

        Raises:
            ConfigError: It reads another number of channels, or cannot have this grid.
        """
        reads = len(self.mean)
        if channels != reads:
            raise ConfigError(
                f"the teacher {self.name} reads {reads} channels, the tokenizer {channels}",
                remedy="give a teacher of images of the same kind",
            )
        size = [side * self.stride for side in grid]
        problem, found = "", list(grid)
        try:
            with torch.no_grad():
                found = list(self._map(torch.zeros(1, reads, *size)).shape[2:])
        except (AssertionError, RuntimeError, ValueError) as error:
            raise_if_exhausted(error)
            problem = str(error).partition("\n")[0]
        if problem or found != list(grid):
            raise ConfigError(
                f"the teacher {self.name} has no grid of {grid[0]} x {grid[1]} patches for "
                f"images of {size[0]} x {size[1]}: {problem or found}",
                remedy="choose the tokenizer's size and patch so that its grid is the teacher's",
            )

    def digest(self) -> str:
        """SHA-256 of everything that decides its features: weights, statistics, and how they are
        used."""
        described = f"{type(self).__name__} {self._described} {self.model} {weights_digest(self)}"
        return hashlib.sha256(described.encode()).hexdigest()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        return super().train(False)


def _in_places(
    tokens: Float[Tensor, "batch tokens features"], height: int, width: int
) -> Float[Tensor, "batch features h w"]:
    """The last h * w tokens, which are the patches, as a map; earlier ones are dropped."""
    found: Tensor = tokens[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
    return found


class OurTeacher(Teacher):
    """A model of ours: the patches of its last block, through the norm that ends its backbone.

    Only pre-trained models have a norm of patches; patches of other models are brought to zero mean
    and unit variance.
    """

    def __init__(self, name: str, model: BackboneModel) -> None:
        config = model.backbone.config
        norm = (
            model.norm
            if isinstance(model, MaskedImageModel | PretrainedBackbone)
            else layer_norm(config.width)
        )
        self._patch = config.patch
        trunk = nn.ModuleDict({"backbone": model.backbone, "norm": norm})
        super().__init__(
            name, trunk, mean=config.mean, std=config.std, size=config.size, described=str(config)
        )

    def _map(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features h w"]:
        trunk: Any = self.model
        patches = trunk["norm"](trunk["backbone"](images).patches)
        return _in_places(patches, images.shape[2] // self._patch, images.shape[3] // self._patch)


class TimmTeacher(Teacher):
    """A model of timm: its last map of features, normed where the model ends with a norm; for CLIP
    through the projection into the space it shares with text."""

    def __init__(self, name: str, model: Any, *, project: bool = False) -> None:
        stated = model.pretrained_cfg
        self._project = project
        super().__init__(
            name, model, mean=tuple(stated["mean"]), std=tuple(stated["std"]),
            size=tuple(stated["input_size"][1:]),
            described=f"{stated.get('architecture')}, projected: {project}",
        )  # fmt: skip

    def _map(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features h w"]:
        (features,) = self.model.forward_intermediates(
            images, indices=1, norm=True, intermediates_only=True, output_fmt="NCHW"
        )
        found: Tensor = features
        if self._project:
            found = self.model.head(found.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return found


class TransformersTeacher(Teacher):
    """A vision model of transformers: the patches of its last hidden state, unchanged; for CLIP
    normed and projected into the space it shares with text."""

    def __init__(
        self, name: str, model: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...],
        size: tuple[int, int], patch: int | None, project: bool,
    ) -> None:  # fmt: skip
        self._patch, self._project = patch, project
        described = f"{getattr(model, 'config', None)}, projected: {project}, patch: {patch}"
        super().__init__(name, model, mean=mean, std=std, size=size, described=described)

    def _map(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features h w"]:
        if self._project:
            hidden: Tensor = self.model.vision_model(images).last_hidden_state
            hidden = self.model.visual_projection(self.model.vision_model.post_layernorm(hidden))
        else:
            hidden = self.model(images).last_hidden_state
        if hidden.ndim == 4:  # convolutional
            return hidden
        assert self._patch is not None
        return _in_places(hidden, images.shape[2] // self._patch, images.shape[3] // self._patch)
