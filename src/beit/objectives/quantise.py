"""Train a quantised tokenizer: rebuild a teacher's features, or the pixels, through codes.

VQ-KD is BEiT v2, section 2.2, eq. 4: the cosine of rebuilt and true features, and the distance of
vectors from their codes. The codes themselves follow by moving averages, between two steps.
"""

from __future__ import annotations

import abc

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from beit.batch import ImageBatch
from beit.config.runs import QuantiseConfig
from beit.errors import ConfigError
from beit.objectives.base import Loss, Objective, entropy
from beit.objectives.targets import patchify
from beit.tokenizers.base import count_codes
from beit.tokenizers.quantised import QuantisedTokenizer
from beit.tokenizers.teachers import Teacher
from beit.tokenizers.token_cache import FeatureBank, Views
from beit.tokenizers.vq import VQTokenizer
from beit.tokenizers.vqkd import VQKDTokenizer


class Quantise(Objective[ImageBatch]):
    """What is rebuilt from codes should be near what they stand for, and vectors near their codes.

    As in the released code, the reconstruction is averaged over tokens and the commitment over all
    values of all vectors, both in float32.
    """

    model: QuantisedTokenizer

    def __init__(self, tokenizer: QuantisedTokenizer, config: QuantiseConfig, *, seed: int) -> None:
        super().__init__()
        self.model = tokenizer
        self.config = config
        self._seed = seed

    @abc.abstractmethod
    def distance(
        self,
        values: Float[Tensor, "batch patches outputs"],
        pixels: Float[Tensor, "batch channels height width"],
        views: Views | None,
    ) -> Float[Tensor, ""]:
        """Mean distance of what was rebuilt from what images in [0, 1] ask for; `views` says
        which they are, where they recur."""

    def forward(self, batch: ImageBatch, progress: float) -> Loss:
        pixels = self.model.pixels(batch.images)
        values, commitment, tokens = self.model(pixels)
        reconstruction = self.distance(values.float(), pixels, batch.views)
        total = reconstruction + self.config.commitment_weight * commitment
        counts = count_codes(tokens.flatten(), self.model.codes)
        terms = {
            "loss": total.detach(),
            "reconstruction": reconstruction.detach(),
            "commitment": commitment.detach(),
            "codes_in_use": (counts > 0).sum().float(),
            "perplexity": entropy(counts.float()).exp(),
        }
        return Loss(total, terms)

    def after_step(self, step: int) -> dict[str, float]:
        self.model.quantize.update()
        every = self.config.revive_every
        if not every or (step + 1) % every:
            return {}
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        return {"codes_revived": float(self.model.quantize.revive(generator))}

    def without_decay(self) -> frozenset[str]:
        return self.model.without_decay()

    def expectations(self) -> dict[str, float]:
        return {"perplexity_limit": float(self.model.codes)}


class VQDistillation(Quantise):
    """VQ-KD: one minus the cosine with the teacher's features of each patch."""

    model: VQKDTokenizer

    def __init__(
        self,
        tokenizer: VQKDTokenizer,
        config: QuantiseConfig,
        teacher: Teacher,
        *,
        seed: int,
        bank: FeatureBank | None = None,
    ) -> None:
        """With a `bank` the teacher is only asked for what it lacks.

        Raises ConfigError if the teacher's vectors have another length, or lie elsewhere.
        """
        super().__init__(tokenizer, config, seed=seed)
        if teacher.width != tokenizer.config.teacher_width:
            raise ConfigError(
                f"the teacher's vectors have {teacher.width} values, and the tokenizer rebuilds "
                f"{tokenizer.config.teacher_width}",
                remedy=f"give the tokenizer a teacher_width of {teacher.width}",
            )
        teacher.check(tokenizer.grid, tokenizer.config.channels)
        self.teacher = teacher
        self._bank = bank

    def distance(
        self,
        values: Float[Tensor, "batch patches outputs"],
        pixels: Float[Tensor, "batch channels height width"],
        views: Views | None,
    ) -> Float[Tensor, ""]:
        return 1 - F.cosine_similarity(values, self._features(pixels, views), dim=2).mean()

    def _features(
        self, pixels: Float[Tensor, "batch channels height width"], views: Views | None
    ) -> Float[Tensor, "batch patches features"]:
        """The teacher's, computed now or before."""
        patch = self.model.config.patch
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        if self._bank is None:
            features: Tensor = self.teacher(pixels, grid)
            return features
        assert views is not None, "a bank is for views that recur"
        kept = self._bank.features(views, lambda missing: self.teacher(pixels[missing], grid))
        return kept.to(pixels.device)


class VQReconstruction(Quantise):
    """VQ without a teacher: squared error of the pixels of each patch, [0, 1] seen as [-1, 1]."""

    model: VQTokenizer

    def distance(
        self,
        values: Float[Tensor, "batch patches outputs"],
        pixels: Float[Tensor, "batch channels height width"],
        _views: Views | None,
    ) -> Float[Tensor, ""]:
        return F.mse_loss(values, patchify(2 * pixels - 1, self.model.config.patch))
